"""What trains with other packages: imported by the process that does, and by no other."""
