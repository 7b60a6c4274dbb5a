"""MuJoCo's viewer, on an environment that is being stepped."""

import os
import time
from types import TracebackType
from typing import Any, Self

from unilab.envs.rendering.offscreen import RenderingError
from unilab.envs.vec_env import VecEnv


class Window:
    """Shows the first environment at the simulation's own speed: call it with the environment after each step.

    When the window is closed, the steps go on without it.

    Raises:
        RenderingError: there is no display.
    """

    def __init__(self) -> None:
        if not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
            raise RenderingError("there is no display for a window here (DISPLAY is not set); write a video instead")
        self._viewer: Any = None

    def __call__(self, env: VecEnv) -> None:
        import mujoco
        import mujoco.viewer

        from unilab.envs.rendering.pictures import aim, place, simulated

        shown = simulated(env)
        if self._viewer is None:
            self._model = shown.visible_model()
            self._data = mujoco.MjData(self._model)
            place(shown, 0, self._model, self._data)
            self._viewer = mujoco.viewer.launch_passive(
                self._model, self._data, show_left_ui=False, show_right_ui=False
            )
            with self._viewer.lock():
                aim(self._viewer.cam, self._model, self._data)
            self._next = time.monotonic()
        if not self._viewer.is_running():
            return
        with self._viewer.lock():
            place(shown, 0, self._model, self._data)
            self._viewer.user_scn.ngeom = 0
            shown.annotate(self._viewer.user_scn, 0)
        self._viewer.sync()
        self._next += shown.dt
        time.sleep(max(0.0, self._next - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._viewer is not None:
            self._viewer.close()
