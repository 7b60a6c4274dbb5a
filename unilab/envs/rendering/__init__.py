"""Environments to look at: pictures, videos and a window."""
