"""What the runners of all algorithms share: settings and threads, ``learn``, and the run that it makes."""

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from unilab.algos.torch.appo.learner import APPOLearner
from unilab.algos.torch.evaluate import mean_return
from unilab.algos.torch.offpolicy.learner import OffPolicyLearner
from unilab.envs import EnvDims, env_dims
from unilab.ipc import AsyncRunner
from unilab.machine.cores import kept_to, sets
from unilab.machine.devices import Threads, check_device, current_device
from unilab.machine.loading import loading
from unilab.machine.thread_team import torch_threads_kept
from unilab.run.checkpoint import PARTS, Checkpoints, load_checkpoint, restoring, save_checkpoint
from unilab.run.loop import Check, OnIteration, TrainingRun, check_resumable, train
from unilab.run.progress import Summary
from unilab.tracing.spans import timeline, with_folder


class Runner(AsyncRunner):
    """Trains with one configuration, as often as ``learn`` is called.

    Attributes:
        config: all settings, the numbers of threads and the cores of both sides included.
        threads: of physics, inference and learner.
    """

    run_type: ClassVar[type["Run"]]
    """one call of ``learn``"""
    config: Any
    threads: Threads

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """A runner for a complete configuration; raises as the class does."""
        runner = cls.__new__(cls)
        runner._settle(config)
        return runner

    @abstractmethod
    def _settle(self, config: Any) -> None:
        """Check the configuration and call ``_begin_with``."""

    def _begin_with(self, config: Any, threads: Threads) -> None:
        """Take this configuration and these threads.

        Raises:
            DeviceError: a device that this machine does not have.
            SettingsError: cores that are not there.
        """
        check_device(config.learner_device, "learner_device")
        check_device(config.collector_device, "collector_device")
        numbers = {"env_threads": threads.env, "inference_threads": threads.inference}
        collector_cores, self._cores = sets(config)
        sides = {"collector_cores": collector_cores, "learner_cores": self._cores}
        self.config = dataclasses.replace(config, **numbers, **sides, learner_threads=threads.learner)
        self.threads = threads
        super().__init__(
            config.env,
            config.env_cfg,
            dataclasses.asdict(self.config),
            device=config.learner_device,
            collector_device=config.collector_device,
            sim_backend=config.sim_backend,
            num_envs=config.num_envs,
        )

    def learn(
        self,
        max_iterations: int = 1500,
        save_interval: int = 50,
        log_dir: str | Path | None = "logs",
        logger_type: str = "tensorboard",
        *,
        max_seconds: float | None = None,
        on_iteration: OnIteration | None = None,
        resume: str | Path | None = None,
    ) -> Summary:
        """Train until ``max_iterations``, ``max_seconds``, a signal or ``on_iteration`` returning False.

        An iteration of APPO learns from one rollout. One of SAC or TD3 is ``updates_per_step`` updates; steps with
        random actions before the first belong to the first.

        Args:
            max_iterations: in total, those before a resume included.
            save_interval: iterations between checkpoints; 0: only the last one, which is always saved. The default is
                thinned to one every ``save_seconds``. One is due after so many seconds in any case.
            log_dir: for checkpoints and metrics; None writes neither. A run that resumes nothing replaces the
                checkpoints that are there, with its first one.
            logger_type: where metrics go: tensorboard (events), wandb (if it is installed) or csv (``curve.csv``).
            max_seconds: wall time in total, that before a resume included.
            on_iteration: called with the progress after each iteration.
            resume: a checkpoint to continue, with every setting that was changed since; see ``FIXED`` beside the
                class for those that cannot change.

        Raises:
            SettingsError: another ``logger_type``, or, for SAC and TD3, an environment with discrete actions.
            CheckpointError: ``resume`` cannot be read, or was saved with another value of a fixed setting.
            CollectorError, WorkerError: a collector or worker failed or died; the last checkpoint is on disk.
            FloatingPointError: the update became non-finite; likewise.
        """
        config = with_folder(self.config, log_dir)
        checkpoints = Checkpoints(config, log_dir, save_interval, resume)
        with (
            torch_threads_kept(),
            kept_to(self._cores),
            current_device(config.learner_device),
            timeline("learner", config),
        ):
            with loading():  # PyTorch loads its compiler with the first optimizer
                run = self.run_type(self, config, log_dir, None if resume is None else Path(resume), logger_type)
            return train(
                run,
                self,
                checkpoints,
                max_iterations=max_iterations,
                max_seconds=max_seconds,
                on_iteration=on_iteration,
            )


class Run(TrainingRun):
    """One call of ``learn``: a learner, where its experience comes from, and what a checkpoint holds of both."""

    _learner: APPOLearner | OffPolicyLearner

    def __init__(
        self, runner: Any, config: Any, log_dir: str | Path | None, resume: Path | None, logger_type: str
    ) -> None:
        saved: dict[str, Any] | None = None
        self._changed: frozenset[str] = frozenset()
        """settings that are others than those of the checkpoint"""
        if resume is not None:
            saved = load_checkpoint(resume, PARTS)
            self._changed = check_resumable(saved, config, self.fixed(config), resume)
        super().__init__(config, log_dir, saved, logger_type)
        self._runner = runner
        self._log = None if self.directory is None else self.directory / "collector.log"
        dims = env_dims(config.env, config.sim_backend, config.env_cfg)
        with ExitStack() as self._owned:  # if a later step fails, what was made before it is closed
            self._learner = self.make_learner(dims)
            if saved is not None and resume is not None:
                with restoring(resume):
                    self._learner.load_state_dict(saved["learner"])
            self.begin(dims, saved)
            self._owned = self._owned.pop_all()

    @staticmethod
    @abstractmethod
    def fixed(config: Any) -> Sequence[str]:
        """Names of the settings that a run which goes on cannot change."""

    @abstractmethod
    def make_learner(self, dims: EnvDims) -> Any:
        """The learner for environments of these sizes."""

    @abstractmethod
    def begin(self, dims: EnvDims, saved: Mapping[str, Any] | None) -> None:
        """Make the source of experience, and publish the first weights.

        Args:
            saved: the content of the checkpoint that the run goes on from.
        """

    def own(self, part: Any) -> Any:
        """Let ``close`` end this object; the newest is ended first."""
        self._owned.callback(part.close)
        return part

    @contextmanager
    def kept_if_not_finite(self, **more: Any) -> Iterator[None]:
        """Where an update becomes non-finite within, keep the learner, and ``more``, beside the checkpoint."""
        try:
            yield
        except FloatingPointError as error:
            if self.directory is not None:
                path = self.directory / "failed_update.pt"
                save_checkpoint(path, {"learner": self._learner.state_dict(), **more})
                error.add_note(f"{' and '.join(['the learner', *more])} as at the failure: {path}")
            raise

    def play(self, check: Check) -> float:
        return mean_return(self._config, self._learner.get_weights(), check)

    def close(self) -> None:
        self._owned.close()
