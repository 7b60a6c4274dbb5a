"""What a study found, said so that it promises no more than the measurements do: the first screen of every report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.measure.record import Record
from harness.report.studies import ReportedTrial, trials_of
from harness.stats.inference import (
    BOOTSTRAPPED,
    LEVEL,
    AsWell,
    Interval,
    Verdict,
    bootstrap_interval,
    change_text,
    confidence_text,
    evidence_text,
    least_p,
    needed_pairs,
    paired_change,
    unpaired_comparison,
    verdict,
)
from harness.study.best_trials import judged_by, of_one_kind, ranking
from harness.study.learning import Learned, learned, refused, shipped_against
from harness.suite.metrics import RETURNS, TIMES
from harness.suite.schema import Suite
from harness.suite.text import count_text, metric_text, number_text, percent_text, settings_text, value_text
from harness.trainers import evidence
from harness.trainers.evidence import Evidence

Pairs = list[tuple[float, float]]


@dataclass(frozen=True)
class Finding:
    """The best configuration beside the baseline, by the first objective. None and NaN are what was not measured."""

    metric: str
    direction: Literal["maximize", "minimize"]
    best: int | None
    """trial; the same as ``baseline`` where nothing was better"""
    baseline: int | None
    trials: int
    """measured to their end by the search"""
    value: float = math.nan
    """median, of returns the interquartile mean, over the repeats that count (``harness.measure.record.typical``)"""
    baseline_value: float = math.nan
    value_interval: Interval | None = None
    """95 %, of the median; None with fewer than six repeats. Without it nothing is claimed of a return"""
    baseline_interval: Interval | None = None
    points: tuple[float, ...] = ()
    """the repeats behind ``value``"""
    baseline_points: tuple[float, ...] = ()
    missing: int = 0
    """repeats behind the two values that ran to their end without a value, such as a target that was not reached"""
    latest: float | None = None
    """seconds that stand for those of a repeat that did not reach the target: those of the longest training"""
    came_to: float = math.nan
    """return of the best at the end of its training"""
    reached: bool = False
    """some repeat of some trial has a value"""
    confirmed: bool = False
    """the best was measured again after the search, in turns with the baseline"""
    pairs: int = 0
    """repeats of best and baseline that the confirmation measured side by side"""
    candidates: int = 0
    """trials that the confirmation measured beside the baseline"""
    looks: int = 1
    """at the result: one more each time that ``confirm.repeats`` was changed"""
    level: float = LEVEL
    """of the test: the best of several candidates was picked, and each look was one more chance to be wrong"""
    p: float | None = None
    """of ``harness.stats.inference.paired_change`` over the pairs, at ``level``; None without pairs"""
    change: float | None = None
    """from the baseline to the best, above 0 where the best has more: over the pairs, which share a seed, or without
    pairs of the two values"""
    ratio: bool = False
    """the change is the geometric mean of the ratios, less 1. Otherwise it is the mean difference: returns, and all
    else that is not above 0, have no ratio that means something"""
    interval: Interval | None = None
    """of the change, what the test does not reject; None with fewer pairs than it needs"""
    smallest_effect: float | None = None
    """change that would have been found with a probability of 80 %; where the baseline stayed the best the largest of
    all candidates; None with too few pairs"""
    repeats: int = 0
    """behind the claim, of best and baseline together"""
    failed: int = 0
    """repeats that should be behind the claim, but failed or did not end in time: of best and baseline; where the
    baseline stayed the best, of all candidates"""
    best_failed: int = 0
    """those of the best: a configuration that fails is not better"""
    unsteady: int = 0
    """of ``repeats``"""
    disturbed: int = 0
    """of ``repeats``"""
    limited_by: str = ""
    """the verdict on the best"""
    claim: str = ""
    """one sentence"""
    learns: AsWell | Literal["not measured", ""] = ""
    """beside the baseline; empty where the objective says it or the best is the baseline"""
    learning: str = ""
    """what shipped evidence and training here say of that, and which trials were refused for it"""
    learned: Learned | None = None
    """what was trained here, of the best"""
    refused: tuple[int, ...] = ()
    """trials that are shown to learn worse than the baseline"""
    shown: bool = False
    """the best is better than the baseline beyond what noise and the luck of a search explain"""

    @property
    def too_few_pairs(self) -> bool:
        """Even if all pairs agreed, the test would not reach its level."""
        return self.pairs < needed_pairs(self.level)


def conclude(suite: Suite, records: Sequence[Record]) -> Finding:
    """What these records of a study show."""
    objective, metric = suite.objectives[0], suite.objectives[0].metric
    looks = len({r.confirm_repeats for r in records if r.phase == "confirm"}) or 1
    records = of_one_kind(records)
    trials = {trial.number: trial for trial in trials_of(records)}
    best = next(iter(ranking(records, suite)), None)
    measured = {r.trial for r in records if r.phase == "search" and r.state == "complete"}
    baseline = next((r.trial for r in records if r.baseline and r.trial in measured), None)
    found = Finding(metric, objective.direction, best, baseline, len(measured))
    if len(suite.tasks) > 1:  # results of two environments are not compared
        return replace(found, best=None, baseline=None, claim=standing_claim(suite, standings(suite, records))[1])
    if best is None:
        return replace(found, claim="No trial was measured to its end within the constraints.")

    own, base = trials[best], None if baseline is None else trials[baseline]
    out = refused(records, suite)
    # of those that were refused nothing is claimed, for a reason that has nothing to do with their speed
    candidates = {r.trial for r in records if r.phase == "confirm"} - {baseline} - out
    sides = [own] if base is None or base is own else [base, own]
    behind = [record for one in sides for record in one.complete]
    asked = [*sides, *(trials[n] for n in candidates)] if own is base else sides
    # where all repeats of a confirmation failed those of the search stand in for them, and are not what failed
    tried = [record for one in asked for record in judged_by(one.records, "confirm") or one.counted]
    failed = [record.trial for record in tried if record.state in ("failed", "timeout")]
    found = replace(
        found, value=own.value(metric), points=tuple(own.values(metric)), value_interval=own.interval(metric),
        confirmed=own.confirmed, repeats=len(behind), failed=len(failed), best_failed=failed.count(best),
        missing=sum(not math.isfinite(record.metric(metric)) for record in behind),
        latest=own.latest if metric in TIMES else None, came_to=own.value("episode_return"),
        reached=any(trial.reached(metric) for trial in trials.values()),
        unsteady=sum(record.unsteady for record in behind), disturbed=sum(bool(r.disturbed) for r in behind),
        limited_by=own.verdict, looks=looks,
    )  # fmt: skip

    if base is not None:
        found = replace(
            found, baseline_value=base.value(metric), baseline_points=tuple(base.values(metric)),
            baseline_interval=base.interval(metric), candidates=len(candidates), refused=tuple(sorted(out)),
            level=LEVEL / (max(1, len(candidates)) * looks),
        )  # fmt: skip
        found = replace(found, **_compared(found, base, [trials[n] for n in candidates] if own is base else [own]))
        if not suite.learns and own is not base:
            found = replace(found, **_learning(suite, records, own, base))
        worse = [f"Trial {n} is not the best, as it learns worse: {_worse(suite, records, n)}." for n in found.refused]
        found = replace(found, learning=" ".join(filter(None, [found.learning, *worse])))
    if found.confirmed and found.p is not None and found.change is not None and not found.best_failed:
        decided = verdict(found.change, found.p, least_p(found.pairs), found.direction, found.level)
        found = replace(found, shown=decided == "better")
    return replace(found, claim=f"{'; '.join(filter(None, [_claim(found), doubts(found)]))}.")


def _compared(found: Finding, baseline: ReportedTrial, others: Sequence[ReportedTrial]) -> dict[str, Any]:
    """What pairs of repeats, or without pairs the two values, say of the best against the baseline.

    ``others``: the best. Where that is the baseline they are the candidates, of which none was better: what would have
    been seen of them?
    """
    metric, level, is_baseline = found.metric, found.level, found.best == found.baseline
    ratio = _have_ratios(metric, [value for one in (baseline, *others) for value in one.values(metric)])
    usable = is_baseline or (found.confirmed and (not found.missing or metric in TIMES))
    every = [pairs for one in others if usable and (pairs := _pairs(metric, baseline, one))]
    seen = [paired_change([[pair] for pair in pairs], ratio=ratio, level=level) for pairs in every]
    if is_baseline:
        effect = max((one.smallest_effect for one in seen), default=math.inf)
        return {"ratio": ratio, "smallest_effect": effect if math.isfinite(effect) else None}
    if not seen:
        (own,) = others
        if own.measured != baseline.measured:
            return {"ratio": ratio}
        change = found.value / found.baseline_value - 1 if ratio else found.value - found.baseline_value
        return {"ratio": ratio, "change": change if math.isfinite(change) else None}
    (one,) = seen
    known: dict[str, Any] = {"pairs": one.pairs, "p": one.p, "ratio": ratio, "change": one.value}
    if one.pairs < needed_pairs(level):
        return known
    return known | {"interval": one.interval, "smallest_effect": one.smallest_effect}


def _learning(suite: Suite, records: Sequence[Record], best: ReportedTrial, baseline: ReportedTrial) -> dict[str, Any]:
    """Whether the best learns as well as the baseline: what this project has shown beforehand, and what was seen here.

    It is said to learn as well where enough seeds here show it; or where what is shipped shows it for every setting
    that it changes, and the seeds here do not contradict that.
    """
    before = baseline.params
    changed = {name: value for name, value in best.params.items() if name not in before or value != before[name]}
    asked, said, shown = evidence.needing(changed), list[str](), set[str]()
    for one in evidence.covering(suite.trainer, asked):
        if not one.current:
            name = settings_text(one.settings)
            said.append(f"shipped evidence on {name}: it was shown for an earlier version of the learning code")
            continue
        said.append(_shipped(one))
        shown |= set(one.settings) if one.verdict == "as well" else set()
    missing = {name: value for name, value in asked.items() if name not in shown}
    covered = bool(said) and not missing
    if said:
        if len(shown) > 1 < len(said):
            said.append("each by itself, not together")
        if missing:
            said.append(f"nothing that is shipped shows it for {settings_text(missing)}")
        if same := {name: value for name, value in changed.items() if name not in asked}:
            said.append(f"{settings_text(same)} changes rounding and policy lag alone")

    name, here = settings_text(changed), learned(records, suite, best.number)
    if here is not None:
        said.append(_here(suite, here))
    if not said:
        text = f"Only speed was measured. Nothing shows whether it learns as well with {name}"
        text += "" if asked else ", which changes rounding and policy lag alone"
        return {"learns": "not measured", "learning": f"{text}."}
    learns: AsWell = "as well" if (here and here.verdict == "as well") or covered else "cannot tell"
    head = f"It is not shown whether it learns as well with {name}"
    if learns == "as well":
        head = f"It learns as well with {name}"
    return {"learns": learns, "learning": f"{head}: {'; '.join(said)}.", "learned": here}


def _worse(suite: Suite, records: Sequence[Record], trial: int) -> str:
    """Of a trial that was refused: what shows that it learns worse."""
    seen, shipped = learned(records, suite, trial), shipped_against(records, suite, trial)
    here = [_here(suite, seen)] if seen is not None else []
    return "; ".join(here + ([_shipped(shipped)] if shipped is not None else []))


def _shipped(one: Evidence) -> str:
    """What evidence from beforehand shows."""
    text = f"{_margin_text(one.difference, Interval(*one.interval))}, {one.seeds} seeds in {', '.join(one.returns)}"
    text += f", {one.env_steps:,} env steps each as the trainer comes, {one.machine}"
    return f"shipped evidence on {settings_text(one.settings)}: {_word(one.verdict, one.margin)} ({text})"


def _here(suite: Suite, seen: Learned) -> str:
    """What seeds of the study show."""
    assert suite.confirm is not None and suite.confirm.learning is not None
    asked = suite.confirm.learning
    here = f"here {len(seen.points)} seeds beside {len(seen.baseline_points)} of the baseline"
    here += f", {asked.env_steps:,} env steps each"
    if not math.isfinite(seen.value):
        return f"{here}: {seen.why}"
    text = _margin_text(seen.value, seen.interval, seen.level)
    if asked.spread is not None:
        within = "outside of" if seen.verdict == "worse" else "within"
        return f"{here}: {text}, {within} the spread of shipped seeds"
    text = ", ".join(filter(None, [text, seen.why]))
    return f"{here}: {_word(seen.verdict, asked.margin)} ({text})"


def _word(verdict: AsWell, margin: float) -> str:
    return verdict if verdict == "worse" else f"{verdict} within {percent_text(margin)}"


def _margin_text(value: float, interval: Interval | None, level: float = LEVEL) -> str:
    """As "-1.2%, 95 % interval -4.0% to +1.6%"."""
    text = change_text(value, fraction=True)
    if interval is None:
        return text
    low, high = (change_text(end, fraction=True) for end in interval)
    return f"{text}, {confidence_text(level)} interval {low} to {high}"


def _pairs(metric: str, baseline: ReportedTrial, trial: ReportedTrial) -> Pairs:
    """(baseline, trial) by the number of the repeat: of one block of the confirmation, and with the same seed."""
    before, after = (
        {r.repeat: side.of(r, metric) for r in side.complete if r.phase == "confirm"} for side in (baseline, trial)
    )
    both = ((before[repeat], after[repeat]) for repeat in sorted(before.keys() & after.keys()))
    return [pair for pair in both if all(map(math.isfinite, pair))]


def _have_ratios(metric: str, values: Sequence[float]) -> bool:
    """Whether ratios mean something: it is no return, and all values are so far above 0 that ratios are finite."""
    return metric not in RETURNS and (not values or (min(values) > 0 and math.isfinite(max(values) / min(values))))


@dataclass(frozen=True)
class Standing:
    """A configuration in one environment, and how far the baseline is ahead of it there, by the first objective."""

    trial: ReportedTrial
    name: str
    """of the trainer, or the settings"""
    value: float
    points: tuple[float, ...]
    """of the repeats, which are seeds"""
    interval: Interval | None = None
    """95 %, of the value; None with too few repeats"""
    failed: int = 0
    """repeats that failed or did not end in time"""
    reached: int = 0
    """number of ``points`` that are no stand-in for a missed target"""
    ahead: float = math.nan
    """mean of the baseline less the mean of this one; the reverse where less is better"""
    ahead_interval: Interval | None = None
    """what the test does not reject, at ``level``"""
    p: float = math.nan
    level: float = LEVEL
    """of the test: that of one comparison over the number of those that an environment has"""
    verdict: Verdict | None = None
    """on the baseline beside this one; None of the baseline itself"""

    @property
    def word(self) -> str:
        """What the baseline is beside this one."""
        if self.verdict == "undecided" and self.failed:
            return "a repeat failed"
        words = {"better": "ahead", "worse": "behind", "same": "not told apart", "undecided": "too few seeds"}
        return "the baseline" if self.verdict is None else words[self.verdict]

    @property
    def text(self) -> str:
        """The verdict in words, with what it rests on."""
        if self.verdict is None or not math.isfinite(self.ahead):
            return self.word
        text = f"{self.word}, {number_text(self.ahead, '+')}"
        if self.ahead_interval is None:
            return text
        low, high = (number_text(end, "+") for end in self.ahead_interval)
        return f"{text} ({confidence_text(self.level)} interval {low} to {high})"


def standings(suite: Suite, records: Sequence[Record]) -> dict[str, list[Standing]]:
    """Every configuration that was measured in each environment, the baseline first.

    Seeds of two trainers have nothing in common, so values are compared without pairs.
    """
    found: dict[str, list[Standing]] = {env: [] for env in suite.tasks}
    metric, sign = suite.objectives[0].metric, 1 if suite.objectives[0].direction == "maximize" else -1
    for trial in sorted(trials_of(records), key=lambda trial: not trial.baseline):
        others = {name: value for name, value in trial.params.items() if name not in ("env", "trainer")}
        names = [trial.params.get("trainer", ""), settings_text(others) if others else ""]
        points = tuple(trial.values(metric))
        interval = None if metric in RETURNS else trial.interval(metric)
        if metric in RETURNS and len(points) >= BOOTSTRAPPED:
            interval = Interval(*map(float, bootstrap_interval(points)))
        one = Standing(
            trial, " ".join(filter(None, names)) or suite.trainer, trial.value(metric), points, interval,
            sum(record.state in ("failed", "timeout") for record in trial.counted), trial.reached(metric),
        )  # fmt: skip
        found.setdefault(trial.params.get("env", suite.tasks[0]), []).append(one)

    for own in found.values():
        base = own[0] if own and own[0].trial.baseline else None
        for index, one in enumerate(own[1:] if base else [], start=1):
            assert base is not None
            if not (one.points and base.points):
                own[index] = replace(one, verdict="undecided")
                continue
            level = LEVEL / (len(own) - 1)
            seen = unpaired_comparison([sign * x for x in one.points], [sign * x for x in base.points], level)
            decided = verdict(seen.value, seen.p, seen.least_p, "maximize", level)
            failed = one.failed
            # what fails is not better, whatever the rest of it has
            if (decided == "better" and base.failed) or (decided == "worse" and one.failed):
                decided, failed = "undecided", max(one.failed, base.failed)
            own[index] = replace(
                one, ahead=seen.value, p=seen.p, level=level, verdict=decided, failed=failed,
                ahead_interval=seen.interval if all(map(math.isfinite, seen.interval)) else None,
            )  # fmt: skip
    return {env: own for env, own in found.items() if own}


def baseline_name(found: Mapping[str, Sequence[Standing]]) -> str:
    return next((own[0].name for own in found.values() if own[0].trial.baseline), "the baseline")


def standing_claim(suite: Suite, found: Mapping[str, Sequence[Standing]]) -> tuple[int, str]:
    """In how many environments the baseline is ahead of all others beyond noise, and where, in words."""
    ahead = [env for env, own in found.items() if own[1:] and all(one.verdict == "better" for one in own[1:])]
    behind = [env for env, own in found.items() if any(one.verdict == "worse" for one in own)]
    name = baseline_name(found)
    if not any(own[1:] for own in found.values()):
        return 0, f"{name} was measured, and nothing beside it"
    text = f"{name} is ahead of all others, beyond noise, in {', '.join(ahead) or 'no environment'}"
    text += f", and behind one of them in {', '.join(behind)}" if behind else ""
    return len(ahead), f"{text}; {metric_text(suite.objectives[0].metric)}, seeds without pairs."


def _claim(found: Finding) -> str:
    """What the numbers allow to be claimed, with what it rests on."""
    metric, name, is_baseline = found.metric, metric_text(found.metric), found.best == found.baseline
    no_interval = found.value_interval is None or (found.baseline is not None and found.baseline_interval is None)
    if metric in RETURNS and no_interval:
        own, base = (
            ", ".join(map(number_text, sorted(points))) or "none" for points in (found.points, found.baseline_points)
        )
        text = f"No claim with fewer than six seeds: trial {found.best} had {name} {own}"
        return text if is_baseline or found.baseline is None else f"{text}, the baseline {base}"
    if metric in TIMES and math.isnan(found.value):
        came_to = f"{'a return of ' * (metric != 'seconds_to_return')}{number_text(found.came_to)}"
        if found.reached:
            missed = f"did not reach {TIMES[metric]} in half of its repeats or more"
            return f"Trial {found.best} {missed}: it came to {came_to}"
        return f"No trial reached {TIMES[metric]}: trial {found.best} came to {came_to}, the furthest"
    value, seen = side_text(metric, found.value, found.value_interval, found.points), ""
    if found.smallest_effect is not None:
        seen = f"{change_text(found.smallest_effect, fraction=found.ratio, sign='')} would have been seen"
    if is_baseline and found.trials == 1:
        return f"One configuration was measured: {value}"
    if is_baseline:
        seen = seen and f"; {seen}"
        proper = " that does not learn worse" * bool(found.refused)
        return f"No configuration{proper} was better than the baseline, {value}, of {found.trials} measured{seen}"
    if found.baseline is None:
        return f"Trial {found.best} has {value}, and there is no baseline to compare it with"
    change = "an unknown change of" if found.change is None else change_text(found.change, fraction=found.ratio)
    change += f" {name} against the baseline"
    if not found.confirmed:
        return (
            f"Trial {found.best} measured {change}, the best of {found.trials}; it was not confirmed, and the best of "
            "a noisy search is partly the luckiest"
        )
    evidence = [evidence_text(found.interval, found.pairs, fraction=found.ratio, level=found.level)]
    evidence += [f"{found.candidates} candidates"] * (found.candidates > 1)
    evidence += [f"{found.looks} looks"] * (found.looks > 1)
    evidence += [seen] * bool(seen and not found.shown)
    rest = f"{change} ({', '.join(evidence)})"
    if found.shown:
        return f"Trial {found.best} is better than the baseline: {rest}"
    if found.too_few_pairs:
        few = f"that is too few to tell a difference from noise at {confidence_text(found.level)}"
        return f"Trial {found.best} measured {rest}; {few}"
    return f"No difference is shown: trial {found.best} measured {rest}"


def side_text(metric: str, value: float, interval: Interval | None, points: Sequence[float]) -> str:
    """A value with what is known of its spread: ``130 env steps a second, median of 1 repeat``."""
    if metric in TIMES and math.isnan(value):
        return f"{TIMES[metric].removeprefix('the ')} not reached in half of {len(points)} repeats or more"
    low, high = (value_text(metric, end) for end in interval or (min(points, default=0), max(points, default=0)))
    text = f"{value_text(metric, value)} {metric_text(metric)}"
    text += "" if interval is None else f" (95 % interval {low} to {high})"
    typical = "interquartile mean" if metric in RETURNS else "median"
    text += f", {typical} of {count_text(len(points), 'repeat')}"
    return text if interval or len(points) < 2 else f"{text} from {low} to {high}"


def change_of(found: Finding) -> str:
    """What the best has over the baseline, with its interval or why there is none."""
    if found.best == found.baseline:
        return "none: the best is the baseline"
    if found.change is None:
        return "not known: the two were not both measured in the same way"
    text = change_text(found.change, fraction=found.ratio)
    if found.interval is not None:
        return f"{text}, {evidence_text(found.interval, found.pairs, fraction=found.ratio, level=found.level)}"
    pairs = f"only {count_text(found.pairs, 'pair')}" if found.confirmed else "not confirmed"
    return f"{text}, no interval: {pairs}"


def doubts(found: Finding) -> str:
    """How many of the repeats behind the claim failed or are not to be trusted blindly; empty when none."""
    without = "without a value"
    if found.latest is not None:
        without = f"without reaching the target, counted as the longest training ({number_text(found.latest)} s)"
    counts = {"failed": found.failed, "disturbed": found.disturbed, "unsteady": found.unsteady,
              without: found.missing}  # fmt: skip
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    asked = count_text(found.repeats + found.failed, "repeat")
    return f"of {asked} {', '.join(parts)}" if parts else ""


def against(metric: str, trial: ReportedTrial, baseline: ReportedTrial) -> tuple[float, str]:
    """A trial beside the baseline, as a number and as text: a ratio less 1, of returns and beside 0 a difference.

    Where the confirmation measured both side by side it is the change over their pairs, as the claim has it.
    """
    value, before = trial.value(metric), baseline.value(metric)
    if metric in RETURNS or not before > 0:
        return value - before, number_text(value - before, "+")
    pairs = _pairs(metric, baseline, trial)
    change = value / before - 1
    if pairs and _have_ratios(metric, [one for pair in pairs for one in pair]):
        change = paired_change([[pair] for pair in pairs], ratio=True).value
    return change, percent_text(change, "+")
