"""Progress while a study or a training runs: one live line on a terminal, plain lines in a pipe."""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.plan import Plan, describe_minutes
from harness.record import Record, last_attempts
from harness.tables import number_text, settings_text, warnings

PLAIN_SECONDS = 5.0
"""between plain lines of a pipe"""


class StudyDisplay:
    """Trial k of n, throughput now, best so far, return, time left.

    Use as a context manager around ``Sweep.run``. Everything goes to ``console``.
    """

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan = plan
        self._console = console
        self._objective = plan.suite.objectives[0]
        self._best: float | None = None
        self._running: dict[tuple[int, int, str], _Running] = {}
        self._repeats = plan.trials * plan.suite.measure.repeats + plan.confirm_repeats
        """still to be finished"""
        self._taken: list[float] = []
        """seconds of the repeats that this run measured"""
        self._next_plain = 0.0
        self._run_began = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> "StudyDisplay":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def note_existing(self, records: list[Record]) -> None:
        """Records of earlier runs of this study count for the best so far."""
        for record in last_attempts(records):
            self._note_best(record)
        self._repeats = max(0, self._repeats - len(last_attempts(records)))
        if records:
            self._console.print(Text(f"going on with {len(records)} recorded repeats of this study"))

    def started(self, record: Record, what: str) -> None:
        running = _Running(f"{what}{' (baseline)' if record.baseline else ''}", record.in_turns)
        self._running[_key(record)] = running
        self._next_plain = 0.0
        self._console.print(Text(f"{running.what}: {settings_text(record.params)}"), soft_wrap=True)
        self._show(running, "starting")

    def progress(self, record: Record, progress: dict[str, Any]) -> None:
        running = self._running[_key(record)]
        speed = running.rate.add(progress["wall_seconds"], progress["env_steps"])
        phase = "measuring" if progress.get("measuring") else "warm-up"
        self._show(running, f"{phase}, {number_text(speed)} steps/s, return {number_text(progress['episode_return'])}")

    def finished(self, record: Record) -> None:
        running = self._running.pop(_key(record), None)  # one that was not started has nothing to show
        which = f"{running.what}: " if running and self._running else ""
        self._repeats = max(0, self._repeats - (record.attempt == 0))
        if record.wall_seconds and not record.in_turns:
            self._taken.append(record.wall_seconds)
        self._note_best(record)
        if record.state == "complete":
            text = f"  {which}{number_text(record.env_steps_per_second)} steps/s"
            text += f", return {number_text(record.episode_return)}, policy lag {number_text(record.policy_lag_mean)}"
            text += f", {record.peak_host_bytes / 2**20:,.0f} MiB"
            self._console.print(Text(text))
            for warning in warnings(record):
                self._console.print(Text(f"  {warning}", style="yellow"), soft_wrap=True)
        else:
            reason = (record.error or "").partition("\n")[0]
            self._console.print(Text(f"  {which}{record.state}: {reason}", style="yellow"), soft_wrap=True)

    def _note_best(self, record: Record) -> None:
        value = record.metric(self._objective.metric)
        if record.state != "complete" or math.isnan(value):
            return
        if self._best is None or self._objective.better(value, self._best):
            self._best = value

    def _show(self, running: "_Running", state: str) -> None:
        best = f"best {number_text(self._best)}" if self._best is not None else "no best yet"
        line = f"{running.what}: {state}, {best}, {self._left()} left"
        if self._live:
            self._live.update(Text(line, overflow="ellipsis", no_wrap=True))
        elif time.monotonic() >= self._next_plain:
            self._next_plain = time.monotonic() + PLAIN_SECONDS
            if state != "starting":
                self._console.print(Text(f"  {line}"), soft_wrap=True)

    def _left(self) -> str:
        """From the planned length of a repeat, or from what repeats took on this machine so far."""
        plan, finished = self._plan, len(self._taken)
        repeat = sum(self._taken) / finished if finished else plan.repeat_seconds
        now, in_turns = time.monotonic(), [one for one in self._running.values() if one.in_turns]
        places = [*(one for one in self._running.values() if not one.in_turns), *in_turns[:1]]
        left = (self._repeats * repeat - sum(now - one.began for one in places)) / max(1, len(places))
        limit = plan.suite.limits.minutes * 60 - (time.monotonic() - self._run_began)
        return describe_minutes(max(0.0, min(left, limit)))


def _key(record: Record) -> tuple[int, int, str]:
    return record.trial, record.repeat, record.phase


class Rate:
    """Steps a second between the last two of a cumulative counter's readings."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None

    def add(self, seconds: float, count: float) -> float:
        last, self._last = self._last, (seconds, count)
        if last is None or seconds <= last[0]:
            return math.nan
        return (count - last[1]) / (seconds - last[0])


@dataclass
class _Running:
    """A repeat that runs."""

    what: str
    in_turns: bool
    began: float = field(default_factory=time.monotonic)
    rate: Rate = field(default_factory=Rate)


class TrainDisplay:
    """Iteration, throughput now, return and time left of one training."""

    def __init__(self, console: Console, max_iterations: int | None, max_seconds: float | None) -> None:
        self._console = console
        self._iterations, self._seconds = max_iterations, max_seconds
        self._rate = Rate()
        self._speed = math.nan
        self._next = 0.0
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> "TrainDisplay":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def progress(self, progress: dict[str, float]) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (0.5 if self._live else PLAIN_SECONDS)
        seconds = progress["wall_seconds"]
        self._speed = self._rate.add(seconds, progress["env_steps"])
        line = f"iteration {progress['iteration']:.0f}, {progress['env_steps']:,.0f} steps, "
        line += f"{number_text(self._speed)} steps/s, return {number_text(progress['episode_return'])}, "
        if not math.isnan(progress["eval_return"]):
            line += f"evaluated {number_text(progress['eval_return'])}, "
        line += self._left(progress)
        if self._live:
            self._live.update(Text(line, overflow="ellipsis", no_wrap=True))
        else:
            self._console.print(Text(line), soft_wrap=True)

    def _left(self, progress: dict[str, float]) -> str:
        seconds, done = progress["wall_seconds"], progress["iteration"]
        left = [self._seconds - seconds] if self._seconds else []
        if self._iterations and done:
            left.append((self._iterations - done) * seconds / done)
        return f"{describe_minutes(max(0.0, min(left)))} left" if left else f"{describe_minutes(seconds)} so far"


class EvalDisplay:
    """Episodes so far, their mean return and time left of one evaluation, once it takes longer than a moment."""

    def __init__(self, console: Console, episodes: int) -> None:
        self._console = console
        self._episodes = episodes
        self._began = time.monotonic()
        self._next = self._began + PLAIN_SECONDS
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> "EvalDisplay":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def step(self, steps: int, returns: Sequence[float]) -> None:
        """See ``unilab.algos.torch.evaluate.OnStep``."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (0.5 if self._live else PLAIN_SECONDS)
        done = len(returns)
        line = f"{done:,} of {self._episodes:,} episodes, {steps:,} steps"
        if done:
            left = (now - self._began) * max(0, self._episodes - done) / done
            line += f", return {number_text(sum(returns) / done)}, {describe_minutes(left)} left"
        if self._live:
            self._live.update(Text(line, overflow="ellipsis", no_wrap=True))
        else:
            self._console.print(Text(line), soft_wrap=True)


def console(stderr: bool = False) -> Console:
    """100 columns and no colours in a pipe, so that output can be compared and grepped.

    What is printed is printed literally: brackets in paths and errors are no markup.
    """
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, markup=False, emoji=False, width=None if stream.isatty() else 100)
