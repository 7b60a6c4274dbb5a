"""What the runners of all algorithms share: settings and threads, and ``learn``."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Self

from unilab.algos.torch.evaluate import mean_return
from unilab.ipc import AsyncRunner
from unilab.machine.cores import kept_to, sets
from unilab.machine.devices import Threads, check_device, current_device, split_threads, usable_cores
from unilab.machine.loading import loading
from unilab.machine.thread_team import torch_threads_kept
from unilab.run.checkpoint import Checkpoints
from unilab.run.loop import OnIteration, TrainingRun, train
from unilab.run.progress import Summary
from unilab.tracing.spans import timeline, with_folder


class Runner(AsyncRunner):
    """Trains with one configuration, as often as ``learn`` is called.

    Attributes:
        config: all settings, the numbers of threads and the cores of both sides included.
        threads: of physics, inference and learner.
    """

    run_type: ClassVar[type[TrainingRun]]
    """one call of ``learn``"""
    config: Any
    threads: Threads

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """A runner for a complete configuration; raises as the class does."""
        runner = cls.__new__(cls)
        runner._settle(config)
        return runner

    def _settle(self, config: Any, threads: Threads | None = None) -> None:
        """Take this configuration, and divide the usable cores as it says, unless ``threads`` does.

        Raises:
            DeviceError: a device that this machine does not have.
            SettingsError: cores that are not there.
        """
        self.threads = threads = threads or split_threads(config, usable_cores())
        check_device(config.learner_device, "learner_device")
        check_device(config.collector_device, "collector_device")
        numbers = {"env_threads": threads.env, "inference_threads": threads.inference}
        collector_cores, self._cores = sets(config)
        sides = {"collector_cores": collector_cores, "learner_cores": self._cores}
        self.config = dataclasses.replace(config, **numbers, **sides, learner_threads=threads.learner)
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
                resumed = None if resume is None else Path(resume)
                run = self.run_type(self, config, log_dir, resumed, logger_type, mean_return)
            return train(
                run,
                self,
                checkpoints,
                max_iterations=max_iterations,
                max_seconds=max_seconds,
                on_iteration=on_iteration,
            )
