"""Vectors in the frame of a body that unit quaternions turn; of numpy's arrays and torch's alike."""

from types import ModuleType
from typing import Any


def in_body(xp: ModuleType, quaternion: Any, vector: Any) -> Any:
    """[N, 3] ``vector`` [N, 3] of the world as the body sees it, whose orientation is ``quaternion`` [N, 4]."""
    w, x, y, z = (quaternion[:, i] for i in range(4))
    a, b, c = (vector[:, i] for i in range(3))
    # twice the vector product of the inverse rotation's axis and the vector; whole columns take two thirds of the time
    i, j, k = 2 * (z * b - y * c), 2 * (x * c - z * a), 2 * (y * a - x * b)
    return xp.stack([a + w * i + z * j - y * k, b + w * j + x * k - z * i, c + w * k + y * i - x * j], axis=1)


def down_in_body(xp: ModuleType, quaternion: Any) -> Any:
    """[N, 3] the direction of gravity as the body sees it; (0, 0, -1) where it is upright."""
    w, x, y, z = (quaternion[:, i] for i in range(4))
    return xp.stack([2 * (w * y - x * z), -2 * (y * z + w * x), 2 * (x * x + y * y) - 1], axis=1)
