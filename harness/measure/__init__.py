"""One repeat: its process, steady window, interference, interleaving, peak memory, host, provenance and record."""
