"""The loop that all trainers share: iterate, save, report, stop cleanly."""

import dataclasses
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from unilab.envs import EnvDims, env_dims
from unilab.ipc import AsyncRunner
from unilab.run.checkpoint import (
    PARTS,
    CheckpointError,
    Checkpoints,
    Score,
    load_checkpoint,
    restoring,
    save_checkpoint,
)
from unilab.run.fault_log import FaultLog
from unilab.run.metric_writer import MetricWriter
from unilab.run.progress import WINDOW, CollectorCounters, Progress, Summary
from unilab.run.signals import StopRequested, stop_on_signals
from unilab.settings import SettingsError, flatten, parse
from unilab.tracing.spans import span

OnIteration = Callable[[Progress], bool]
Check = Callable[[], None]
Play = Callable[[Any, Mapping[str, Any], Check], float]


class TrainingRun(ABC):
    """One call of ``learn``: a learner, where its experience comes from, the progress, and what a checkpoint holds.

    Args:
        runner: supervises processes.
        config: the run's settings, a dataclass.
        log_dir: for the checkpoint, metrics and logs; None writes none.
        resume: the checkpoint that is continued.
        logger_type: where metrics go: tensorboard, wandb or csv.
        play: plays whole episodes without noise, with the settings and the actor's weights; their mean return.

    Attributes:
        progress: of the latest iteration.
        score: what the best checkpoint is chosen by, if the latest iteration has one.
        faults: warns of new simulation faults, which a run that waits for data reports itself.
        faults_path: where their states go.
        resumed_at: the iteration that this call goes on from.
    """

    _learner: Any

    def __init__(
        self, runner: Any, config: Any, log_dir: str | Path | None, resume: Path | None, logger_type: str, play: Play
    ) -> None:
        saved: dict[str, Any] | None = None
        self._changed: frozenset[str] = frozenset()
        """settings that are others than those of the checkpoint"""
        if resume is not None:
            saved = load_checkpoint(resume, PARTS)
            self._changed = check_resumable(saved, config, self.fixed(config), resume)
        self._began = time.monotonic()
        self._runner, self._config, self._play = runner, config, play
        self.progress = Progress()
        self.score: Score | None = None
        if saved is not None:
            with restoring():
                self.progress = Progress(**saved["progress"])
        self.resumed_at, self._seconds_before = self.progress.iteration, self.progress.wall_seconds
        self.directory = folder = None if log_dir is None else Path(log_dir)
        self.faults_path = None if folder is None else folder / "faults.jsonl"
        self._log = None if folder is None else folder / "collector.log"
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if resume is None:
                (folder / "faults.jsonl").unlink(missing_ok=True)  # of another run, whose would come first
        self.faults = FaultLog(config.num_envs, self.faults_path)
        with ExitStack() as self._owned:  # if a later step fails, what was made before it is closed
            self._writer = self.own(MetricWriter(folder, logger_type, plain(config)))
            dims = env_dims(config.env, config.sim_backend, config.env_cfg)
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
        """Make the source of experience, and publish the first weights; ``saved`` is what the run goes on from."""

    @abstractmethod
    def iterate(self, check: Check) -> None:
        """Learn once from new experience, publish what was learned, and advance ``progress``.

        ``check`` is called before each update and while waiting; what it raises ends the iteration.
        """

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """What a resumed run needs of learner and collector, beside settings and progress."""

    def own(self, part: Any) -> Any:
        """Let ``close`` end this object; the newest is ended first."""
        self._owned.callback(part.close)
        return part

    def close(self) -> None:
        """End everything that was started; idempotent."""
        self._owned.close()

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

    def evaluate(self, check: Check) -> None:
        """End the iteration: evaluate the policy if that is due, note the score and write the metrics.

        The score is the evaluation that was made, or, where none are asked for, the return of training, once it is a
        mean over enough episodes.
        """
        interval, score = self._config.eval_interval, None
        self.score = None
        try:
            if interval == 0 and self.progress.episodes >= WINDOW:
                score = Score("training", self.progress.episode_return)
            elif interval and self.progress.iteration % interval == 0:
                with span("evaluation"):
                    score = Score("evaluation", self._play(self._config, self._learner.get_weights(), check))
                self.progress = dataclasses.replace(self.progress, eval_return=score.value)
            if score is not None and math.isfinite(score.value):  # nothing would be better than a NaN
                self.score = score
        finally:  # the iteration itself is complete, also when a signal ends the evaluation
            self._writer.write(self.progress)

    def checkpoint(self) -> dict[str, Any]:
        """Name of the trainer, settings, progress and ``content``."""
        return {
            "trainer": trainer_name(self._config),
            "config": plain(self._config),
            "progress": dataclasses.asdict(self.progress),
            **self.content(),
        }

    def advance(self, collector: CollectorCounters, *, waiting_since: float, learning_since: float, **now: Any) -> None:
        """Set ``progress`` at the end of an iteration and report new simulation faults.

        ``waiting_since`` and ``learning_since`` are monotonic times at which the iteration began to wait and to learn;
        ``now`` are updates, samples, env_steps, policy_lag and metrics.
        """
        before, end = self.progress, time.monotonic()
        iteration = before.iteration + 1
        lag = now["policy_lag"]
        metrics = now.pop("metrics")
        self.progress = Progress(
            iteration=iteration,
            collected_env_steps=collector.env_steps,
            wall_seconds=self._seconds_before + end - self._began,
            learner_busy_seconds=before.learner_busy_seconds + end - learning_since,
            learner_wait_seconds=before.learner_wait_seconds + learning_since - waiting_since,
            collector_busy_seconds=collector.busy_seconds,
            collector_wait_seconds=collector.wait_seconds,
            episodes=collector.episodes,
            episode_return=collector.episode_return,
            episode_length=collector.episode_length,
            eval_return=before.eval_return,
            policy_lag_mean=before.policy_lag_mean + (lag - before.policy_lag_mean) / iteration,
            dropped_rollouts=collector.dropped_rollouts,
            metrics=metrics | dict(collector.environment) | {"simulation_faults": float(collector.fault_count)},
            **now,
        )
        self.faults.report(collector)


def train(
    run: TrainingRun,
    runner: AsyncRunner,
    checkpoints: Checkpoints,
    *,
    max_iterations: int,
    max_seconds: float | None,
    on_iteration: OnIteration | None,
) -> Summary:
    """Iterate until ``max_iterations``, ``max_seconds``, a signal or ``on_iteration`` returning False; then save.

    A run that has learned nothing, or nothing since it was resumed, replaces no checkpoint.

    Raises:
        CollectorError: the collector failed or died; the last checkpoint is on disk.
        FloatingPointError: the update became non-finite; likewise.
    """
    stopped_by = "iterations"
    with closing(run), stop_on_signals(runner.interrupt) as signals:

        def check() -> None:
            runner.check_collectors()
            signals.check()

        try:
            while run.progress.iteration < max_iterations:
                run.iterate(check)
                run.evaluate(check)
                progress = run.progress
                if checkpoints.due(progress.iteration, run.score):
                    checkpoints.save(run.checkpoint(), progress.iteration, run.score)
                if on_iteration is not None and not on_iteration(progress):
                    stopped_by = "callback"
                    break
                if max_seconds is not None and progress.wall_seconds >= max_seconds:
                    stopped_by = "seconds"
                    break
        except StopRequested as request:
            stopped_by = request.signal_name
            runner.seconds_to_end(0.0)  # which begin now
        iteration = run.progress.iteration
        if iteration > run.resumed_at or (iteration and not checkpoints.exist):
            checkpoints.save(run.checkpoint(), iteration, run.score)
        if signals.signal is not None:  # it may have come after the last check
            stopped_by = signals.signal.name
    return Summary(run.progress, stopped_by, checkpoints.newest, checkpoints.best)


def check_resumable(saved: Mapping[str, Any], config: Any, fixed: Sequence[str], path: Path) -> frozenset[str]:
    """The dotted names of the settings that are others than those that the checkpoint was written with.

    Args:
        saved: the checkpoint's content.
        fixed: dotted names that cannot change; a group's name stands for all settings in it.

    Raises:
        CheckpointError: it is of another trainer, or a setting that cannot change differs: the first is named.
    """
    before, now = {"trainer": saved["trainer"]}, {"trainer": trainer_name(config)}
    if before == now:
        try:
            before, now = (flatten(parse(type(config), content)) for content in (saved["config"], plain(config)))
        except SettingsError as error:
            raise CheckpointError(f"{path}: saved by a version with other settings: {error}; start anew") from error
    changed = frozenset(name for name in now if before[name] != now[name])
    for name in sorted(changed):
        if any(f"{name}.".startswith(f"{group}.") for group in ("trainer", *fixed)):
            raise CheckpointError(
                f"{path}: saved with {name} = {before[name]}, this run has {now[name]}; use the saved value or start "
                "anew"
            )
    return changed


def trainer_name(config: Any) -> str:
    """appo, sac or td3: whose settings these are."""
    return type(config).__name__.removesuffix("Config").lower()


def plain(config: Any) -> dict[str, Any]:
    """A configuration in types that a checkpoint can hold."""
    return json.loads(json.dumps(dataclasses.asdict(config)))
