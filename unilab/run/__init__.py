"""A training run: loop, checkpoints, progress, metrics, signals, episodes and faults."""
