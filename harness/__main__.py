"""``python -m harness``, and the installed command."""

import gc
import sys
from pathlib import Path

from harness.cli import main


def command() -> int:
    """What is installed as ``unilab-harness``: as ``python -m harness`` it finds modules in the working directory."""
    here = str(Path.cwd())
    if not sys.flags.safe_path and here not in sys.path:
        sys.path.insert(0, here)
    return run()


def run() -> int:
    """The command line. At its end the objects of the libraries are left to the system: to look through them for
    garbage takes half a second where PyTorch is loaded."""
    try:
        return main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(run())
