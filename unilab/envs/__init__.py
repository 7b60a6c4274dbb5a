"""Batched environments: ``make(name, num_envs)`` gives a ``VecEnv``."""

from unilab.envs.registry import make, names, register
from unilab.envs.vec_env import SimulationFault, StepResult, VecEnv

__all__ = ["SimulationFault", "StepResult", "VecEnv", "make", "names", "register"]
