"""Trainers that are not ours: other packages, each trained in a process of its own."""
