"""Where the repeats of a study run: on this machine, one at a time, or on the nodes of a Ray cluster."""
