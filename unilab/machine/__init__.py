"""Devices, cores, threads and cgroups of this machine."""
