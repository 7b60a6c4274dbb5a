"""The search of a study: ask, run every repeat, record, tell; look at the best again; then the confirmation.

Records are the truth. Optuna's journal is what the sampler learns from; when a crash left it behind the records, it
is brought up to them. An unfinished trial keeps its number and its finished repeats.

The repeats of a trial, and those of a block of the confirmation, are a *work* (``harness.measure.engines.blocks``).
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from harness.measure.engines.blocks import Attempt, Engine, Job, Work, carry_out, measured, until_calm
from harness.measure.process import RepeatLimits
from harness.measure.record import SECOND_LOOK, Phase, Record, State, attempts_that_count
from harness.measure.repeat import TrialSpec
from harness.measure.stop import StopSignal
from harness.predict.forecast import Outlook
from harness.predict.memory import Verdict
from harness.predict.plan import Plan
from harness.study import pruning, timelines
from harness.study.confirmation import BASELINE, Block, schedule
from harness.study.folder import Study, TakenOver, ranking
from harness.study.trial_state import Judgement, judge, reason
from harness.suite.space import ATTEMPTS, Params, propose, sample
from unilab.settings import SettingsError


class Display(Protocol):
    """What is shown while a study runs."""

    def started(self, record: Record, what: str) -> None: ...

    def progress(self, record: Record, progress: dict[str, Any]) -> None: ...

    def finished(self, record: Record) -> None: ...


def _unless_taken_over(work: Work) -> Work:
    """Another driver that took a work over, because it saw no sign of this one any more, finishes it."""
    try:
        yield from work
    except (TakenOver, UpdateFinishedTrialError):
        return


@dataclass(frozen=True)
class Repeat:
    """What is to be measured once."""

    trial: int
    number: int
    phase: Phase
    params: dict[str, Any]
    verdict: Verdict


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
    outlook: Outlook | None = None
    """what is predicted; None: nothing"""
    began: float = field(default_factory=time.monotonic)
    """when the wait of the user began, whose end is ``limits.minutes`` later; of the monotonic clock"""
    missing_blocks: int = 0
    """of the confirmation, for which there was no time"""

    def run(self) -> None:
        """Search, then confirm.

        Raises:
            Stopped: by a signal; ``run`` on the same study goes on from here.
            RecordError: a record could not be written.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._deadline = self.began + self.plan.suite.limits.minutes * 60
        self._optuna = self.study.open_optuna([o.direction for o in self.plan.suite.objectives])
        with self.study.turn(self.stop):
            self._catch_up()
        self._begun: set[int] = set()
        for _ in self.study.searches(self._optuna, self.stop, self._deadline):
            carry_out(self._search(), self.engine, self.stop)
        for _ in self.study.confirmations(self.stop):
            carry_out(self._second_look(), self.engine, self.stop)
            carry_out(self._confirmation(), self.engine, self.stop)

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
        while (trial := self._next()) is not None:
            self._begun.add(trial.number)
            yield self._search_with(trial)

    def _search_with(self, trial: FrozenTrial) -> Work:
        yield from _unless_taken_over(self._finish(trial))
        self.study.release(trial.number)
        self._begun.remove(trial.number)

    def _next(self) -> FrozenTrial | None:
        """The next trial, which from now on is this driver's alone."""
        with self.study.turn(self.stop):
            trial = self._choose()
            while trial is not None and not self.study.take(trial.number):
                trial = self._choose()
            return trial

    def _choose(self) -> FrozenTrial | None:
        """The trial that a crash left unfinished, or a new one, or None at a limit."""
        trials = self._optuna.get_trials(deepcopy=False)
        open_ones = (t for t in trials if not t.state.is_finished() and t.number not in self._begun)
        unfinished = next((trial for trial in open_ones if self.study.take(trial.number)), None)
        if unfinished is not None:
            return self._ask() if unfinished.state == TrialState.WAITING else self._complete_params(unfinished)
        if len(trials) >= self.plan.suite.limits.trials:
            return None
        if not trials:
            self._enqueue_baseline()
            return self._ask()
        if self._left() < self._needed():
            return None
        plan = self.plan
        sampler = plan.suite.sampler
        params = self._seed(trials) or propose(self._optuna, plan.space, sampler.name, sampler.seed, plan.effective)
        if params is None:
            return None
        self._optuna.enqueue_trial(params)
        return self._ask()

    def _seed(self, trials: Sequence[FrozenTrial]) -> Params | None:
        """What the suite pins, then the best of the predicted configurations; the first that has not been tried."""
        plan = self.plan
        seeds = [*map(plan.effective, plan.pinned.values()), *(self.outlook.seeds if self.outlook else [])]
        tried = {plan.space.identity(plan.effective(plan.space.decode(trial.params))) for trial in trials}
        new = (params for params in seeds if plan.space.identity(params) not in tried)
        return next(map(plan.space.encode, new), None)

    def _ask(self) -> FrozenTrial:
        trial = self._optuna.ask(dict(self.plan.space.dimensions))
        return self._optuna.get_trials(deepcopy=False)[trial.number]

    def _complete_params(self, running: FrozenTrial) -> FrozenTrial:
        """A trial interrupted while its parameters were being written gets the rest of them."""
        trial = optuna.trial.Trial(self._optuna, running._trial_id)
        for name, distribution in self.plan.space.dimensions.items():
            if name not in running.params:
                trial._suggest(name, distribution)
        return self._optuna.get_trials(deepcopy=False)[running.number]

    def _enqueue_baseline(self) -> None:
        searched = {name: self.plan.baseline[name] for name in self.plan.space.dimensions}
        self._optuna.enqueue_trial(self.plan.space.encode(searched), user_attrs={"baseline": True})

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _needed(self) -> float:
        """Seconds for one more trial and for what follows the search, by the longest repeat so far if there is one."""
        took = [
            r.wall_seconds
            for r in self.study.records.records
            if r.state == "complete" and r.wall_seconds and not r.in_turns
        ]
        places = self.engine.places
        repeats = self.plan.suite.measure.repeats + math.ceil(self.plan.look_repeats / places)
        repeats += self.plan.confirm_repeats_in_a_row(places)
        return repeats * max(took, default=self.plan.repeat_seconds)

    def _finish(self, trial: FrozenTrial) -> Work:
        """Run the repeats that have no record, then tell."""
        baseline = trial.number == 0
        params = self.plan.effective(self.plan.space.decode(trial.params) | (self.plan.baseline if baseline else {}))
        verdict, problem = self._verdict(params)
        done = self._searched(trial.number)
        possible = problem is None and verdict.fits
        if not possible and not done:
            state: State = "failed" if problem is not None else "infeasible"
            record = self._record(Repeat(trial.number, 0, "search", params, verdict))
            self._save(dataclasses.replace(record, state=state, error=problem or verdict.reason))
        if possible and all(record.state != "infeasible" for record in done):
            for repeat in range(self.plan.suite.measure.repeats):
                if self._pruned(trial.number):
                    break
                yield from self._repeat(Repeat(trial.number, repeat, "search", params, verdict))
        self._tell(trial)

    def _verdict(self, params: dict[str, Any]) -> tuple[Verdict, str | None]:
        """The budget of a configuration; or that its settings contradict each other."""
        try:
            self.plan.trainer.check(self.plan.settings(params))
            return self.plan.verdict(params, self.engine.available()), None
        except SettingsError as error:
            return Verdict(), str(error)

    def _tell(self, frozen: FrozenTrial) -> None:
        state, values, constraints = self._judge(frozen.number)
        trial = optuna.trial.Trial(self._optuna, frozen._trial_id)
        for key, value in constraints.items():
            if key not in frozen.constraints:  # a crash may have come between this and telling
                trial.set_constraint(key, value)
        for percent, value in self._checks(frozen.number).items():
            if percent not in frozen.intermediate_values:
                trial.report(value, percent)
        for key, text in self._reason(frozen.number).items():
            trial.set_user_attr(key, text)
        self._optuna.tell(frozen.number, values, state, skip_if_finished=True)

    def _checks(self, number: int) -> dict[int, float]:
        """What a trial's curve tells the pruner, by percent of the budget."""
        first = self.study.of_trial(number)[0]
        return pruning.checks_of(self.plan.suite, self.study.folder / first.log / "curve.jsonl")

    def _reason(self, number: int) -> dict[str, str | None]:
        return reason(self.plan.suite, self._searched(number))

    def _pruned(self, number: int) -> bool:
        return any(record.state == "pruned" for record in self._searched(number))

    def _judge(self, number: int) -> Judgement:
        return judge(self.plan.suite, self._searched(number))

    def _searched(self, number: int) -> list[Record]:
        """What the sampler knows of a trial; the second look comes after it."""
        return [record for record in self.study.of_trial(number, "search") if not record.second_look]

    # -- the second look

    def _second_look(self) -> Iterator[Work]:
        """The best trials of the search once more: the best by both looks is less often just the luckiest."""
        first = [record for record in self.study.records.records if not record.second_look]
        candidates = [trial for trial in ranking(first, self.plan.suite, "search") if trial != BASELINE]
        for trial in candidates[: self.plan.suite.looked_at(len(candidates))]:
            if self._left() > 0:
                yield _unless_taken_over(self._look_at(trial))

    def _look_at(self, trial: int) -> Work:
        params = self.study.params(trial)
        verdict = self._verdict(params)[0]
        for number in range(SECOND_LOOK, SECOND_LOOK + self.plan.suite.measure.repeats):
            yield from self._repeat(Repeat(trial, number, "search", params, verdict))

    # -- the confirmation

    def _confirmation(self) -> Iterator[Work]:
        """The best trials and the baseline once more, in blocks as ``harness.study.confirmation`` makes them."""
        confirm = self.plan.suite.confirm
        if confirm is None:
            return
        candidates = [trial for trial in self.study.ranking(self.plan.suite) if trial != BASELINE][: confirm.top]
        pinned = {record.trial for record in self.study.records.records if record.pinned}
        candidates += sorted(t for t in pinned - {BASELINE, *candidates} if self.study.measured(t))
        schedule_of_blocks = schedule(
            confirm, candidates, self.study.records.records, study=self.plan.study_id,
            first_repeat=self.plan.suite.measure.repeats, baseline=self.study.measured(BASELINE),
        )  # fmt: skip
        recorded = {(r.trial, r.repeat) for r in self.study.records.records if r.phase == "confirm"}
        for block in schedule_of_blocks:
            if self._left() > 0:
                yield _unless_taken_over(self._block(block))
            else:
                self.missing_blocks += not recorded.issuperset(block)

    def _block(self, block: Block) -> Work:
        """Its repeats in turns where they can be alive together, otherwise one after the other."""
        repeats = []
        for trial, number in block:
            params = self.study.params(trial)
            repeats.append(Repeat(trial, number, "confirm", params, self._verdict(params)[0]))
        if self._fit_together(repeats):
            yield from self._repeat(*repeats)
            return
        for repeat in repeats:
            yield from self._repeat(repeat)
        # all on one node: if that was lost on the way, again on the node that the work is on
        if len({attempts_that_count(self._own(repeat))[0].node for repeat in repeats}) > 1:
            for repeat in repeats:
                yield from self._measure([repeat], self._own(repeat)[-1].attempt + 1, True)

    def _fit_together(self, repeats: Sequence[Repeat]) -> bool:
        """Whether they can take turns: measured for their speed, by trainers that can be stopped, within the memory.

        Learning takes minutes, in which a machine's speed evens out, and an interruption would lose all that are alive.
        """
        suite, plan = self.plan.suite, self.plan
        if suite.learns or not (suite.measure.turns and self.engine.in_turns and self.engine.alone):
            return False
        if not all(plan.trainer.pausable(plan.settings(repeat.params)) for repeat in repeats):
            return False
        return self.plan.fit_together([self.study.of_trial(repeat.trial) for repeat in repeats])

    # -- repeats

    def _repeat(self, *repeats: Repeat) -> Work:
        """Measure what has no record yet, several in turns; again while disturbed, retries are left and so is time."""
        last = [next(reversed(self._own(repeat)), None) for repeat in repeats]
        yield from until_calm(last, partial(self._measure, repeats), self._again)

    def _own(self, repeat: Repeat) -> list[Record]:
        """All attempts at a repeat that there are."""
        key = (repeat.trial, repeat.number, repeat.phase)
        return [r for r in self.study.records.records if (r.trial, r.repeat, r.phase) == key]

    def _again(self, last: Sequence[Record]) -> bool:
        retries_left = max(one.attempt for one in last) < self.plan.suite.measure.disturbed_retries
        if not (retries_left and self.engine.alone and any(one.disturbed for one in last)):
            return False
        newest = [record for record in self.study.records.own if record.node == last[0].node][-len(last) :]
        if {(r.trial, r.repeat, r.phase) for r in newest} != {(r.trial, r.repeat, r.phase) for r in last}:
            return False  # of an earlier run: alone, outside of its block, it would be measured beside nothing
        # the search leaves the confirmation its time
        needed = self._needed() if last[0].phase == "search" else len(last) * self.plan.repeat_seconds
        return self._left() > needed

    def _measure(self, repeats: Sequence[Repeat], attempt: int, anew: bool) -> Attempt:
        """Run one attempt at each and record them."""
        prepared = []
        for repeat in repeats:
            record = dataclasses.replace(
                self._record(repeat, attempt), traced=self.trace, in_turns=len(repeats) > 1, anew=anew
            )
            self.display.started(record, self._what(record))
            prepared.append((record, self._job(record, repeat.verdict)))
        records = yield from measured(prepared)
        for record in records:
            if self.trace:
                timelines.end(self.study.folder / record.log)
            self.study.records.append(record)
        for record in records:
            self._explain(record)
        return records

    def _job(self, record: Record, verdict: Verdict) -> Job:
        suite = self.plan.suite
        folder = self.study.folder / record.log
        seed = {"seed": record.seed} if "seed" in self.plan.trainer.defaults() else {}
        trainer, settings = self.plan.launch(record.params | seed)
        settings |= timelines.begin(folder) if self.trace else {}
        spec = TrialSpec.of(suite.measure, trainer, settings, folder)
        seconds = suite.limits.trial_timeout_seconds, suite.limits.progress_timeout_seconds
        limits = RepeatLimits(*seconds, verdict.host_limit)
        return Job(spec, limits, self._watcher(record), max(verdict.host_bytes, verdict.expected_host_bytes))

    def _watcher(self, record: Record) -> Callable[[dict[str, Any]], str | None]:
        """Shows progress; and ends a trial that falls behind, if it is one that may be pruned."""
        pruner = self.plan.suite.pruner
        judge = pruning.Judge(self.plan.suite, pruner, self._optuna) if pruner and pruning.may_end(record) else None

        def watch(progress: dict[str, Any]) -> str | None:
            self.display.progress(record, progress)
            return judge(progress) if judge else None

        return watch

    def _what(self, record: Record) -> str:
        suite = self.plan.suite
        again = f", again ({record.attempt} of {suite.measure.disturbed_retries})" if record.attempt else ""
        if record.phase == "confirm":
            return f"confirming trial {record.trial}, repeat {record.repeat - suite.measure.repeats + 1}{again}"
        if record.second_look:
            return f"second look at trial {record.trial}, repeat {record.repeat - SECOND_LOOK + 1}{again}"
        repeat = f", repeat {record.repeat + 1} of {suite.measure.repeats}" if suite.measure.repeats > 1 else ""
        return f"trial {record.trial} ({record.trial + 1} of {self.plan.trials}){repeat}{again}"

    def _record(self, repeat: Repeat, attempt: int = 0) -> Record:
        params, verdict = repeat.params, repeat.verdict
        base = int(self.plan.settings(params).get("seed", self.plan.suite.sampler.seed))
        return Record(
            study=self.plan.study_id, trial=repeat.trial, repeat=repeat.number, state="failed", phase=repeat.phase,
            baseline=repeat.trial == BASELINE, pinned=self._pinned_name(params), params=params,
            seed=base + repeat.number,
            budget_host_bytes=verdict.host_bytes, budget_shm_bytes=verdict.shm_bytes,
            budget_device_bytes=verdict.device_bytes,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"), commit=self.study.commit,
            dirty=self.study.dirty, suite_hash=self.plan.suite.study_id(), versions=self.study.versions,
            threads=self._threads(params), machine=self.engine.machine, shared=not self.engine.alone, attempt=attempt,
            budget_items=verdict.items, confirm_repeats=self._confirm_repeats(repeat.phase),
            log=f"logs/{repeat.trial}-{repeat.number}" + (f"-again-{attempt}" if attempt else ""),
        )  # fmt: skip

    def _confirm_repeats(self, phase: Phase) -> int:
        confirm = self.plan.suite.confirm
        return confirm.repeats if confirm is not None and phase == "confirm" else 0

    def _pinned_name(self, params: Params) -> str:
        """What the suite calls a configuration that it pins."""
        plan, identity = self.plan, self.plan.space.identity
        own = identity({name: value for name, value in params.items() if name in plan.space.dimensions})
        return next((name for name, pinned in plan.pinned.items() if identity(plan.effective(pinned)) == own), "")

    def _threads(self, params: dict[str, Any]) -> str:
        try:
            threads = self.plan.trainer.threads(self.plan.settings(params))
        except SettingsError:  # such a trial is recorded as failed
            return ""
        return ", ".join(f"{part} {count}" for part, count in threads.items())

    def _save(self, record: Record) -> None:
        self.study.records.append(record)
        self._explain(record)

    def _explain(self, record: Record) -> None:
        """Add what is known of why it is as it is to a record that is safe already."""
        explained = self.outlook.complete(record) if self.outlook else record
        if explained != record:
            self.study.records.explain(explained)
        self.display.finished(explained)
