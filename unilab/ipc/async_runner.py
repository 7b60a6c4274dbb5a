"""What every asynchronous trainer has in common: collectors beside a learner, and one way for all of it to end."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from unilab.ipc.process.group import CollectorGroup
from unilab.ipc.shared_memory.wakeup import Deadline, SharedFlag

END_SECONDS = 4.0
"""in which collectors must answer and end once a signal has asked for the end; the learner has the rest of 5 s"""


class AsyncRunner(ABC):
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

    Attributes:
        ctx: the multiprocessing context (spawn) for what collectors share.
        stop_event: asks the collectors to stop; pass it to them. Has is_set, set and wait, and no lock inside.
        interrupt: set when a collector has failed; for ``wait_for_data(unless=runner.interrupt)``.
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
        self.env_name = env_name
        self.env_cfg_overrides = dict(env_cfg_overrides or {})
        self.rl_cfg = rl_cfg
        self.device = device or "cpu"
        self.collector_device = collector_device or "cpu"
        self.sim_backend = sim_backend
        self.num_envs = num_envs
        self._collectors = CollectorGroup()
        self._end: Deadline | None = None
        self._raised = False

    @property
    def ctx(self) -> SpawnContext:
        return self._collectors.context

    @property
    def stop_event(self) -> SharedFlag:
        return self._collectors.stop_event

    @property
    def interrupt(self) -> SharedFlag:
        return self._collectors.interrupt

    @abstractmethod
    def learn(self, max_iterations: int, save_interval: int = 50, log_dir: str = "logs") -> Any:
        """Train for ``max_iterations``, with a checkpoint every ``save_interval``, writing to ``log_dir``."""

    def start_collector(
        self,
        target: Callable[..., object],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        *,
        log: Path | None = None,
    ) -> BaseProcess:
        """Start ``target(*args, **kwargs)`` in a spawned process; it must run until ``stop_event`` is set.

        SIGINT and SIGTERM do not reach it: this process acts on them. It ends when this process does. Its output goes
        to the file ``log`` (None: to this process' output). SIGUSR1 makes it write its stacks there.
        """
        return self._collectors.start(target, args, kwargs, name, log=log)

    def check_collectors(self) -> None:
        """Raise if a collector has failed; cheap enough for every minibatch.

        Raises:
            CollectorError: with the original traceback, process id, signal, last env step and log.
        """
        try:
            self._collectors.check()
        except BaseException:
            self._raised = True
            raise

    def seconds_to_end(self, seconds: float) -> float:
        """How long to wait for a collector: ``seconds``, or what is left of END_SECONDS since this was first called
        after a signal (or a failure) had set ``interrupt``."""
        if self._end is None and self.interrupt.is_set():
            self._end = Deadline(END_SECONDS)
        return seconds if self._end is None else min(seconds, self._end.left())

    def stop_collectors(self, deadline_seconds: float = 5.0) -> None:
        """Ask the collectors to stop and wait; what has not ended by the deadline is killed (idempotent).

        After a signal the deadline is that of ``seconds_to_end``. Unless a collector has failed, the runner can start
        collectors again.
        """
        self._collectors.stop(self.seconds_to_end(deadline_seconds))
        self._end = None
        if not self._collectors.failed:
            self._collectors = CollectorGroup()

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
