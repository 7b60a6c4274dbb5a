"""What a run will allocate (``estimate``), and what its processes cost besides (``processes``)."""
