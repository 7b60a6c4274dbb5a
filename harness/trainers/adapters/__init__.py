"""Trainers that are not ours: other packages, which are imported where they train alone."""
