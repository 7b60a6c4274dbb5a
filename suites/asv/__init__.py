"""Micro-benchmarks for asv, and the stubs that keep exported studies in its list of benchmarks."""
