"""Spans and timelines."""
