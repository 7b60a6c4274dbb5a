"""Which OpenGL MuJoCo draws with where there is no window. Nothing here loads MuJoCo, which reads the choice then."""

import ctypes.util
import os

from unilab.errors import UserError

LIBRARIES = {"egl": ("EGL", "libegl1 libgl1-mesa-dri"), "osmesa": ("OSMesa", "libosmesa6")}
"""by the value of MUJOCO_GL: the shared library, and Debian's packages with it"""


class RenderingError(UserError):
    """Nothing can be drawn: why not, and what to do."""


def choose() -> None:
    """Set ``MUJOCO_GL``, unless it is set, to a library that is here. It counts if MuJoCo is loaded afterwards.

    Raises:
        RenderingError: there is none, or not the one that is set.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted == "glfw":
        return
    if wanted and wanted not in LIBRARIES:
        raise RenderingError(f"MUJOCO_GL={wanted}: MuJoCo draws with {', '.join(LIBRARIES)} or glfw; unset it")
    names = [wanted] if wanted else [*LIBRARIES]
    here = [name for name in names if ctypes.util.find_library(LIBRARIES[name][0])]
    if not here:
        install = ", or ".join(f"apt-get install {LIBRARIES[name][1]} ({name})" for name in names)
        raise RenderingError(
            f"MuJoCo draws without a window by {' or '.join(names)}, which this machine lacks: {install}"
        )
    os.environ["MUJOCO_GL"] = here[0]
