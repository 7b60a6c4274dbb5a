"""The search of a study: ask, run every repeat, record, tell; look at the best again; then the confirmation.

Records are the truth. Optuna's journal is what the sampler learns from; when a crash left it behind the records, it
is brought up to them. An unfinished trial keeps its number and its finished repeats.

Repeats of a trial, and those of a block of the confirmation, are a *work* (``harness.measure.engines.blocks``). At the
end of the search several works can share the repeats of one trial.
"""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from harness.measure.engines.blocks import Attempt, Engine, Work, carry_out, measured, until_calm
from harness.measure.process import Job
from harness.measure.record import FIRST_SEED, SECOND_LOOK, Phase, Record, attempts_that_count, key_of, median, now
from harness.measure.stop import StopSignal
from harness.predict.bottleneck import explain
from harness.predict.next_trial import NextTrial, Tried, next_trial
from harness.predict.plan import Plan
from harness.predict.ranking import Prediction
from harness.study import timelines
from harness.study.best_trials import ranking
from harness.study.confirmation import BASELINE, schedule
from harness.study.folder import Study, TakenOver
from harness.study.learning import refused
from harness.study.optuna_trial import CurvePruner, Told, checks_of
from harness.suite.space import ATTEMPTS, propose, sample
from harness.suite.text import count_text, percent_text
from harness.trainers.trainer import threads_text

PATIENCE = 3.0
"""a repeat that learns may take so many times as long as it should"""


class Display(Protocol):
    """What is shown while a study runs."""

    def started(self, record: Record, what: str) -> None: ...

    def progress(self, record: Record, progress: dict[str, Any]) -> None: ...

    def finished(self, record: Record) -> None: ...


@dataclass
class Sweep:
    """Runs a plan in a study until its limits."""

    plan: Plan
    study: Study
    stop: StopSignal
    display: Display
    engine: Engine
    trace: bool = False
    """keep a timeline of each repeat"""
    say: Callable[[str], None] = lambda text: None
    """is told how the search ended"""
    prediction: Prediction | None = None
    """what is predicted; None: nothing"""
    began: float = field(default_factory=time.monotonic)
    """monotonic time at which the user began to wait; the run ends ``limits.minutes`` later"""
    missing: Counter[str] = field(default_factory=Counter)
    """how much there was no time for, by the name that people read"""
    ending: str = ""
    """what another trial would have been expected to bring"""

    def run(self) -> None:
        """Search, then confirm.

        Raises:
            Stopped: by a signal; ``run`` on the same study goes on from here.
            RecordError: a record could not be written.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._deadline = self.began + self.plan.suite.limits.minutes * 60
        self._optuna = self.study.open_optuna([o.direction for o in self.plan.suite.objectives])
        with self.study.locked(self.stop):
            self._catch_up()
        self._waiting: dict[int, list[Record]] = {}
        """by trial that this driver has begun, the repeats that nobody has begun"""
        self._works: Counter[int] = Counter()
        """by trial, how many works measure its repeats now"""
        self._expected: dict[int, float] = {}
        """by trial, the gain for which it was chosen"""
        self._out_of_time, self._measurements = False, 0
        """whether a grid has to be left unfinished, and what this run has begun to measure"""
        self._over = False
        """the search has ended, and no other trial was worth its time"""
        self._newest = list(self.study.records.records)
        """what earlier runs have measured, and this one"""
        for _ in self.study.searches(self._optuna, self.stop, self._deadline):
            carry_out(self._search(), self.engine, self.stop)
            if self._out_of_time:
                trials, repeats = self._optuna.get_trials(deepcopy=False), self.plan.suite.measure.repeats
                begun = [repeats - len(self._searched(one.number)) for one in trials if not one.state.is_finished()]
                self.missing["repeats"] = sum(begun) + repeats * max(0, self.plan.trials - len(trials))
                return
        following = self._next_trial() if self.plan.suite.guided else None
        self._over = following is not None and following.ends
        if following is not None and not math.isnan(following.gain):
            gain = f"another trial is expected to bring {percent_text(following.gain, digits=1)} at most"
            left = f"{following.left:,} configurations are left"
            if not self._over and following.tried < self.plan.suite.limits.trials:
                left += ", but no time for another"
            self.ending = f"search done after {count_text(following.tried, 'trial')}: {gain}, {left}"
            self.say(self.ending)
        for _ in self.study.confirmations(self.stop):
            carry_out(self._second_look(), self.engine, self.stop)
            self._explain_again()
            self._confirm()

    # -- the search

    def _catch_up(self) -> None:
        """Bring a journal that was cut short up to the records: what it lacks is asked again, and told as recorded."""
        missing = range(len(self._optuna.trials), self.study.trials)
        encode = self.plan.space.encode
        recorded = {number: encode(self.study.params(number)) for number in missing if self.study.of_trial(number)}
        taken = [*recorded.values(), *(trial.params for trial in self._optuna.trials)]
        for number in missing:
            if number == BASELINE:
                self._enqueue_baseline()
                continue
            if number not in recorded:  # it was running beside a later one, and nobody knows any more with what
                drawn = sample(self.plan.space, ATTEMPTS, number)
                recorded[number] = next((params for params in drawn if params not in taken), drawn[0])
                taken.append(recorded[number])
            self._optuna.enqueue_trial(recorded[number])

    def _search(self) -> Iterator[Work]:
        """A work for each trial; what is free on this machine then helps with the repeats of those that go on."""
        begun: list[FrozenTrial] = []
        while True:
            with self.study.locked(self.stop):  # from now on the trial is this driver's alone
                trial = self._choose()
                while trial is not None and not self.study.take(trial.number):
                    trial = self._choose()
            if trial is None:
                break
            begun.append(trial)
            yield self._search_with(trial)
        if not self.plan.spreads_repeats:
            return
        for trial in begun:
            while self._waiting.get(trial.number) and not self._out_of_time:
                yield self._search_with(trial)

    def _choose(self) -> FrozenTrial | None:
        """The trial that a crash left unfinished, or a new one, or None at a limit.

        New are the baseline, what the suite pins, then what is expected to bring the most or what the sampler says.
        """
        plan, space = self.plan, self.plan.space
        trials = self._optuna.get_trials(deepcopy=False)
        open_ones = (t for t in trials if not t.state.is_finished() and t.number not in self._waiting)
        unfinished = next((trial for trial in open_ones if self.study.take(trial.number)), None)
        if unfinished is not None and unfinished.state != TrialState.WAITING:
            running = optuna.trial.Trial(self._optuna, unfinished._trial_id)
            for name, distribution in space.dimensions.items():  # it may have been cut while they were written
                if name not in unfinished.params:
                    running._suggest(name, distribution)
            return self._optuna.get_trials(deepcopy=False)[unfinished.number]
        if unfinished is None:
            if len(trials) >= plan.suite.limits.trials:
                return None
            if not trials:
                self._enqueue_baseline()
            elif not self._time_for_one_more():
                return None
            else:
                sampler, pinned = plan.suite.sampler, map(plan.effective, plan.pinned.values())
                tried = {space.identity(params) for params, _ in self._tried()}
                new = next((space.encode(params) for params in pinned if space.identity(params) not in tried), None)
                if new is None and plan.suite.guided:
                    following = self._next_trial()
                    if following is None or following.ends:
                        return None
                    self._expected[len(trials)] = following.gain
                    new = space.encode(following.params)
                new = new or propose(
                    self._optuna, space, sampler.name, sampler.seed, plan.effective, trials=plan.suite.limits.trials
                )
                if new is None:
                    return None
                self._optuna.enqueue_trial(new)
        asked = self._optuna.ask(dict(space.dimensions))
        return self._optuna.get_trials(deepcopy=False)[asked.number]

    def _tried(self) -> Iterator[Tried]:
        """The configurations of all trials, with what Optuna was told of them."""
        for trial in self._optuna.get_trials(deepcopy=False):
            worked = trial.state == TrialState.COMPLETE and all(excess <= 0 for excess in trial.constraints.values())
            value = trial.values[0] if worked else math.nan if trial.state.is_finished() else None
            yield self.plan.effective(self.plan.space.decode(trial.params)), value

    def _next_trial(self) -> NextTrial | None:
        return next_trial(self.plan, self.prediction.ranking if self.prediction else [], list(self._tried()))

    def _enqueue_baseline(self) -> None:
        searched = {name: self.plan.baseline[name] for name in self.plan.space.dimensions}
        self._optuna.enqueue_trial(self.plan.space.encode(searched), user_attrs={"baseline": True})

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _time_for_one_more(self, repeat: Record | None = None) -> bool:
        """Whether one more trial, or in a grid that is measured in pieces a repeat of it, may begin.

        Such a grid is not confirmed, so nothing depends on when its trials are measured. A run of it measures as long
        as there is time for one more repeat, in each place one at least, and the next run goes on.
        """
        suite = self.plan.suite
        if suite.confirm is not None or suite.sampler.name != "grid":
            return repeat is not None or self._left() >= self._needed()
        if repeat is not None and self._attempts(repeat):
            return True
        if self._measurements < self.engine.concurrency or self._left() >= self._longest():
            return True
        self._out_of_time = True
        return False

    def _longest(self) -> float:
        """Seconds of a repeat after the first look, by the longest so far if there is one."""
        took = [
            record.wall_seconds + (0 if record.second_look else self.plan.saved_seconds)
            for record in self.study.records.records
            if record.state == "complete" and record.wall_seconds
            if not (record.in_turns or record.phase == "learning")
        ]
        return max(took, default=self.plan.repeat_seconds)

    def _needed(self) -> float:
        """Seconds for one more trial and for what follows the search, by the longest repeat so far if there is one."""
        plan, concurrency = self.plan, self.engine.concurrency
        seconds = plan.seconds_of(1, concurrency, self._longest())
        if seeds := plan.again().learning:  # by the speed of the baseline
            seconds += math.ceil(seeds / concurrency) * plan.learning_seconds(self._rate(BASELINE))
        return seconds

    def _search_with(self, trial: FrozenTrial) -> Work:
        """Run the repeats of a trial that have no record; the last of the works that do so tells Optuna."""
        number = trial.number
        is_first = number not in self._waiting
        waiting = self._waiting.setdefault(number, [])
        self._works[number] += 1
        try:
            if is_first:
                waiting += self._repeats_of(trial)
            while waiting and all(record.state != "pruned" for record in self._searched(number)):
                if not self._time_for_one_more(waiting[0]):
                    return  # not told: the next run goes on with it
                yield from self._repeat(waiting.pop(0))
            if self._works[number] == 1:
                self._tell(trial)
        except (TakenOver, UpdateFinishedTrialError):
            waiting.clear()  # another driver, which saw no sign of this one any more, finishes it
        self._works[number] -= 1
        if not self._works[number]:
            self.study.release(number)
            del self._waiting[number]

    def _repeats_of(self, trial: FrozenTrial) -> list[Record]:
        """What is to be measured of a trial; nothing of one that cannot run, which is recorded here."""
        number, params = trial.number, self.plan.space.decode(trial.params)
        if number == BASELINE or self.plan.is_baseline(params):
            params = self.plan.baseline | ({"env": params["env"]} if "env" in params else {})
        params = self.plan.effective(params)
        fit = self.plan.fit(params, self.engine.available())
        reason, done = fit.problem or fit.reason, self._searched(number)
        if reason is None and all(record.state != "infeasible" for record in done):
            repeats = range(self.plan.suite.measure.repeats)
            return [self._planned(number, repeat, "search", params) for repeat in repeats]
        if not done:
            planned = self._planned(number, 0, "search", params)
            record = dataclasses.replace(planned, state="failed" if fit.problem else "infeasible", error=reason)
            self.study.records.append(record)
            self._explain(record)
        return []

    def _searched(self, number: int) -> list[Record]:
        """The records of a trial that the sampler knows: those before the second look."""
        return [record for record in self.study.of_trial(number, "search") if not record.second_look]

    def _tell(self, frozen: FrozenTrial) -> None:
        """Tell Optuna how a trial ended; a crash may have cut this short before."""
        told = Told.of(self.plan.suite, self._searched(frozen.number))
        trial = optuna.trial.Trial(self._optuna, frozen._trial_id)
        for key, value in told.constraints.items():
            if key not in frozen.constraints:
                trial.set_constraint(key, value)
        curve = self.study.folder / self.study.of_trial(frozen.number)[0].log / "curve.jsonl"
        for percent, value in checks_of(self.plan.suite, curve).items():
            if percent not in frozen.intermediate_values:
                trial.report(value, percent)
        for key, text in told.reason.items():
            trial.set_user_attr(key, text)
        self._optuna.tell(frozen.number, told.values, told.state, skip_if_finished=True)

    # -- the second look, the confirmation, and whether the best learns

    def _second_look(self) -> Iterator[Work]:
        """The best trials of the search once more: the best by both looks is less often just the luckiest."""
        first = [record for record in self.study.records.records if not record.second_look]
        candidates = [trial for trial in ranking(first, self.plan.suite, "search") if trial != BASELINE]
        numbers = range(SECOND_LOOK, SECOND_LOOK + self.plan.suite.measure.repeats)
        for trial in candidates[: self.plan.suite.looked_at(len(candidates))]:
            if self._left() > 0:
                yield self._recorded_again("search", [(trial, number) for number in numbers])

    def _confirm(self) -> None:
        """Confirm, and train what is best then. One that learns worse is out, and the next one is confirmed."""
        suite = self.plan.suite
        learning = None if suite.confirm is None else suite.confirm.learning
        while True:
            carry_out(self._confirmation(), self.engine, self.stop)
            records = self.study.records.records
            best = next(iter(ranking(records, suite)), BASELINE)
            confirmed = any(record.trial == best and record.phase == "confirm" for record in records)
            if learning is None or best == BASELINE or not confirmed or not self.study.measured(BASELINE):
                return
            carry_out(self._learning(best, learning.seeds), self.engine, self.stop)
            if best not in refused(self.study.records.records, suite):
                return

    def _learning(self, trial: int, count: int) -> Iterator[Work]:
        """Train seeds of a trial and of the baseline, one of each after the other: whatever ends a run leaves as many
        of both."""
        seeds = range(FIRST_SEED, FIRST_SEED + count)
        recorded = {(r.trial, r.repeat) for r in self.study.records.records if r.phase == "learning"}
        for one in [(side, seed) for seed in seeds for side in (BASELINE, trial) if (side, seed) not in recorded]:
            if self._left() > 0:
                yield self._recorded_again("learning", [one])
            else:
                self.missing["seeds that show whether the best learns as well"] += 1

    def _rate(self, trial: int) -> float:
        """Env steps a second, as the search measured them; infinite where it did not."""
        rate = median(self.study.of_trial(trial, "search"), "env_steps_per_second")
        return rate if rate > 0 else math.inf

    def _confirmation(self) -> Iterator[Work]:
        """The best trials and the baseline once more, in blocks as ``harness.study.confirmation`` makes them."""
        confirm, records = self.plan.suite.confirm, self.study.records.records
        if confirm is None:
            return
        candidates = [trial for trial in self.study.ranking(self.plan.suite) if trial != BASELINE][: confirm.top]
        pinned = {record.trial for record in records if record.pinned}
        candidates += sorted(t for t in pinned - {BASELINE, *candidates} if self.study.measured(t))
        blocks = schedule(
            confirm, candidates, records, study=self.plan.study_id,
            first_repeat=self.plan.suite.measure.repeats, baseline=self.study.measured(BASELINE),
        )  # fmt: skip
        recorded = {(r.trial, r.repeat) for r in records if r.phase == "confirm"}
        for block in blocks:
            if self._left() > 0:
                yield self._recorded_again("confirm", block)
            else:
                self.missing["blocks of the confirmation"] += not recorded.issuperset(block)

    def _recorded_again(self, phase: Phase, numbers: Sequence[tuple[int, int]]) -> Work:
        """Repeats (trial, number) of trials that have records: a block in turns where it can be, else in order."""
        repeats = [self._planned(trial, number, phase, self.study.params(trial)) for trial, number in numbers]
        try:
            if phase == "confirm" and self._can_take_turns(repeats):
                yield from self._repeat(*repeats)
                return
            for repeat in repeats:
                yield from self._repeat(repeat)
            # a block has one node: if that was lost on the way, all again on the one that the work is on
            if phase == "confirm" and len({attempts_that_count(self._attempts(one))[0].node for one in repeats}) > 1:
                for repeat in repeats:
                    yield from self._measure([repeat], self._attempts(repeat)[-1].attempt + 1, True)
        except TakenOver:
            pass  # another driver, which saw no sign of this one any more, finishes it

    def _can_take_turns(self, repeats: Sequence[Record]) -> bool:
        """Whether they can take turns: measured for their speed, by trainers that can be stopped, within the memory.

        Learning takes minutes, in which a machine's speed evens out, and an interruption would lose all that are alive.
        """
        suite, plan = self.plan.suite, self.plan
        if suite.learns or not (suite.measure.turns and self.engine.in_turns and self.engine.exclusive):
            return False
        if not all(plan.trainer.pausable(plan.settings(repeat.params)) for repeat in repeats):
            return False
        return plan.fit_together([self.study.of_trial(repeat.trial) for repeat in repeats])

    # -- repeats

    def _planned(self, trial: int, repeat: int, phase: Phase, params: dict[str, Any]) -> Record:
        """What is known of a repeat before it is measured."""
        plan, study = self.plan, self.study
        fit = plan.fit(params, self.engine.available())
        identity, confirm = plan.space.identity, plan.suite.confirm
        asked = {
            "confirm": confirm and confirm.repeats,
            "learning": confirm and confirm.learning and confirm.learning.seeds,
        }
        own = identity({name: value for name, value in params.items() if name in plan.space.dimensions})
        pinned = (name for name, pinned in plan.pinned.items() if identity(plan.effective(pinned)) == own)
        return Record(
            study=plan.study_id, trial=trial, repeat=repeat, state="failed", phase=phase,
            baseline=trial == BASELINE or plan.is_baseline(params),
            pinned=next(pinned, ""), params=params, seed=plan.first_seed(params) + repeat,
            budget_host_bytes=fit.host_bytes, budget_shm_bytes=fit.shm_bytes,
            budget_device_bytes=fit.device_bytes, budget_items=fit.items,
            calibrated_host_bytes=fit.expected_host_bytes, started_at=now(),
            commit=study.commit, dirty=study.dirty, suite_hash=plan.suite.study_id(), versions=study.versions,
            machine=self.engine.machine, shared=not self.engine.exclusive,
            threads="" if fit.problem else threads_text(plan.trainer, plan.settings(params)),
            confirm_repeats=asked.get(phase) or 0, log=f"logs/{trial}-{repeat}",
            expected_gain=self._expected.get(trial, math.nan) if repeat < plan.suite.measure.repeats else math.nan,
        )  # fmt: skip

    def _attempts(self, repeat: Record) -> list[Record]:
        """All recorded attempts at a repeat."""
        return [record for record in self.study.records.records if key_of(record)[:3] == key_of(repeat)[:3]]

    def _repeat(self, *repeats: Record) -> Work:
        """Measure what has no record yet, several in turns; again while disturbed, retries are left and so is time."""
        last = [next(reversed(self._attempts(repeat)), None) for repeat in repeats]
        yield from until_calm(last, partial(self._measure, repeats), self._again)

    def _again(self, last: Sequence[Record]) -> bool:
        if last[0].phase == "learning":  # what disturbs it makes it later, and no other
            return False
        retries_left = max(one.attempt for one in last) < self.plan.suite.measure.disturbed_retries
        if not (retries_left and self.engine.exclusive and any(one.disturbed for one in last)):
            return False
        newest = [record for record in self._newest if record.node == last[0].node][-len(last) :]
        if {key_of(record)[:3] for record in newest} != {key_of(record)[:3] for record in last}:
            # An earlier run measured this block. One repeat, again and outside of its block, has nothing beside it.
            return False
        # the search leaves the confirmation its time
        needed = self._needed() if last[0].phase == "search" else len(last) * self.plan.repeat_seconds
        return self._left() > needed

    def _measure(self, repeats: Sequence[Record], attempt: int, anew: bool) -> Attempt:
        """Run one attempt at each and record them."""
        self._measurements += 1
        prepared = []
        for repeat in repeats:
            record = dataclasses.replace(
                repeat, attempt=attempt, anew=anew, traced=self.trace, in_turns=len(repeats) > 1, started_at=now(),
                log=repeat.log + (f"-again-{attempt}" if attempt else ""),
            )  # fmt: skip
            self.display.started(record, self._what(record))
            prepared.append((record, self._job(record)))
        records = yield from measured(prepared)
        for record in records:
            if self.trace:
                timelines.end(self.study.folder / record.log)
            self.study.records.append(record)
        self._newest += records
        for record in records:
            self._explain(record)
        return records

    def _job(self, record: Record) -> Job:
        """The job that measures a record: it shows its progress, and ends a trial that falls behind."""
        suite, folder = self.plan.suite, self.study.folder / record.log
        fit = self.plan.fit(record.params, self.engine.available())
        limits, measure, confirm = self.plan.repeat_limits(fit), suite.measure, suite.confirm
        if record.phase == "search" and not record.second_look:
            measure = self.plan.first_look
        if record.phase == "learning" and confirm is not None and confirm.learning is not None:
            measure = confirm.learning.measure
            longest = PATIENCE * self.plan.learning_seconds(self._rate(record.trial))
            limits = dataclasses.replace(limits, timeout_seconds=limits.timeout_seconds + longest)
        spec = self.plan.spec(record.params, record.seed, folder, measure)
        if self.trace:
            spec = dataclasses.replace(spec, settings=spec.settings | timelines.begin(folder))
        pruner = None
        # nothing that a study compares was selected by its own curve; the first repeat decides for its trial
        if suite.pruner and record.phase == "search" and record.repeat == 0 and not record.baseline:
            pruner = CurvePruner(suite, suite.pruner, self._optuna)

        def watch(progress: dict[str, Any]) -> str | None:
            self.display.progress(record, progress)
            return pruner(progress) if pruner else None

        return Job(spec, limits, watch, max(fit.host_bytes, fit.expected_host_bytes))

    def _what(self, record: Record) -> str:
        suite = self.plan.suite
        if record.phase == "learning":
            number = record.repeat - FIRST_SEED + 1
            return f"what trial {record.trial} learns, seed {number} of {record.confirm_repeats}"
        again = f", again ({record.attempt} of {suite.measure.disturbed_retries})" if record.attempt else ""
        if record.phase == "confirm":
            return f"confirming trial {record.trial}, repeat {record.repeat - suite.measure.repeats + 1}{again}"
        if record.second_look:
            return f"second look at trial {record.trial}, repeat {record.repeat - SECOND_LOOK + 1}{again}"
        repeat = f", repeat {record.repeat + 1} of {suite.measure.repeats}" if suite.measure.repeats > 1 else ""
        expected = f", {percent_text(record.expected_gain, '+')} expected"
        if math.isnan(record.expected_gain):
            expected = ""
        return f"trial {record.trial} ({record.trial + 1} of {self.plan.trials}){repeat}{again}{expected}"

    def _explain(self, record: Record) -> None:
        """Add prediction and verdict to a record that is already on disk."""
        explained = record
        if self.prediction is not None:
            self.prediction.learn(record)
            explained = explain(record, self.prediction, self.study.records.records, over=self._over)
        if explained != record:
            self.study.records.explain(explained)
        self.display.finished(explained)

    def _explain_again(self) -> None:
        """Explain all records again by what the whole search has measured: no verdict proposes what was slower."""
        known = [] if self.prediction is None else list(self.study.records.records)
        for record in known:
            assert self.prediction is not None
            explained = explain(record, self.prediction, known, over=self._over)
            if record.verdict and explained.verdict != record.verdict and self.study.take(record.trial):
                with suppress(TakenOver):  # another driver does the same
                    self.study.records.explain(explained)
                self.study.release(record.trial)
