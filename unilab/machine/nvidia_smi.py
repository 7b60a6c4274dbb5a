"""Questions to the NVIDIA driver through its own tool: unlike torch, asking starts no CUDA in this process."""

import os
import shutil
import subprocess

TIMEOUT = 10.0
"""seconds; a driver in trouble can hang"""


def torch_device(index: str) -> str | None:
    """What torch calls the device with this number of the driver; None: torch does not see it, or it is not known.

    ``CUDA_VISIBLE_DEVICES`` chooses and orders devices for torch, and means nothing to the driver's tool.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return f"cuda:{index}"
    names = [name.strip() for name in visible.split(",")]
    return f"cuda:{names.index(index)}" if index in names and all(map(str.isdigit, names)) else None


def query(kind: str, *fields: str) -> list[list[str]]:
    """Rows of ``nvidia-smi --query-KIND=FIELDS``, sizes in MiB; none where there is no driver or it does not answer.

    A field that may contain commas must be the last.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-{kind}={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.split(",", len(fields) - 1) for line in done.stdout.splitlines())
    return [[word.strip() for word in row] for row in rows if len(row) == len(fields)]
