"""Tests and intervals: pure functions."""
