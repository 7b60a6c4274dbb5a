"""The harness: plans, sweeps, measures and records training configurations on the machine at hand."""
