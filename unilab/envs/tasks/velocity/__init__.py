"""Robots on legs that follow commanded velocities."""
