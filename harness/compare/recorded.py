"""Pairs from recorded studies: one session of each side, with the configurations and repeats that both have.

A study is a session: its repeats share more than their code. Repeats of two sessions therefore show how far these two
sessions are apart. To show what the code changed takes as many sessions as the test needs pairs. The sessions of one
side are paired with those of the other in the order in which they began.
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
from harness.study.results import RecordedStudy, with_records
from harness.suite.schema import Suite

PHASES: tuple[Phase, ...] = ("confirm", "search")
"""both sides are compared by the first that both have: the search measured its winner when it was lucky"""
EXTENDABLE = ("repeats", "disturbed_retries", "turns")
"""parts of a suite's ``measure`` that do not change what is measured; each record says whether turns were taken"""

Repeats = dict[tuple[Phase, int, int], Record]
"""of one configuration in one session, by phase, number, and which of the trials that have it; without pruned ones"""
Configurations = dict[str, list[Repeats]]
"""one for each session, by what decides the meaning of a number, as text"""


def pairs(base: Side, new: Side, results: Path) -> tuple[Pairs, list[str]]:
    """Pairs of two sides that were measured before, and the metrics that decide: the objectives of BASE's suites.

    Raises:
        CompareError: a side has no records.
        InputError: a study's suite.yaml cannot be read.
    """
    unreadable: list[str] = []
    studies = [_studies(side, results, unreadable) for side in (base, new)]
    own, other = (_configurations(side) for side in studies)
    sessions: dict[int, Pair] = defaultdict(list)
    notes: list[str] = []
    lost = 0
    for configuration in sorted(own.keys() & other.keys()):
        for number, (one, two) in enumerate(zip(own[configuration], other[configuration], strict=False)):
            for key in one.keys() & two.keys():
                lost += (two[key].state != "complete") - (one[key].state != "complete")
            sessions[number] += _matched(one, two, notes)
    if lost > 0:
        notes.append(
            f"both sides tried the same repeats, and NEW completed {lost} fewer than BASE: its trials.jsonl has the "
            "errors"
        )
    made = Pairs([sessions[number] for number in sorted(sessions) if sessions[number]], sessions=True, lost=lost)
    if made.across:
        notes.append(
            "the sides were measured at different times. A change of the machine in between would look like a change "
            "of the code, so this is never called a regression; --measure measures both sides in turns"
        )
        versions = sorted({record.versions or "unknown" for record in made.records})
        if len(versions) > 1:
            notes.append(f"installed packages differ: {' | '.join(versions)}")
    else:
        before, after = (
            {name for name, found in side.items() if any(r.state == "complete" for one in found for r in one.values())}
            for side in (own, other)
        )
        notes.append(
            f"BASE has {len(before)} measured configuration{'s' * (len(before) != 1)}, NEW {len(after)}, both have "
            f"{len(before & after)}: pairs need equal trainer, env, settings and `measure`, and repeats that were "
            "complete on both sides"
        )
    made.notes[:] = dict.fromkeys([*notes, *unreadable])
    objectives = [objective.metric for suite, _ in studies[0] for objective in suite.objectives]
    return made, list(dict.fromkeys(objectives))


def _studies(side: Side, results: Path, unreadable: list[str]) -> list[tuple[Suite, list[Record]]]:
    """Suites and records of a side, oldest first: of its studies, or of all studies below ``results`` at its commit.

    Studies at a commit that cannot be read are left out and named in ``unreadable``.
    """
    if side.configuration is not None:
        problem = "a configuration has no measurements of its own; add --measure to measure both sides now"
        raise CompareError(f"{side.name}: {problem}")
    if side.studies:
        studies = sorted(map(RecordedStudy, side.studies), key=lambda study: study.began)
        return [(study.suite, study.records) for study in studies]
    found = []
    for study in map(RecordedStudy, with_records(results)):
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
        session: dict[str, Repeats] = defaultdict(dict)
        how = {name: part for name, part in dataclasses.asdict(suite.measure).items() if name not in EXTENDABLE}
        for trial in sorted({record.trial for record in records}):
            own = [record for record in records if record.trial == trial]
            for phase in PHASES:
                first = suite.measure.repeats if phase == "confirm" else 0
                for record in judged_by(own, phase):
                    if record.state == "pruned":
                        continue
                    trainer, settings = suite.trainer, {"env": suite.env} | suite.fixed | record.params
                    if suite.trainers:  # side by side: what ran is the variant, whatever the suite calls it
                        variant = suite.trainers[settings.pop("trainer")]
                        there = variant.by_env.get(settings["env"], {})
                        trainer, settings = variant.trainer, settings | variant.settings | there
                    settings.pop("seed", None)
                    content = {"trainer": trainer, "settings": settings, "measure": how, "traced": record.traced}
                    repeats, number = session[json.dumps(content, sort_keys=True)], record.repeat - first
                    trials = sum(key[:2] == (phase, number) for key in repeats)
                    repeats[phase, number, trials] = record
        for configuration, repeats in session.items():
            found[configuration].append(repeats)
    return found


def _matched(base: Repeats, new: Repeats, notes: list[str]) -> Pair:
    """The repeats that two sessions have of one configuration; ``notes`` get why others were left out."""
    for phase in PHASES:
        sides = [
            {key: record for key, record in side.items() if key[0] == phase and record.state == "complete"}
            for side in (base, new)
        ]
        kinds = sorted({record.kind for side in sides for record in side.values()})
        if not all(sides):
            continue
        if len(kinds) > 1:
            notes.append(f"repeats that were measured in different ways ({' and '.join(kinds)}) were left out")
            continue
        made: Pair = []
        for one, other in [(sides[0][key], sides[1][key]) for key in sorted(sides[0].keys() & sides[1].keys())]:
            if one.machine == other.machine:
                made.append((one, other))
            else:
                machines = f"{one.machine or 'unnamed'} and {other.machine or 'unnamed'}"
                notes.append(
                    f"repeats of different machines ({machines}) were left out: their difference says nothing about "
                    "the code"
                )
        return made
    return []  # confirmed on one side only, or in another way, and measured by no search
