"""One training run: its configuration and its folder."""
