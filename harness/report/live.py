"""Progress while a study or a training runs: one live line on a terminal, plain lines in a pipe."""

import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.measure.record import Key, Record, attempts_that_count, key_of
from harness.predict.plan import Plan
from harness.suite.text import (
    bytes_text,
    count_text,
    metric_text,
    minutes_text,
    number_text,
    settings_text,
    value_text,
)

PLAIN_SECONDS = 5.0
"""between lines of a pipe"""
LIVE_SECONDS = 0.5
"""between two states of the line of a terminal"""


def left_text(passed: float, *parts: float) -> str:
    """How long work still takes that has taken ``passed`` seconds, by the part that is done of each of its limits.

    While no part is known, or nothing is done, it is how long it took so far.
    """
    left = [passed / part - passed for part in parts if part]
    return f"{minutes_text(max(0.0, min(left)))} left" if left else f"{minutes_text(passed)} so far"


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
        self._last: dict[Key | None, tuple[float, float]] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    @property
    def due(self) -> bool:
        """Whether a line would be shown now."""
        return time.monotonic() >= self._due

    def show(self, line: str, indent: str = "") -> None:
        """Show a line in place of the last one, unless that is too new."""
        if not self.due:
            return
        self._due = time.monotonic() + (LIVE_SECONDS if self._live else PLAIN_SECONDS)
        if self._live:
            self._live.update(Text(line, overflow="ellipsis", no_wrap=True))
        else:
            self._say(indent + line)

    def _say(self, line: str, style: str = "") -> None:
        """A line that stays."""
        self._console.print(Text(line, style=style), soft_wrap=True)

    def _speed(self, progress: dict[str, Any], of: Key | None = None) -> str:
        """Env steps a second since the last call for the same work."""
        now = progress["wall_seconds"], progress["env_steps"]
        before = self._last.get(of, now)
        self._last[of] = now
        passed = now[0] - before[0]
        return f"{number_text((now[1] - before[1]) / passed if passed > 0 else None)} steps/s"


class StudyDisplay(ProgressLine):
    """Time left, trial k of n, throughput now, return, best so far.

    Args:
        began: when the user's wait did, on the monotonic clock.
        watched: the study's folder, whose ``report.html`` is kept current; None: it is not.
    """

    def __init__(self, plan: Plan, console: Console, began: float | None = None, watched: Path | None = None) -> None:
        super().__init__(console)
        self._objective = plan.suite.objectives[0]
        self._what: dict[Key, str] = {}
        """of each repeat that is measured now"""
        self._forecast = Forecast(plan, time.monotonic() if began is None else began)
        self._watched, self._finished = watched, 0
        if watched is not None:
            self._report()
            self._say(f"report:     {watched / 'report.html'} (open it in a browser; it keeps itself current)")

    def note_existing(self, records: list[Record]) -> None:
        """Records of earlier runs of this study count for the best so far and for the time left."""
        self._forecast.over += attempts_that_count(records)
        if records:
            self._say(f"going on with {len(records)} recorded repeats of this study")

    def started(self, record: Record, what: str) -> None:
        what += " (baseline)" if record.baseline else ""
        self._what[key_of(record)] = what
        self._forecast.started(record, time.monotonic())
        self._say(f"{what}: {settings_text(record.params)}")
        self._due = 0.0 if self._live else time.monotonic() + PLAIN_SECONDS
        self._show(record, "starting")

    def progress(self, record: Record, progress: dict[str, Any]) -> None:
        phase, speed = "measuring" if progress.get("measuring") else "warm-up", self._speed(progress, key_of(record))
        self._show(record, f"{phase}, {speed}, return {number_text(progress['episode_return'])}")

    def finished(self, record: Record) -> None:
        what = self._what.pop(key_of(record), "")  # one that was not started has nothing to show
        self._last.pop(key_of(record), None)
        which = f"  {what}: " if what and self._what else "  "
        self._forecast.finished(record, time.monotonic())
        if record.state == "complete":
            evaluated = record.evaluated_return
            without_noise = "" if math.isnan(evaluated) else f"{number_text(evaluated)} without noise, "
            judged = "".join(f"{metric_text(name)} {number_text(value)}, " for name, value in record.judged.items())
            self._say(
                f"{which}{number_text(record.env_steps_per_second)} steps/s, return "
                f"{number_text(record.episode_return)}, {without_noise}{judged}"
                f"policy lag {number_text(record.policy_lag_mean)}, {bytes_text(record.peak_host_bytes)}"
            )
            if record.disturbed and record.phase != "learning":  # which is not measured for speed
                self._say(f"  disturbed: {record.disturbed}", "yellow")
            if record.unsteady and record.phase != "learning":
                why = f"the second half of the window ran at {record.half_ratio:.0%} of the first"
                if math.isnan(record.half_ratio):
                    why = "the window was too short to compare its halves"
                self._say(f"  unsteady: {why}", "yellow")
        else:
            reason = (record.error or "").partition("\n")[0]
            self._say(f"{which}{record.state}: {reason}", "yellow")
        self._finished += 1
        self._report()

    def _show(self, record: Record, state: str) -> None:
        def alike(one: Record) -> tuple[str, str, Any]:
            return one.phase, one.kind, one.params.get("env")

        metric, maximize = self._objective.metric, self._objective.direction == "maximize"
        over = [one for one in self._forecast.over if one.state == "complete" and alike(one) == alike(record)]
        values = [value for one in over if not math.isnan(value := one.metric(metric))]
        best = f"best {value_text(metric, max(values) if maximize else min(values))}" if values else "no best yet"
        left = minutes_text(self._forecast.left(time.monotonic()))
        # first, where 80 columns show it
        self.show(f"{left} left, {self._what[key_of(record)]}: {state}, {best}", indent="  ")

    def _report(self) -> None:
        """Written anew whenever a repeat ends, when no other is measured yet."""
        if self._watched is not None:
            from harness.report.page.write import write_report  # loads Altair, which takes long

            done = f"{count_text(self._finished, 'repeat')} of this run finished"
            now = datetime.now(UTC).strftime("%H:%M:%S UTC")
            watched = f"This study is running: {done} at {now}. The page keeps itself current."
            write_report(self._watched, watched=watched)


class Forecast:
    """How long a run still takes, from what repeats took so far, or from the planned length of one.

    A search that ends when no other trial is worth its time (``harness.predict.next_trial``) is taken to have as many
    trials as it is expected to have, by the gain that was expected of the newest.

    Repeats are expected to be measured again as often as those before. A repeat or a block that takes longer than those
    before it, or is measured again, counts as needing a tenth more than it has taken: nothing that runs is ever taken
    to be over at once.

    Args:
        began: when ``limits.minutes`` began to count, on the clock of the times that the methods are given.
    """

    def __init__(self, plan: Plan, began: float) -> None:
        self._plan = plan
        self._limit = began + plan.suite.limits.minutes * 60
        self.over: list[Record] = []
        """attempts that have ended, in this run or before it"""
        self._begun: list[Record] = []
        """those that this run has begun"""
        self._running: dict[Key, tuple[Record, float]] = {}
        """those that have not ended, and since when they run"""
        self._block = 0
        """repeats of the block that runs or ran last"""
        self._taken: dict[bool, list[float]] = {False: [], True: []}
        """seconds of a repeat after the first look, by whether it took turns"""

    def started(self, record: Record, now: float) -> None:
        self._begun.append(record)
        self._running[key_of(record)] = record, now
        self._block = sum(one.in_turns for one, _ in self._running.values()) or self._block

    def finished(self, record: Record, now: float) -> None:
        self.over.append(record)
        _, began = self._running.pop(key_of(record), (record, math.nan))
        if record.state == "complete" and record.phase != "learning":
            # those of a block end at about the same time
            length = (now - began) / self._block if record.in_turns else record.wall_seconds + self._saved(record)
            self._taken[record.in_turns].append(length)

    def left(self, now: float) -> float:
        """Seconds."""
        plan, seen = self._plan, list({key_of(one)[:3]: one for one in [*self.over, *self._begun]}.values())
        searching = all(one.phase == "search" and not one.second_look for one in self._begun)
        measured = {one.trial for one in self.over if one.state == "complete" and not one.baseline}
        attempts = [one for one in self._begun if one.phase != "learning"]
        again = (1 + len(attempts)) / (1 + sum(not one.attempt for one in attempts))  # attempts at each repeat
        each = {
            in_turns: statistics.fmean(self._taken[in_turns] or self._taken[False] or [plan.repeat_seconds])
            for in_turns in (False, True)
        }
        rates = [one.env_steps_per_second for one in self.over if one.phase == "search"]
        rate = statistics.median([rate for rate in rates if rate > 0] or [math.inf])
        seed = plan.learning_seconds(rate) if plan.again().learning else 0.0

        running = [(began, seed if one.phase == "learning" else each[False] - self._saved(one))
                   for one, began in self._running.values() if not one.in_turns]  # fmt: skip
        block = [began for one, began in self._running.values() if one.in_turns]
        running += [(began, len(block) * each[True]) for began in block[:1]]
        rest = [max(length - (now - began), 0.1 * (now - began)) for began, length in running]

        phases = Counter("look" if one.second_look else one.phase for one in seen)
        trials = self._trials(seen)
        candidates = trials - 1 if searching else len(measured)
        search = max(0, trials * plan.suite.measure.repeats - phases["search"]) if searching else 0
        after = plan.again(candidates)
        # no second look comes after the confirmation has begun
        looks = 0 if phases["confirm"] else max(0, after.second_look - phases["look"])
        in_turns = max(0, after.confirm - phases["confirm"])
        seeds = max(0, after.learning - phases["learning"]) if searching or measured else 0

        places = max(1, len(rest))
        sure = (sum(rest) + looks * each[False] + in_turns * each[True] + seeds * seed) / places
        more = search * again * (each[False] - plan.saved_seconds)
        more += (again - 1) * (looks * each[False] + in_turns * each[True])
        # the search leaves time for what follows it, and nothing is measured again after the limit
        return max(sure, min(sure + more / places, self._limit - now))

    def _trials(self, seen: Sequence[Record]) -> int:
        """Of the whole search."""
        if not self._plan.suite.guided:
            return self._plan.trials
        from harness.predict.next_trial import expected_trials  # loads SciPy, which takes long

        chosen = [(one.trial, one.expected_gain) for one in seen if one.phase == "search" and not one.second_look]
        return min(self._plan.trials, expected_trials(*max(chosen, key=lambda one: one[0], default=(0, math.nan))))

    def _saved(self, record: Record) -> float:
        """By which a repeat is shorter than those after the first look."""
        return self._plan.saved_seconds if record.phase == "search" and not record.second_look else 0.0


class TrainDisplay(ProgressLine):
    """Time left, iteration, throughput now and return of one training."""

    def __init__(self, console: Console, max_iterations: int | None, max_seconds: float | None) -> None:
        super().__init__(console, stays=True)
        self._iterations, self._seconds = max_iterations, max_seconds

    def progress(self, progress: dict[str, float]) -> None:
        if not self.due:
            return
        seconds, done = progress["wall_seconds"], progress["iteration"]
        left = left_text(seconds, done / (self._iterations or math.inf), seconds / (self._seconds or math.inf))
        line = f"{left}, iteration {done:.0f}, {progress['env_steps']:,.0f} steps, {self._speed(progress)}"
        line += f", return {number_text(progress['episode_return'])}"
        if not math.isnan(progress["eval_return"]):
            line += f", evaluated {number_text(progress['eval_return'])}"
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
        if not self.due:
            return
        done = len(returns)
        line = f"{done:,} of {self._episodes:,} episodes, {steps:,} steps"
        if done:
            left = left_text(time.monotonic() - self._began, done / self._episodes)
            line += f", return {number_text(sum(returns) / done)}, {left}"
        self.show(line)


def console(stderr: bool = False) -> Console:
    """100 columns and no colours in a pipe, so that output can be compared and grepped.

    What is printed is printed literally: brackets in paths and errors are no markup.
    """
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, markup=False, emoji=False, width=None if stream.isatty() else 100)
