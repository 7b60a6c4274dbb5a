"""Parts of the replay buffer: rows, windows, claims and the mirror on a device."""
