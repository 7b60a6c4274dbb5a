"""What a task may add to a picture of its simulation."""

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

SHORTEST = 0.02
"""metres below which an arrow is left out"""
WIDTH = 0.02
"""of an arrow, in metres"""


def arrow(scene: mujoco.MjvScene, start: np.ndarray, end: np.ndarray, colour: Sequence[float]) -> None:
    """Add an arrow between two points [3] of the world; colour: red, green, blue and opacity, 0 to 1."""
    if float(np.linalg.norm(end - start)) >= SHORTEST:
        kind = mujoco.mjtGeom.mjGEOM_ARROW
        mujoco.mjv_connector(_add(scene, kind, start, colour), kind, WIDTH, start, end)


def label(scene: mujoco.MjvScene, position: np.ndarray, text: str) -> None:
    """Add a text at a point [3] of the world."""
    _add(scene, mujoco.mjtGeom.mjGEOM_LABEL, position, (1.0, 1.0, 1.0, 1.0)).label = text


def _add(scene: mujoco.MjvScene, kind: mujoco.mjtGeom, position: np.ndarray, colour: Sequence[float]) -> Any:
    if scene.ngeom == scene.maxgeom:
        raise ValueError(f"the picture is full: it has {scene.maxgeom} geoms already")
    geom = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(geom, kind, np.full(3, WIDTH), position, np.eye(3).ravel(), np.array(colour, np.float32))
    scene.ngeom += 1
    return geom
