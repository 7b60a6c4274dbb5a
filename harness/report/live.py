"""Progress while a study or a training runs: one live line on a terminal, plain lines in a pipe."""

import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.measure.record import SECOND_LOOK, Record, attempts_that_count
from harness.predict.plan import Plan
from harness.report.terminal import warnings
from harness.suite.text import minutes_text, number_text, settings_text

PLAIN_SECONDS = 5.0
"""between lines of a pipe"""
LIVE_SECONDS = 0.5
"""between two states of the line of a terminal"""


class ProgressLine:
    """What is going on now: on a terminal one line that is replaced, in a pipe a new line every few seconds.

    Use as a context manager around the work. Everything goes to ``console``.
    """

    def __init__(self, console: Console, *, stays: bool = False) -> None:
        self._console = console
        self._due = 0.0
        """before this time, on the monotonic clock, nothing is shown"""
        live = console.is_terminal
        self._live = Live(console=console, refresh_per_second=4, transient=not stays) if live else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    @property
    def due(self) -> bool:
        """It is worth while to make a line."""
        return time.monotonic() >= self._due

    def show(self, line: str, indent: str = "") -> None:
        if not self.due:
            return
        self._due = time.monotonic() + (LIVE_SECONDS if self._live else PLAIN_SECONDS)
        if self._live:
            self._live.update(Text(line, overflow="ellipsis", no_wrap=True))
        else:
            self._console.print(Text(indent + line), soft_wrap=True)


class StudyDisplay(ProgressLine):
    """Trial k of n, throughput now, best so far, return, time left."""

    def __init__(self, plan: Plan, console: Console, began: float | None = None) -> None:
        super().__init__(console)
        self._objective = plan.suite.objectives[0]
        self._best: dict[tuple[str, str], float] = {}
        """by phase and kind of numbers"""
        self._running: dict[tuple[int, int, str], _Running] = {}
        self._forecast = Forecast(plan, time.monotonic() if began is None else began)

    def note_existing(self, records: list[Record]) -> None:
        """Records of earlier runs of this study count for the best so far."""
        for record in attempts_that_count(records):
            self._note_best(record)
            self._forecast.known(record)
        if records:
            self._console.print(Text(f"going on with {len(records)} recorded repeats of this study"))

    def started(self, record: Record, what: str) -> None:
        running = _Running(f"{what}{' (baseline)' if record.baseline else ''}", record)
        self._running[_key(record)] = running
        self._forecast.started(record, time.monotonic())
        self._console.print(Text(f"{running.what}: {settings_text(record.params)}"), soft_wrap=True)
        self._due = 0.0 if self._live else time.monotonic() + PLAIN_SECONDS
        self._show(running, "starting")

    def progress(self, record: Record, progress: dict[str, Any]) -> None:
        running = self._running[_key(record)]
        speed = running.rate.add(progress["wall_seconds"], progress["env_steps"])
        phase = "measuring" if progress.get("measuring") else "warm-up"
        self._show(running, f"{phase}, {number_text(speed)} steps/s, return {number_text(progress['episode_return'])}")

    def finished(self, record: Record) -> None:
        running = self._running.pop(_key(record), None)  # one that was not started has nothing to show
        which = f"{running.what}: " if running and self._running else ""
        self._forecast.finished(record, time.monotonic())
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
        which = record.phase, record.kind
        if which not in self._best or self._objective.better(value, self._best[which]):
            self._best[which] = value

    def _show(self, running: "_Running", state: str) -> None:
        value = self._best.get((running.record.phase, running.record.kind))
        best = f"best {number_text(value)}" if value is not None else "no best yet"
        line = f"{running.what}: {state}, {best}, {minutes_text(self._forecast.left(time.monotonic()))} left"
        self.show(line, indent="  ")


class Forecast:
    """How long a run still takes, from what repeats took so far, or from the planned length of one.

    What has begun is never over at once: a repeat or a block that takes longer than those before it, or that is
    measured again, takes a tenth more of what it has taken.

    Args:
        began: when ``limits.minutes`` began to count, on the clock of the times that the methods are given.
    """

    def __init__(self, plan: Plan, began: float) -> None:
        self._plan = plan
        self._limit = began + plan.suite.limits.minutes * 60
        self._seen: set[tuple[int, int, str]] = set()
        """repeats that are begun or over"""
        self._measured: set[int] = set()
        """trials beside the baseline with a value"""
        self._searching = True
        self._running: dict[tuple[int, int, str], tuple[float, bool]] = {}
        """since when, and whether in turns"""
        self._block = 0
        """repeats of the block that runs or ran last"""
        self._taken: dict[bool, list[float]] = {False: [], True: []}
        """seconds a repeat, by whether it took turns"""

    def known(self, record: Record) -> None:
        """A repeat that is over."""
        self._seen.add(_key(record))
        if record.state == "complete" and not record.baseline:
            self._measured.add(record.trial)

    def started(self, record: Record, now: float) -> None:
        self._seen.add(_key(record))
        if record.in_turns:
            self._block = 1 + sum(in_turns for _, in_turns in self._running.values())
        self._running[_key(record)] = now, record.in_turns
        self._searching &= record.phase == "search" and not record.second_look

    def finished(self, record: Record, now: float) -> None:
        self.known(record)
        began, in_turns = self._running.pop(_key(record), (math.nan, False))
        if record.state != "complete":
            return
        if not in_turns:
            self._taken[False].append(record.wall_seconds)
        elif self._block == 1 + sum(in_turns for _, in_turns in self._running.values()):  # the first that is over
            self._taken[True].append((now - began) / self._block)

    def left(self, now: float) -> float:
        """Seconds."""
        alone = [
            self._rest(now - began, self._each(False)) for began, in_turns in self._running.values() if not in_turns
        ]
        block = [began for began, in_turns in self._running.values() if in_turns]
        in_turns = [self._rest(now - block[0], len(block) * self._each(True))] if block else []
        running = [*alone, *in_turns]
        places = max(1, len(running))
        sure = (sum(running) + self._after_the_search()) / places
        whole = sure + self._of_the_search() * self._each(False) / places
        return max(sure, min(whole, self._limit - now))  # the search leaves what follows it its time

    def _rest(self, taken: float, expected: float) -> float:
        return max(expected - taken, 0.1 * taken)

    def _each(self, in_turns: bool) -> float:
        known = self._taken[in_turns] or self._taken[False]
        return statistics.fmean(known) if known else self._plan.repeat_seconds

    def _of_the_search(self) -> int:
        """Repeats that are not begun."""
        if not self._searching:
            return 0
        repeats = self._plan.suite.measure.repeats
        seen = [repeat for _, repeat, phase in self._seen if phase == "search" and repeat < SECOND_LOOK]
        return max(0, self._plan.trials * repeats - len(seen))

    def _after_the_search(self) -> float:
        """Seconds for the second look and the confirmation, as far as they are not begun."""
        candidates = self._plan.trials - 1 if self._searching else len(self._measured)
        looks = sum(phase == "search" and repeat >= SECOND_LOOK for _, repeat, phase in self._seen)
        confirmed = sum(phase == "confirm" for _, _, phase in self._seen)
        looks = max(0, self._plan.look_repeats_of(candidates) - looks)
        if confirmed:  # what was not looked at until then is not any more
            looks = 0
        confirmed = max(0, self._plan.confirm_repeats_of(candidates) - confirmed)
        return looks * self._each(False) + confirmed * self._each(True)


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
    record: Record
    rate: Rate = field(default_factory=Rate)


class TrainDisplay(ProgressLine):
    """Iteration, throughput now, return and time left of one training."""

    def __init__(self, console: Console, max_iterations: int | None, max_seconds: float | None) -> None:
        super().__init__(console, stays=True)
        self._iterations, self._seconds = max_iterations, max_seconds
        self._rate = Rate()

    def progress(self, progress: dict[str, float]) -> None:
        if not self.due:
            return
        speed = self._rate.add(progress["wall_seconds"], progress["env_steps"])
        line = f"iteration {progress['iteration']:.0f}, {progress['env_steps']:,.0f} steps, "
        line += f"{number_text(speed)} steps/s, return {number_text(progress['episode_return'])}, "
        if not math.isnan(progress["eval_return"]):
            line += f"evaluated {number_text(progress['eval_return'])}, "
        seconds, done = progress["wall_seconds"], progress["iteration"]
        left = [self._seconds - seconds] if self._seconds else []
        if self._iterations and done:
            left.append((self._iterations - done) * seconds / done)
        line += f"{minutes_text(max(0.0, min(left)))} left" if left else f"{minutes_text(seconds)} so far"
        self.show(line)


class EvalDisplay(ProgressLine):
    """Episodes so far, their mean return and time left of one evaluation, once it takes longer than a moment."""

    def __init__(self, console: Console, episodes: int) -> None:
        super().__init__(console)
        self._episodes = episodes
        self._began = time.monotonic()
        self._due = self._began + PLAIN_SECONDS

    def step(self, steps: int, returns: Sequence[float]) -> None:
        """See ``unilab.algos.torch.evaluate.OnStep``."""
        now = time.monotonic()
        if not self.due:
            return
        done = len(returns)
        line = f"{done:,} of {self._episodes:,} episodes, {steps:,} steps"
        if done:
            left = (now - self._began) * max(0, self._episodes - done) / done
            line += f", return {number_text(sum(returns) / done)}, {minutes_text(left)} left"
        self.show(line)


def console(stderr: bool = False) -> Console:
    """100 columns and no colours in a pipe, so that output can be compared and grepped.

    What is printed is printed literally: brackets in paths and errors are no markup.
    """
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, markup=False, emoji=False, width=None if stream.isatty() else 100)
