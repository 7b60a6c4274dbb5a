"""What the arrays of a rollout in shared memory are called, and their shapes and types."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from unilab.ipc.shared_memory import segments

FieldSpec = tuple[tuple[int, ...], DTypeLike]
"""shape and dtype of an array"""


def slot_fields(
    num_envs: int, num_steps: int, obs_dim: int, action_dim: int, critic_dim: int = 0
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one rollout's arrays, all float32; N environments, T steps."""
    shapes: dict[str, tuple[int, ...]] = {
        "obs": (num_steps, num_envs, obs_dim),
        "actions": (num_steps, num_envs, action_dim),
        "log_probs": (num_steps, num_envs),
        "rewards": (num_steps, num_envs),
        "dones": (num_steps, num_envs),
        "truncated": (num_steps, num_envs),
        "last_obs": (num_envs, obs_dim),
    }
    if critic_dim > 0:
        shapes |= {"critic": (num_steps, num_envs, critic_dim), "last_critic": (num_envs, critic_dim)}
    return shapes


def float_fields(
    num_envs: int, num_steps: int, obs_dim: int, action_dim: int, critic_dim: int = 0
) -> dict[str, FieldSpec]:
    """The same with their type."""
    shapes = slot_fields(num_envs, num_steps, obs_dim, action_dim, critic_dim)
    return {name: (shape, np.float32) for name, shape in shapes.items()}


def normalized(fields: Mapping[str, FieldSpec]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """The same fields, each type as a dtype object."""
    return {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in fields.items()}


def fields_bytes(fields: Mapping[str, FieldSpec]) -> int:
    """Bytes of one rollout's arrays in shared memory."""
    specs = normalized(fields).values()
    return sum(segments.align(dtype.itemsize * int(np.prod(shape))) for shape, dtype in specs)


def checksum(fields: Mapping[str, FieldSpec]) -> int:
    """Differs, most likely, for other names, shapes or types."""
    return zlib.crc32(repr(normalized(fields)).encode())
