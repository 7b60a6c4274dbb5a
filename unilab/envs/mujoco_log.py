"""Where MuJoCo's warnings go."""

from collections.abc import Iterator
from contextlib import contextmanager

import mujoco


def keep_warnings_out_of_files() -> None:
    """Stop MuJoCo from appending to MUJOCO_LOG.TXT in the working directory; a file that the user chose stays."""
    log = mujoco.MjLogConfig.get()
    if log.logfile == "MUJOCO_LOG.TXT":
        log.logto_file = False
        mujoco.MjLogConfig.set(log)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings on the console, for compiling models of installed packages: their user cannot mend them."""
    log = mujoco.MjLogConfig.get()
    before, log.logto_console = log.logto_console, False
    mujoco.MjLogConfig.set(log)
    try:
        yield
    finally:
        log.logto_console = before
        mujoco.MjLogConfig.set(log)
