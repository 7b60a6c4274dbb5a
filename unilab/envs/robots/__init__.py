"""Robots, one file each, and where their models come from."""
