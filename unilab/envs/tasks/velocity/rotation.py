"""Vectors in the frame of a body that unit quaternions turn; of numpy's arrays and torch's alike."""

from types import ModuleType
from typing import Any


def in_body(xp: ModuleType, quaternion: Any, vector: Any) -> Any:
    """[N, 3] ``vector`` [N, 3] of the world as the body sees it, whose orientation is ``quaternion`` [N, 4]."""
    w, axis = quaternion[:, :1], -quaternion[:, 1:]
    twice = 2 * cross(xp, axis, vector)
    return vector + w * twice + cross(xp, axis, twice)


def down_in_body(xp: ModuleType, quaternion: Any) -> Any:
    """[N, 3] the direction of gravity as the body sees it; (0, 0, -1) where it is upright."""
    w, x, y, z = (quaternion[:, i] for i in range(4))
    return xp.stack([2 * (w * y - x * z), -2 * (y * z + w * x), 2 * (x * x + y * y) - 1], axis=1)


def cross(xp: ModuleType, a: Any, b: Any) -> Any:
    """[N, 3] the vector product; numpy's own takes ten times as long."""
    return xp.stack(
        [
            a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1],
            a[:, 2] * b[:, 0] - a[:, 0] * b[:, 2],
            a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0],
        ],
        axis=1,
    )
