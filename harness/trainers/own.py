"""The trainers of this project, as the harness sees them."""

import dataclasses
import functools
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.trainers.remedies import APPO as APPO_REMEDIES
from harness.trainers.remedies import OFF_POLICY as OFF_POLICY_REMEDIES
from harness.trainers.rounds import Cost, Limit, Part, Remedy, Workload
from harness.trainers.trainer import ConfiguredTrainer, KeptPolicy, OnProgress
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.offpolicy.config import CONFIGS as OFF_POLICY
from unilab.algos.torch.offpolicy.config import check as check_off_policy
from unilab.algos.torch.offpolicy.config import divide_threads
from unilab.envs import names
from unilab.envs.unit_actions import require_continuous
from unilab.ipc.memory_budget import MemoryBudget
from unilab.machine.cores import sets
from unilab.machine.devices import available_devices, computes_bfloat16, cores_of_sides, split_threads, usable_cores
from unilab.machine.loading import loading
from unilab.run.config import RunConfig
from unilab.run.progress import Summary

if TYPE_CHECKING:  # runners load torch, which takes longer than a wrong suite may take to be refused
    from unilab.algos.torch.appo.runner import APPORunner
    from unilab.algos.torch.offpolicy.runner import OffPolicyRunner
    from unilab.envs.sizes import EnvSizes

ALL = 2**31
"""more checkpoints, and more iterations, than any run has"""


class OwnTrainer(ConfiguredTrainer):
    """A trainer of this project: its settings are what its runner and its budget take.

    It describes its rounds (``harness.trainers.rounds.Describes``).
    """

    device_settings = ("collector_device", "learner_device")
    known_remedies: Mapping[Limit, Sequence[Remedy]]
    """see ``Describes.remedies``"""

    def idle(self, settings: Mapping[str, Any]) -> frozenset[str]:
        """Also a number of threads where it is the number that a side has by its cores anyway."""
        config = self.config(settings)
        given = split_threads(dataclasses.replace(config, env_threads=None, learner_threads=None), usable_cores())
        sides = zip(("env_threads", "learner_threads"), cores_of_sides(config), (given.env, given.learner), strict=True)
        same = (name for name, own, count in sides if own is not None and getattr(config, name) in (None, count))
        return frozenset([*config.idle, *same])

    def check_together(self, settings: Mapping[str, Any]) -> None:
        sets(self.config(settings))

    def placements(self, settings: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
        """Compilation is among them for a GPU alone: it takes half a minute at each start, and did not pay on CPUs."""
        config, cores = self.config(settings), usable_cores()
        parts = sorted({cores * quarters // 4 for quarters in (1, 2, 3)} - {0})
        found: dict[str, Sequence[Any]] = {
            "collector_device": ("cpu", "cuda"),
            "learner_device": ("cpu", "cuda"),
            "learner_dtype": ("float32", "bfloat16") if computes_bfloat16() else ("float32",),
            "collector_cores": (None, *parts),
            "learner_cores": (None, *parts),
            "env_threads": (None, *parts),
            "learner_threads": (None, *(count for count in parts if count <= config.most_learner_threads)),
        }
        if "cuda" in available_devices():
            found["algorithm.enable_compile"] = (False, True)
        return found

    def threads(self, settings: Mapping[str, Any]) -> dict[str, int]:
        return dataclasses.asdict(split_threads(self.config(settings), usable_cores()))

    def budget(self, settings: Mapping[str, Any]) -> MemoryBudget:
        with loading():
            from unilab.algos.torch.memory.estimate import estimate

        config = self.config(settings)
        return estimate(config, _env_sizes(config))

    def remedies(self, limit: Limit) -> Sequence[Remedy]:
        return self.known_remedies.get(limit, ())

    @abstractmethod
    def runner(self, settings: Mapping[str, Any]) -> "APPORunner | OffPolicyRunner":
        """The runner that trains with ``settings``."""

    def run(
        self,
        settings: Mapping[str, Any],
        on_progress: OnProgress,
        *,
        log_dir: Path,
        max_iterations: int,
        save_interval: int = 50,
        keep_seconds: float | None = None,
        **limits: Any,
    ) -> Summary:
        if keep_seconds is not None:  # by time alone
            settings, save_interval = {**settings, "save_seconds": keep_seconds, "keep_checkpoints": ALL}, ALL
        with self.runner(settings) as runner:
            return runner.learn(max_iterations, save_interval, str(log_dir), on_iteration=on_progress, **limits)

    def evaluate(self, settings: Mapping[str, Any], log_dir: Path, episodes: int) -> float:
        with loading():
            from unilab.algos.torch.evaluate import evaluate

        return float(evaluate(log_dir, episodes, self.config(settings).seed)["return_mean"])

    def kept(self, settings: Mapping[str, Any], log_dir: Path) -> Sequence[KeptPolicy]:
        with loading():
            from unilab.algos.torch.evaluate import judge_checkpoint

        checkpoints = sorted(log_dir.glob("checkpoint-*.pt"), key=lambda path: int(path.stem.rpartition("-")[2]))
        seed = self.config(settings).seed
        return [functools.partial(judge_checkpoint, path, seed=seed) for path in checkpoints]


class APPOTrainer(OwnTrainer):
    """Asynchronous PPO."""

    config_type = APPOConfig
    known_remedies = APPO_REMEDIES
    learning_code = tuple(f"unilab.algos.torch.appo.{name}" for name in ("learner", "runner", "worker"))

    def check_environment(self, settings: Mapping[str, Any]) -> None:
        config = self.config(settings)
        if not (isinstance(config.network.actor, tuple) and isinstance(config.network.critic, tuple)):
            from unilab.algos.torch.appo.actor_critic import build_networks

            build_networks(config, _env_sizes(config).dims)

    def placements(self, settings: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
        ring = {"num_slots": (1, 2, 4), "when_full": ("wait", "drop_oldest")}
        return {"mode": ("async", "sync"), **ring, **super().placements(settings)}

    def warmup_iterations(self, settings: Mapping[str, Any]) -> int:
        """Each iteration learns from one rollout, and so many fill the ring."""
        config = self.config(settings)
        return config.num_slots if config.mode == "async" else 1

    def workload(self, settings: Mapping[str, Any], cores: int) -> Workload:
        from harness.trainers.costs import appo

        return appo.workload(self.config(settings), cores)

    def measure_alone(self, part: Part) -> Cost:
        from harness.trainers.costs import appo

        return appo.measure(part)

    def runner(self, settings: Mapping[str, Any]) -> "APPORunner":
        with loading():
            from unilab.algos.torch.appo.runner import APPORunner

        return APPORunner.from_config(self.config(settings))


class OffPolicyTrainer(OwnTrainer):
    """SAC or TD3, as ``algorithm`` says.

    Its warm-up waits for nothing: progress begins with learning, when the replay buffer holds what ``learning_starts``
    asks for. To wrap a million transitions would take minutes, and rows are drawn and written one way however many
    there are; what is left out is that draws from a fuller buffer find less of it in the processor's caches.
    """

    known_remedies = OFF_POLICY_REMEDIES
    algorithm: Literal["sac", "td3"]

    def __init__(self) -> None:
        self.config_type = OFF_POLICY[self.algorithm]
        names = (self.algorithm, "runner", "worker")
        self.learning_code = tuple(f"unilab.algos.torch.offpolicy.{name}" for name in names)

    def check_together(self, settings: Mapping[str, Any]) -> None:
        super().check_together(settings)
        check_off_policy(self.config(settings))

    def check_environment(self, settings: Mapping[str, Any]) -> None:
        config = self.config(settings)
        if config.env not in names():
            require_continuous(config.env, _env_sizes(config).dims, type(config).__name__.removesuffix("Config"))
        if not (isinstance(config.network.actor, tuple) and isinstance(config.network.critic, tuple)):
            from unilab.algos.torch.offpolicy.learner import build_networks

            build_networks(config, _env_sizes(config).dims)

    def threads(self, settings: Mapping[str, Any]) -> dict[str, int]:
        """Those of all worker processes together. Workers of a Ray cluster have cores of their own, one each."""
        config = self.config(settings)
        threads = divide_threads(config, usable_cores())
        count = config.workers.count if config.workers.kind == "processes" else 1
        return {"env": count * threads.env, "inference": count * threads.inference, "learner": threads.learner}

    def placements(self, settings: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
        return {"pipeline": ("auto", "prefetch"), **super().placements(settings)}

    def pausable(self, settings: Mapping[str, Any]) -> bool:
        return super().pausable(settings) and self.config(settings).workers.kind != "ray"

    def workload(self, settings: Mapping[str, Any], cores: int) -> Workload:
        from harness.trainers.costs import offpolicy

        return offpolicy.workload(self.config(settings), cores)

    def measure_alone(self, part: Part) -> Cost:
        from harness.trainers.costs import offpolicy

        return offpolicy.measure(part, self.algorithm)

    def runner(self, settings: Mapping[str, Any]) -> "OffPolicyRunner":
        with loading():
            from unilab.algos.torch.offpolicy.runner import OffPolicyRunner

        return OffPolicyRunner.from_config(self.config(settings))


class SACTrainer(OffPolicyTrainer):
    """Soft actor-critic."""

    algorithm = "sac"


class TD3Trainer(OffPolicyTrainer):
    """Twin delayed DDPG."""

    algorithm = "td3"


def _env_sizes(config: RunConfig) -> "EnvSizes":
    """The sizes of its environment, asked once: a plan needs them for hundreds of configurations."""
    return _sizes_of(config.env, json.dumps(config.env_cfg, sort_keys=True), config.sim_backend)


@functools.cache
def _sizes_of(env: str, env_cfg: str, sim_backend: str) -> "EnvSizes":
    from unilab.envs.sizes import env_sizes

    return env_sizes(env, json.loads(env_cfg), sim_backend)
