"""Which repeats of a trial count, and which trials of a study are the best."""

import math
from collections import Counter
from collections.abc import Sequence

from harness.measure.record import Phase, Record, attempts_that_count, typical
from harness.stats.pareto import pareto_front
from harness.study.learning import refused
from harness.suite.metrics import TIMES
from harness.suite.schema import Objective, Suite


def ranking(records: Sequence[Record], suite: Suite, phase: Phase | None = None) -> list[int]:
    """Trials that met all constraints, best first by the first objective; of several objectives only the Pareto front.

    Those that are shown to learn worse than the baseline are left out. What did not reach a target return, or success,
    comes after all that did, by the return that it came to.

    ``phase`` None: the confirmation's repeats where a trial has them, the search's otherwise. What was confirmed comes
    first, then what the search looked at twice: a lucky repeat pushes nothing off that was measured more often. The
    baseline was not picked for its value, so that a single repeat of it says as much as two of the others.
    """
    records = of_one_kind(records)
    scores: dict[int, list[tuple[bool, float]]] = {}
    for trial in sorted({record.trial for record in records} - refused(records, suite)):
        own = [r for r in records if r.trial == trial]
        found = [_score(own, objective, phase) for objective in suite.objectives]
        if feasible(own, suite, phase) and not any(math.isnan(score) for _, score in found):
            scores[trial] = found
    confirmed = {r.trial for r in records if r.phase == "confirm" and r.state == "complete" and phase is None}
    looked = {r.trial for r in records if r.second_look and r.state == "complete"}
    looked |= {r.trial for r in records if r.baseline and looked}
    stage = {trial: (trial in confirmed, trial in looked) for trial in scores}
    best = list(scores)
    if len(suite.objectives) > 1:
        fronts = {
            least: pareto_front({trial: own for trial, own in scores.items() if stage[trial] >= least})
            for least in set(stage.values())
        }
        best = [trial for trial in scores if trial in fronts[stage[trial]]]
    return sorted(best, key=lambda trial: (stage[trial], scores[trial][0]), reverse=True)


def _score(records: Sequence[Record], objective: Objective, phase: Phase | None) -> tuple[bool, float]:
    """Of one trial, the more the better: whether it reached what was asked of it, and its value or how far it came."""
    found = value(records, objective.metric, phase)
    if math.isnan(found) and objective.metric in TIMES:
        return False, value(records, "episode_return", phase)
    return True, found if objective.direction == "maximize" else -found


def feasible(records: Sequence[Record], suite: Suite, phase: Phase | None = None) -> bool:
    """Whether one trial met all constraints."""
    return all(
        bounds.excess(value(records, metric, phase)) <= 0 for metric, bounds in suite.constraints.metrics.items()
    )


def value(records: Sequence[Record], metric: str, phase: Phase | None = None) -> float:
    """The value of one trial: ``typical`` over the repeats that count.

    The search's repeats stand in for a metric that those did not measure, such as the busy fractions of repeats that
    took turns. A target that was not reached counts as measured.
    """
    found = typical(judged_by(records, phase), metric)
    if math.isnan(found) and metric not in TIMES:
        return typical(judged_by(records, "search"), metric)
    return found


def of_one_kind(records: Sequence[Record]) -> list[Record]:
    """The records, without repeats of the confirmation whose numbers are of another kind than those of most.

    A candidate that joined later may not have been able to take turns, as the others did: its numbers and theirs cannot
    be ranked together.
    """
    kinds = Counter(r.kind for r in records if r.phase == "confirm" and r.state == "complete")
    most = max(kinds, key=kinds.__getitem__, default="")
    return [r for r in records if r.phase != "confirm" or not kinds or r.kind == most]


def judged_by(records: Sequence[Record], phase: Phase | None = None) -> list[Record]:
    """The repeats of one trial that count, each with the attempt that counts."""
    confirmed = [r for r in records if r.phase == "confirm"]
    if phase is None:
        phase = "confirm" if any(r.state == "complete" for r in confirmed) else "search"
    return attempts_that_count([r for r in records if r.phase == phase])


def timed_by(records: Sequence[Record]) -> list[Record]:
    """The repeats of one trial that say how its time was used: those that count, or if they took turns the search's."""
    counted = judged_by(records)
    return judged_by(records, "search") if any(record.in_turns for record in counted) else counted
