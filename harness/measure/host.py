"""What the measurements were made on: the machine's description for records, manifests and people."""

import hashlib
import json
import os
import platform
import re
import shutil
import textwrap
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from unilab.machine.cgroups import memory_limit
from unilab.machine.devices import processor, usable_cores
from unilab.machine.nvidia_smi import query

PACKAGES = ("torch", "numpy", "mujoco", "gymnasium", "optuna", "pandas", "ray")


def describe() -> dict[str, Any]:
    """The machine as a dictionary that JSON can hold; sizes in bytes. Takes well under a second, loads no torch.

    GPUs are those that NVIDIA's driver lists; the size of memory that one shares with the CPU is None.
    """
    memory = psutil.virtual_memory()
    limit = memory_limit()
    cpu, features = processor()
    shm = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else None
    gpus = []
    for index, total, free, driver, name in query(
        "gpu", "index", "memory.total", "memory.free", "driver_version", "name"
    ):
        sizes = [int(text) * 2**20 if text.isdigit() else None for text in (total, free)]
        gpu = {"index": int(index), "name": name, "memory_total": sizes[0], "memory_free": sizes[1], "driver": driver}
        gpus.append(gpu)
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):  # an extra that is not installed
            versions[package] = metadata.version(package)
    return {
        "name": platform.node(),
        "cpu": cpu,
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": os.cpu_count(),
        "cores_usable": usable_cores(),
        "cpu_features": features,
        "ram_total": min(memory.total, limit.limit) if limit else memory.total,
        "ram_available": min(memory.available, limit.free) if limit else memory.available,
        "shm_total": shm.total if shm else None,
        "shm_free": shm.free if shm else None,
        "gpus": gpus,
        "os": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }


def fingerprint(machine: dict[str, Any] | None = None) -> str:
    """A short name for records, such as ``node7-3f9a2c``: equal while host name and hardware stay the same.

    Records of two machines that share a host name differ in the last six digits; versions of software do not count.
    """
    machine = machine or describe()
    host = re.sub(r"[^a-z0-9]+", "-", machine["name"].split(".")[0].lower()).strip("-")
    return f"{host or 'machine'}-{hardware(machine)}"


def hardware(machine: dict[str, Any]) -> str:
    """Six digits that machines share whose processor, cores, memory and accelerators are the same."""
    parts = {
        "cpu": machine["cpu"],
        "cores": machine["cores_usable"],
        "ram_gib": round(machine["ram_total"] / 2**30),
        "gpus": [gpu["name"] for gpu in machine["gpus"]],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:6]


def versions_text(machine: dict[str, Any]) -> str:
    """The packages that matter, as records have them: "torch 2.13.0, mujoco 4.0.0"."""
    return ", ".join(f"{name} {version}" for name, version in machine["versions"].items())


def rows(machine: dict[str, Any]) -> dict[str, str]:
    """The description for people."""
    shm = machine["shm_total"]
    gpus = [f"{gpu['name']}, {_size(gpu['memory_total'])}" for gpu in machine["gpus"]]
    cores = f"{machine['cores_physical'] or '?'} physical, {machine['cores_logical']} logical"
    return {
        "machine": f"{machine['name']} ({fingerprint(machine)})",
        "system": f"{machine['os']}, {machine['architecture']}",
        "cpu": machine["cpu"],
        "cores": f"{cores}, {machine['cores_usable']} usable",
        "features": " ".join(machine["cpu_features"]) or "-",
        "memory": f"{_size(machine['ram_total'])}, {_size(machine['ram_available'])} available",
        "/dev/shm": "absent" if shm is None else f"{_size(shm)}, {_size(machine['shm_free'])} free",
        "gpu": "; ".join(gpus) or "none",
        "python": machine["python"],
        "packages": versions_text(machine),
    }


def table(machine: dict[str, Any]) -> str:
    """``rows`` as text, at most 80 columns wide."""
    indent = " " * 11
    return "\n".join(
        textwrap.fill(f"{key:<10} {value}", 80, subsequent_indent=indent) for key, value in rows(machine).items()
    )


def _size(size: int | None) -> str:
    return "unknown size" if size is None else f"{size / 2**30:.1f} GiB"
