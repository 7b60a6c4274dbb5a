"""Pictures of a batch's simulations, drawn without a window by one ``mujoco.Renderer``."""

import copy
import math

import mujoco
import numpy as np
from numpy.typing import NDArray

from unilab.envs.mujoco_env import MujocoVecEnv
from unilab.envs.rendering.offscreen import RenderingError
from unilab.envs.vec_env import VecEnv

MOST = 4
"""environments in one picture"""
WIDTH, HEIGHT = 480, 360
"""pixels of each"""
AZIMUTH, ELEVATION = 130.0, -15.0
"""degrees, from where the camera looks"""
DISTANCE = 2.6
"""of the camera, in radii of what it looks at"""


class Pictures:
    """The first environments side by side, each with a camera that follows it.

    Call ``close`` at the end, in the same thread.

    Args:
        env: whose simulations are drawn.

    Raises:
        RenderingError: there is no simulation of MuJoCo to be drawn, or OpenGL does not work here.
    """

    def __init__(self, env: VecEnv) -> None:
        self._env = simulated(env)
        self._model = copy.copy(self._env.visible_model())
        self._model.vis.quality.offsamples = 0  # smooth edges and shadows take nine tenths of the time without a GPU
        self._data = mujoco.MjData(self._model)
        count = min(MOST, env.num_envs)
        self._columns = math.ceil(math.sqrt(count))
        rows = math.ceil(count / self._columns)
        self._picture = np.zeros((rows * HEIGHT, self._columns * WIDTH, 3), np.uint8)
        self._count = count
        try:
            self._renderer = mujoco.Renderer(self._model, HEIGHT, WIDTH)
        except (mujoco.FatalError, ImportError, AttributeError, RuntimeError) as error:
            raise RenderingError(
                f"MuJoCo cannot draw here ({type(error).__name__}: {error}). Without a window it draws with EGL "
                "(MUJOCO_GL=egl; apt-get install libegl1 libgl1-mesa-dri) or with OSMesa (MUJOCO_GL=osmesa; apt-get "
                "install libosmesa6); the variable counts when Python starts"
            ) from error
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW.value] = False
        self._camera = mujoco.MjvCamera()
        place(self._env, 0, self._model, self._data)
        aim(self._camera, self._model, self._data)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the whole picture, in pixels."""
        return self._picture.shape[:2]

    def draw(self) -> NDArray[np.uint8]:
        """The picture of this moment, [height, width, 3] red, green, blue; the same array each time."""
        for row in range(self._count):
            place(self._env, row, self._model, self._data)
            self._renderer.update_scene(self._data, self._camera)
            self._env.annotate(self._renderer.scene, row)
            top, left = HEIGHT * (row // self._columns), WIDTH * (row % self._columns)
            self._picture[top : top + HEIGHT, left : left + WIDTH] = self._renderer.render()
        return self._picture

    def close(self) -> None:
        """Release OpenGL's memory."""
        self._renderer.close()


def simulated(env: VecEnv) -> MujocoVecEnv:
    """The environment, if there is a simulation of MuJoCo in it.

    Raises:
        RenderingError: there is none.
    """
    if not isinstance(env, MujocoVecEnv):
        raise RenderingError(f"{type(env).__name__} has no simulation of MuJoCo that could be drawn; leave it out")
    return env


def place(env: MujocoVecEnv, row: int, model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Put the positions of the row into ``data``, of the visible model, and compute where everything is."""
    data.qpos[:], data.qvel[:] = env.qpos[row], env.qvel[row]
    mujoco.mj_forward(model, data)


def aim(camera: mujoco.MjvCamera, model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Let the camera follow the first body, so far away that all that is not the world's is to be seen."""
    mujoco.mjv_defaultFreeCamera(model, camera)
    camera.azimuth, camera.elevation = AZIMUTH, ELEVATION
    geoms = model.geom_bodyid > 0
    if geoms.any():
        distances = np.linalg.norm(data.geom_xpos[geoms] - data.xpos[1], axis=1)
        camera.type, camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, 1
        camera.distance = DISTANCE * float((distances + model.geom_rbound[geoms]).max())
