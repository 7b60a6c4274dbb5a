"""What the harness reads and writes: YAML with the positions of lines, locks."""
