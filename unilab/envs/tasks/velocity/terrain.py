"""Ground that is not flat: heights on a grid that repeats itself, so that a robot never comes to an edge."""

from typing import Any, Literal

import mujoco
import numpy as np
from scipy.ndimage import maximum_filter, uniform_filter

Terrain = Literal["flat", "rough", "stairs"]
CELL = 0.05
"""metres between two heights"""
PERIOD = 8.0
"""metres after which the ground repeats itself, along both axes"""
MARGIN = 1.0
"""metres that the field goes on beyond one period: a robot's feet may be there while its trunk is not"""
PATCH = 4
"""cells of a bump of rough ground"""
TREAD, PLATEAU = 0.3, 1.0
"""metres: depth of a stair, and half the width of the place on top of the stairs"""
REACH = 0.5
"""metres from the trunk to the farthest foot; a robot starts above the highest ground within them"""


class Ground:
    """Heights of the ground, [P, P] of one period, in metres; row y, column x.

    Rough ground has bumps of 20 cm, up to ``height``. Stairs are pyramids with steps of ``height``.
    """

    def __init__(self, kind: Terrain, height: float) -> None:
        count = round(PERIOD / CELL)
        if kind == "stairs":
            along = abs((np.arange(count) * CELL + PERIOD / 2) % PERIOD - PERIOD / 2)
            away = np.maximum(along[:, None], along[None])
            self.heights = height * np.floor((PERIOD / 2 - np.maximum(away, PLATEAU)) / TREAD)
        else:
            bumps = np.random.default_rng(0).uniform(0, height, (count // PATCH, count // PATCH))
            self.heights = uniform_filter(np.kron(bumps, np.ones((PATCH, PATCH))), 3, mode="wrap")
        self.heights -= self.heights.min()
        self._highest = maximum_filter(self.heights, round(2 * REACH / CELL), mode="wrap")

    def add_to(self, spec: Any, **geom: Any) -> None:
        """Add the field to a model's world, as a geom with these attributes."""
        half, top = PERIOD / 2 + MARGIN, float(self.heights.max())
        beside = np.arange(-round(half / CELL), round(half / CELL) + 1) % len(self.heights)
        name = spec.add_hfield(
            name="terrain",
            nrow=beside.size,
            ncol=beside.size,
            size=[half, half, top, 1.0],
            userdata=(self.heights[np.ix_(beside, beside)] / top).ravel(),
        ).name
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_HFIELD, hfieldname=name, **geom)

    def under(self, places: np.ndarray) -> np.ndarray:
        """[...] height of the ground at each of ``places`` [..., 2], to the nearest cell."""
        return _at(self.heights, places)

    def highest(self, places: np.ndarray) -> np.ndarray:
        """[...] largest height that a robot whose trunk is at each of ``places`` [..., 2] stands on."""
        return _at(self._highest, places)


def _at(grid: np.ndarray, places: np.ndarray) -> np.ndarray:
    cells = np.rint(places / CELL).astype(np.int64) % len(grid)
    return grid[cells[..., 1], cells[..., 0]]


def periods(places: np.ndarray) -> np.ndarray:
    """[..., 2] metres, in whole periods, by which ``places`` [..., 2] are away from the period around the origin."""
    return PERIOD * np.rint(places / PERIOD)
