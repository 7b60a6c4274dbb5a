"""Pairs out of the records of studies: a session of each side, by the configurations and repeats that both have.

A study is a session: what was measured in it has more in common than its code. So the repeats of two sessions say how
far these two lie apart, and it takes as many sessions as a test needs pairs to say what the code changed. The sessions
of a side are pairs with those of the other in the order in which they began.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from harness.compare.sides import CompareError, Side
from harness.compare.verdict import Pair, Pairs
from harness.files.yaml_file import InputError
from harness.measure.record import Phase, Record
from harness.study.best_trials import judged_by
from harness.study.results import RecordedStudy
from harness.suite.schema import Suite

PHASES: tuple[Phase, ...] = ("confirm", "search")
"""the first that both sides have of a configuration: the search has measured its winner when that was lucky"""
EXTENDABLE = ("repeats", "disturbed_retries", "turns")
"""parts of a suite's ``measure`` that do not change what is measured; whether turns were taken each record says"""


Repeats = dict[tuple[Phase, int], list[Record]]
"""of one configuration in one session, by phase and number; without pruned ones"""
Configurations = dict[str, list[Repeats]]
"""one for each session, by what decides the meaning of a number, as text"""


def pairs(base: Side, new: Side, results: Path, *, across_machines: bool = False) -> tuple[Pairs, list[str]]:
    """Pairs of two sides that were measured before, and the metrics that decide: the objectives of BASE's suites.

    Raises:
        CompareError: a side has no records.
        InputError: a study's suite.yaml cannot be read.
    """
    unreadable: list[str] = []
    studies = [_studies(side, results, unreadable) for side in (base, new)]
    own, other = (_configurations(side) for side in studies)
    sessions: dict[int, Pair] = defaultdict(list)
    lost, notes = 0, []
    for configuration in sorted(own.keys() & other.keys()):
        for number, (one, two) in enumerate(zip(own[configuration], other[configuration], strict=False)):
            lost += _lost(one, two)
            matched, left_out = _matched(one, two, across_machines)
            sessions[number] += matched
            notes += left_out
    made = Pairs([sessions[number] for number in sorted(sessions) if sessions[number]], sessions=True, lost=lost)
    made.notes[:] = [*dict.fromkeys(notes), *_notes(made, own, other), *dict.fromkeys(unreadable)]
    objectives = [objective.metric for suite, _ in studies[0] for objective in suite.objectives]
    return made, list(dict.fromkeys(objectives))


def _studies(side: Side, results: Path, unreadable: list[str]) -> list[tuple[Suite, list[Record]]]:
    """Suites and records of a side, oldest first: of its studies, or of all below ``results`` at its commit.

    Of those at a commit the ones that cannot be read are left out, and ``unreadable`` says so.
    """
    if side.configuration is not None:
        problem = "a configuration has no measurements of its own; add --measure to measure both sides now"
        raise CompareError(f"{side.name}: {problem}")
    if side.study is not None:
        studies = sorted(map(RecordedStudy, (side.study, *side.pooled)), key=lambda study: study.began)
        return [(study.suite, study.records) for study in studies]
    found = []
    for study in (RecordedStudy(path.parent) for path in sorted(results.glob("*/*/trials.jsonl"))):
        try:
            records = [record for record in study.records if record.commit == side.commit and not record.dirty]
            if records:
                found.append((study.suite, records))
        except (OSError, InputError) as error:
            unreadable.append(f"a study was left out, as it cannot be read: {study.folder}: {error}")
    if not found:
        raise CompareError(
            f"{side.name}: no study below {results} was measured at commit {str(side.commit)[:12]} (studies of changed "
            "working trees do not count); add --measure to measure both sides now"
            f"{''.join(f'; {one}' for one in unreadable)}"
        )
    return sorted(found, key=lambda study: min(record.started_at for record in study[1]))


def _configurations(studies: Iterable[tuple[Suite, list[Record]]]) -> Configurations:
    found: Configurations = defaultdict(list)
    for suite, records in studies:
        session: dict[str, Repeats] = defaultdict(lambda: defaultdict(list))
        for trial in sorted({record.trial for record in records}):
            own = [record for record in records if record.trial == trial]
            for phase in PHASES:
                first = suite.measure.repeats if phase == "confirm" else 0
                for record in judged_by(own, phase):
                    if record.state != "pruned":
                        session[_configuration(suite, record)][phase, record.repeat - first].append(record)
        for configuration, repeats in session.items():
            found[configuration].append(repeats)
    return found


def _configuration(suite: Suite, record: Record) -> str:
    settings = {"env": suite.env} | suite.fixed | record.params
    trainer = suite.trainer
    if suite.trainers:  # side by side: what ran is the variant, whatever the suite calls it
        variant = suite.trainers[settings.pop("trainer")]
        trainer, settings = variant.trainer, settings | variant.settings
    settings.pop("seed", None)
    how = {name: value for name, value in dataclasses.asdict(suite.measure).items() if name not in EXTENDABLE}
    content = {"trainer": trainer, "settings": settings, "measure": how, "traced": record.traced}
    return json.dumps(content, sort_keys=True)


def _lost(base: Repeats, new: Repeats) -> int:
    """How many more of the repeats that both sides tried NEW did not complete."""

    def failed(side: Repeats) -> int:
        return sum(record.state != "complete" for number in base.keys() & new.keys() for record in side[number])

    return failed(new) - failed(base)


def _complete(side: Repeats, phase: Phase) -> dict[int, list[Record]]:
    """By number of the repeat."""
    found = {n: [r for r in records if r.state == "complete"] for (own, n), records in side.items() if own == phase}
    return {number: records for number, records in found.items() if records}


def _matched(base: Repeats, new: Repeats, across_machines: bool) -> tuple[Pair, list[str]]:
    """The repeats that two sessions have of one configuration, and why others were left out."""
    made: Pair = []
    notes = []
    alike = []
    for phase in PHASES:
        sides = _complete(base, phase), _complete(new, phase)
        kinds = sorted({record.kind for side in sides for records in side.values() for record in records})
        if all(sides) and len(kinds) == 1:
            alike.append(sides)
        elif all(sides):
            notes.append(f"repeats that were measured in different ways ({' and '.join(kinds)}) were left out")
    for before, after in alike[:1]:  # none: confirmed on one side only, or in another way, and measured by no search
        for number, records in sorted(before.items()):
            for one, other in zip(records, after.get(number, []), strict=False):
                if one.machine == other.machine or across_machines:
                    made.append((one, other))
                else:
                    machines = f"{one.machine or 'unnamed'} and {other.machine or 'unnamed'}"
                    notes.append(
                        f"repeats of different machines ({machines}) were left out: their difference says nothing "
                        "about the code. --across-machines compares them nevertheless"
                    )
    return made, notes


def _notes(made: Pairs, base: Configurations, new: Configurations) -> list[str]:
    lost = []
    if made.lost > 0:
        lost.append(
            f"both sides tried the same repeats, and NEW completed {made.lost} fewer than BASE: its trials.jsonl has "
            "the errors"
        )
    base, new = (
        {name: own for name, own in side.items() if any(_complete(one, phase) for one in own for phase in PHASES)}
        for side in (base, new)
    )
    if not made.across:
        shared = len(base.keys() & new.keys())
        return [
            *lost,
            f"BASE has {len(base)} measured configuration{'s' * (len(base) != 1)}, NEW {len(new)}, both have {shared}: "
            "pairs need equal trainer, env, settings and `measure`, and repeats that were complete on both sides",
        ]
    notes = [
        *lost,
        "the sides were measured at different times. A change of the machine in between would look like a change of "
        "the code, so this is never called a regression; --measure measures both sides in turns",
    ]
    if len({record.versions for record in made.records}) > 1:
        versions = sorted({record.versions or "unknown" for record in made.records})
        notes.append(f"installed packages differ: {' | '.join(versions)}")
    return notes
