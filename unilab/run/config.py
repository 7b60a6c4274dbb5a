"""The settings that runs of all algorithms have, documented once beside their defaults."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from unilab.settings import Output, Placement

STRICT = ConfigDict(extra="forbid")

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
CoreList = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Widths = tuple[PositiveInt, ...]
Description = Widths | str | dict[str, Any]
"""how settings describe a network: widths of the hidden layers of the built-in MLP; or a factory,
``package.module:function``; or a mapping of ``factory`` and of keyword arguments for it"""

SIDES = ("collector_cores", "learner_cores")
"""settings that say where each of two processes runs"""


@dataclass(frozen=True)
class ActorCriticConfig:
    """The actor's network and the critic's."""

    __pydantic_config__ = STRICT

    actor: Description = (256, 256)
    """widths of the hidden layers, or a factory: package.module:function"""
    critic: Description = (256, 256)
    """widths of the critic's hidden layers, or a factory: package.module:function"""


@dataclass(frozen=True)
class RunConfig:
    """Environment, devices, threads and timeline of a run; each algorithm adds its own."""

    __pydantic_config__ = STRICT

    env: str = "HalfCheetah"
    """environment to train in: a task of this project, a gymnasium id, or module:Class"""
    env_cfg: dict[str, Any] = field(default_factory=dict)
    """overrides of the environment's own settings"""
    sim_backend: str = "mujoco"
    """simulator of the environment; mujoco is the only one"""
    num_envs: PositiveInt = 256
    """environments stepped together by the collector"""
    collector_device: Placement[str] = "cpu"
    """device of the collector's policy: cpu, cuda, cuda:1"""
    learner_device: Placement[str] = "cpu"
    """device of the updates: cpu, cuda, cuda:1"""
    collector_cores: Placement[PositiveInt | CoreList | None] = None
    """cores of the collector's process: how many, or a list of their numbers; null: all. Only for a process of its
    own"""
    learner_cores: Placement[PositiveInt | CoreList | None] = None
    """cores of the learner's process: how many, or a list of their numbers; null: all. If there are enough, they are
    not those of the collector. Only for a collector in a process of its own"""
    env_threads: Placement[PositiveInt | None] = None
    """physics threads; by default as the cores allow"""
    inference_threads: Placement[PositiveInt | None] = None
    """threads of the collector's policy; by default as the cores allow"""
    learner_threads: Placement[PositiveInt | None] = None
    """threads of the learner on a CPU; by default as the cores allow. They divide a batch among each other, or each
    operation if batches are small"""
    learner_dtype: Placement[Literal["float32", "bfloat16"]] = "float32"
    """arithmetic of the update's matrix products; parameters stay float32"""
    obs_normalization: bool = True
    """normalize observations by their running mean and variance, which the learner updates and publishes with the
    weights"""
    stagger_episodes: bool = True
    """start the first episodes at random points of the time limit, so that not all end at once"""
    trace_enabled: Output[bool] = False
    """write a timeline of collector and learner that Perfetto opens"""
    trace_output_dir: Output[str | None] = None
    """folder of the timeline; by default the log folder"""
    trace_thread_time: Output[bool] = False
    """also record the processor time of each span"""
    trace_cuda_events: Output[bool] = True
    """also record the time on the device of spans with CUDA work"""
    save_seconds: Output[NonNegativeFloat] = 20.0
    """seconds between two checkpoints"""
    keep_checkpoints: Output[PositiveInt] = 1
    """how many of the newest checkpoints are kept, beside the best one"""
    eval_interval: Output[NonNegativeInt] = 0
    """iterations between evaluations without noise. They decide which checkpoint is the best. 0: no evaluations; the
    returns of the training decide"""
    eval_episodes: Output[PositiveInt] = 16
    """least number of whole episodes of an evaluation"""
    seed: NonNegativeInt = 0
    """seed of the run; every process derives its own from it"""

    @property
    def idle_threads(self) -> tuple[str, ...]:
        """An accelerator learns with one thread, whatever is asked for."""
        return () if self.learner_device == "cpu" else ("learner_threads",)
