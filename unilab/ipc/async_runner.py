"""What every asynchronous trainer has in common: collectors beside a learner, and one way for all of it to end."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from unilab.ipc.process.group import CollectorGroup


class AsyncRunner(CollectorGroup, ABC):
    """Base of the runners: owns the collector processes; ``learn`` is the trainer's own loop.

    A runner is a context manager. Leaving it ends the collectors and raises what one of them failed with, unless
    another exception is already on its way.

    Args:
        env_name: registered environment, module:attribute or gymnasium id.
        env_cfg_overrides: overrides of the environment's own settings.
        rl_cfg: the trainer's settings.
        device: the learner's device; None: cpu.
        collector_device: the collector's device; None: cpu.
        sim_backend: physics behind the environment.
        num_envs: environments stepped together.
    """

    def __init__(
        self,
        env_name: str,
        env_cfg_overrides: Mapping[str, Any] | None,
        rl_cfg: Mapping[str, Any],
        *,
        device: str | None = None,
        collector_device: str | None = None,
        sim_backend: str = "mujoco",
        num_envs: int = 4096,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        super().__init__()
        self.env_name = env_name
        self.env_cfg_overrides = dict(env_cfg_overrides or {})
        self.rl_cfg = rl_cfg
        self.device = device or "cpu"
        self.collector_device = collector_device or "cpu"
        self.sim_backend = sim_backend
        self.num_envs = num_envs

    @abstractmethod
    def learn(self, max_iterations: int, save_interval: int = 50, log_dir: str = "logs") -> Any:
        """Train for ``max_iterations``, with a checkpoint every ``save_interval``, writing to ``log_dir``."""

    def close(self) -> None:
        """End the collectors (idempotent). Subclasses free their shared memory after this."""
        self.stop_collectors()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None and not self._raised:
            self.check_collectors()
