"""Which devices exist, how many cores this process may use, and how a run divides them.

torch is imported only when a device other than the CPU is asked about: a plan for a CPU costs no second of import.
"""

import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from unilab.errors import UserError
from unilab.machine.cgroups import cpu_quota
from unilab.machine.nvidia_smi import query

if TYPE_CHECKING:
    import torch

# Core time of one env step of HalfCheetah with networks [256, 256], in microseconds, as measured on two
# AVX-512 cores. Only the ratio to the configurations' learning_cost matters here.
PHYSICS_COST = 27.0
INFERENCE_COST = 3.0

FEW_CORES = 4
"""up to here whole cores are too coarse to divide between collector and learner"""

COLLECTOR_NICENESS = 5

FEATURES = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"),
    *("asimd", "sve", "sve2", "bf16", "i8mm"),
)
"""instruction sets that change how fast matrix products are"""
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""those that multiply matrices of bfloat16"""


Cores = int | tuple[int, ...] | None
"""how many, or which; None: all"""


class ThreadDemand(Protocol):
    """What the division of cores and threads has to know of a configuration."""

    @property
    def learner_device(self) -> str: ...
    @property
    def env_threads(self) -> int | None: ...
    @property
    def inference_threads(self) -> int | None: ...
    @property
    def learner_threads(self) -> int | None: ...
    @property
    def collector_cores(self) -> Cores: ...
    @property
    def learner_cores(self) -> Cores: ...
    @property
    def idle(self) -> tuple[str, ...]:
        """Settings that change nothing beside the others."""

    @property
    def alternates(self) -> bool:
        """Whether collecting and learning take turns."""

    @property
    def learning_cost(self) -> float:
        """Core time of learning from one env step, in microseconds, as ``PHYSICS_COST`` counts it."""

    @property
    def most_learner_threads(self) -> int:
        """Beyond so many data-parallel threads the shares of a minibatch are too small to pay."""


class DeviceError(UserError, ValueError):
    """A device that does not exist on this machine."""


@dataclass(frozen=True)
class Threads:
    """Threads of the physics, of the collector's policy and of the learner."""

    env: int
    inference: int
    learner: int


def available_devices() -> list[str]:
    """Names that ``check_device`` accepts here: cpu, then cuda and cuda:N where torch finds them."""
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return devices


def check_device(name: str, setting: str = "device") -> str:
    """``name`` itself when the device exists.

    Raises:
        DeviceError: it does not; names ``setting`` and the devices that do exist.
    """
    if name == "cpu":
        return name
    devices = available_devices()
    if name in devices:
        return name
    raise DeviceError(f"{setting}: there is no device '{name}' on this machine; use one of: {', '.join(devices)}")


def processor() -> tuple[str, list[str]]:
    """The processor's name, and those of ``FEATURES`` that it has."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    info = {key.strip(): value.strip() for key, _, value in pairs}
    flags = set((info.get("flags") or info.get("Features") or "").split())  # x86, ARM
    name = info.get("model name") or platform.processor() or platform.machine()
    return name, [feature for feature in FEATURES if feature in flags]


def computes_bfloat16() -> bool:
    """Whether matrix products in bfloat16 can be faster than in float32: the processor has them, or there is a GPU."""
    return bool(BFLOAT16.intersection(processor()[1]) or query("gpu", "index"))


@contextmanager
def current_device(name: "str | torch.device") -> Iterator[None]:
    """Make a CUDA device the current one of this thread; nothing happens for other devices.

    Tensors know their device. Streams, graphs, events and page-locked memory belong to the current one.
    """
    import torch

    device = torch.device(name)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        yield


def usable_cores() -> int:
    """Logical cores that this process may keep busy: its affinity, cut to the container's quota; at least 1."""
    cores, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def split_threads(config: ThreadDemand, cores: int) -> Threads:
    """Divide ``cores``; a thread count that ``config`` states is taken as it is."""
    learner_on_cpu = config.learner_device == "cpu"
    if config.alternates:  # the phases alternate, so each may have every core
        env, learner = cores, cores if learner_on_cpu else 1
    elif any(own := cores_of_sides(config)):  # where one side states its cores, the other gets what is left
        env = own[0] or max(1, cores - (own[1] or 0))
        learner = (own[1] or max(1, cores - (own[0] or 0))) if learner_on_cpu else 1
    elif not learner_on_cpu:  # one core feeds the accelerator, all others simulate
        env, learner = max(1, cores - 1), 1
    elif cores <= FEW_CORES:  # neither pool spins, so the operating system shares the cores out better than we can
        env, learner = cores, cores
    elif config.env_threads or config.learner_threads:  # the side that is not stated gets what the other leaves
        env, learner = max(1, cores - (config.learner_threads or 1)), max(1, cores - (config.env_threads or 1))
    else:  # many cores: dedicated ones, because two pools on the same cores would only evict each other's caches

        def seconds_per_step(env: int) -> float:
            """Of the slower side."""
            return max(PHYSICS_COST / env + INFERENCE_COST / max(1, env // 8), config.learning_cost / (cores - env))

        env = min(range(max(1, cores - config.most_learner_threads), cores), key=seconds_per_step)
        learner = cores - env
    env = config.env_threads or env
    # Intra-op threads hardly speed up networks of this size and their pool spins: one suffices until the physics,
    # which costs nine times as much, has eight threads.
    inference = config.inference_threads or max(1, env // 8)
    return Threads(env, inference, config.learner_threads or min(learner, config.most_learner_threads))


def cores_of_sides(config: ThreadDemand) -> tuple[int | None, int | None]:
    """How many cores collector and learner keep to; None: all."""
    if "learner_cores" in config.idle:
        return None, None
    collector, learner = (
        len(set(cores)) if isinstance(cores, tuple) else cores
        for cores in (config.collector_cores, config.learner_cores)
    )
    return collector, learner


def yield_to_learner(config: ThreadDemand) -> None:
    """In the collector's process: where both share cores, let the learner go first. Its threads wait for each other in
    every minibatch, and one that is kept from its core stops them all, while the collector's work is only put off."""
    wanted = (config.env_threads or 1) + (config.learner_threads or 1)
    own, other = config.collector_cores, config.learner_cores
    cores = len({*own, *other}) if isinstance(own, tuple) and isinstance(other, tuple) else usable_cores()
    if config.learner_device == "cpu" and wanted > cores:
        os.nice(COLLECTOR_NICENESS)
