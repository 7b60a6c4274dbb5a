"""What a run will allocate (``estimate``), and what its processes cost beside that (``processes``)."""
