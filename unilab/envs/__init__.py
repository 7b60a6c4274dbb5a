"""Batched environments: ``make(name, num_envs)`` gives a ``VecEnv``."""

from unilab.envs.registry import env_dims, make, names
from unilab.envs.vec_env import EnvDims, EnvironmentMistake, SimulationFault, StepResult, VecEnv

__all__ = [
    "EnvDims",
    "EnvironmentMistake",
    "SimulationFault",
    "StepResult",
    "VecEnv",
    "env_dims",
    "make",
    "names",
]
