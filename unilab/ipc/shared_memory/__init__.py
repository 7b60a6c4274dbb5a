"""Segments of shared memory, and wake-ups between the processes that use them."""
