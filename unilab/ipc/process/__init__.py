"""Processes of a run: how they are started, watched and ended, and how they fail."""
