"""What runs in the processes of other packages, imported there alone."""
