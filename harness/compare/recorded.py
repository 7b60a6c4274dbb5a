"""Pairs from recorded studies: one session of each side, with the configurations and repeats that both have.

A study is a session: its repeats share more than their code. Repeats of two sessions therefore show how far these two
sessions are apart. To show what the code changed takes as many sessions as the test needs pairs. The sessions of one
side are paired with those of the other in the order in which they began.
"""

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from harness.compare.sides import CompareError, Side
from harness.compare.verdict import Pair, Pairs
from harness.files.yaml_file import InputError
from harness.measure.record import Phase, Record, attempts_that_count
from harness.study.results import RecordedStudy, with_records
from harness.suite.schema import Suite
from harness.suite.text import count_text

PHASES: tuple[Phase, ...] = ("confirm", "search")
"""both sides are compared by the first that both have: the search measured its winner when it was lucky"""
SAME_LENGTH = 1.25
"""windows of one suite end with an iteration, so that they differ a little"""
EXTENDABLE = ("repeats", "disturbed_retries", "turns")
"""parts of a suite's ``measure`` that do not change what is measured; each record says whether turns were taken"""


class RepeatKey(NamedTuple):
    """What one repeat of a side has in common with one of the other side."""

    configuration: str
    """all that decides the meaning of its number, as text"""
    session: int
    """of those of the side that have this configuration, in the order in which they began"""
    phase: Phase
    number: int
    trial: int
    """which of the session's trials that have this configuration"""


def pairs(base: Side, new: Side, results: Path) -> tuple[Pairs, dict[str, str]]:
    """Pairs of two sides that were measured before, and what decides: the objectives of BASE's suites, with directions.

    Raises:
        CompareError: a side has no records.
        InputError: a study's suite.yaml cannot be read.
    """
    unreadable: list[str] = []
    studies = [_studies(side, results, unreadable) for side in (base, new)]
    tried = [_repeats(side) for side in studies]
    measured = [{key: one for key, one in side.items() if one.state == "complete"} for side in tried]
    both = sorted(tried[0].keys() & tried[1].keys())
    lost = sum((tried[1][key].state != "complete") - (tried[0][key].state != "complete") for key in both)
    notes: list[str] = []
    if lost > 0:
        notes.append(
            f"both sides tried the same repeats, and NEW completed {lost} fewer than BASE: its trials.jsonl has the "
            "errors"
        )
    sessions: dict[int, Pair] = defaultdict(list)
    for (configuration, number), keys in groupby(sorted({*measured[0], *measured[1]}), lambda key: key[:2]):
        own, budget = list(keys), json.loads(configuration)["measure"]["return_at"]
        for phase in PHASES:
            sides = [{key: side[key] for key in own if key in side and key.phase == phase} for side in measured]
            kinds = sorted({record.kind for side in sides for record in side.values()})
            if not all(sides):
                continue  # confirmed on one side only, or measured by no search
            if len(kinds) > 1:
                notes.append(f"repeats that were measured in different ways ({' and '.join(kinds)}) were left out")
                continue
            for one, other in [(sides[0][key], sides[1][key]) for key in own if key in sides[0] and key in sides[1]]:
                lengths = one.steady_seconds, other.steady_seconds
                if budget is None and max(lengths) > SAME_LENGTH * min(lengths):
                    notes.append(
                        "repeats of windows of different lengths were left out: a search that looks at its best again "
                        "measures all others in less time"
                    )
                elif one.machine == other.machine:
                    sessions[number].append((one, other))
                else:
                    machines = f"{one.machine or 'unnamed'} and {other.machine or 'unnamed'}"
                    notes.append(
                        f"repeats of different machines ({machines}) were left out: their difference says nothing "
                        "about the code"
                    )
            break
    made = Pairs([sessions[number] for number in sorted(sessions)], sessions=True, lost=lost)
    if made.across:
        notes.append(
            "the sides were measured at different times. A change of the machine in between would look like a change "
            "of the code, so this is never called a regression; --measure measures both sides in turns"
        )
        versions = sorted({record.versions or "unknown" for record in made.records})
        if len(versions) > 1:
            notes.append(f"installed packages differ: {' | '.join(versions)}")
    else:
        before, after = ({key.configuration for key in side} for side in measured)
        notes.append(
            f"BASE has {count_text(len(before), 'measured configuration')}, NEW {len(after)}, both have "
            f"{len(before & after)}: pairs need equal trainer, env, settings and `measure`, and repeats that were "
            "complete on both sides"
        )
    made.notes[:] = dict.fromkeys([*notes, *unreadable])
    return made, {one.metric: one.direction for suite, _ in studies[0] for one in suite.objectives}


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


def _repeats(studies: Iterable[tuple[Suite, list[Record]]]) -> dict[RepeatKey, Record]:
    """The repeats of a side that count, without pruned ones and without those that learn."""
    found: dict[RepeatKey, Record] = {}
    sessions: Counter[str] = Counter()
    for suite, records in studies:
        how = {name: part for name, part in dataclasses.asdict(suite.measure).items() if name not in EXTENDABLE}
        trials: Counter[tuple[str, Phase, int]] = Counter()
        for record in sorted(attempts_that_count(records), key=lambda record: record.trial):
            if record.state == "pruned" or record.phase not in PHASES:
                continue
            trainer, settings = suite.trainer, {"env": suite.env} | suite.fixed | record.params
            if suite.trainers:  # side by side: what ran is the variant, whatever the suite calls it
                variant = suite.trainers[settings.pop("trainer")]
                there = variant.by_env.get(settings["env"], {})
                trainer, settings = variant.trainer, settings | variant.settings | there
            settings.pop("seed", None)
            content = {"trainer": trainer, "settings": settings, "measure": how, "traced": record.traced}
            number = record.repeat - (suite.measure.repeats if record.phase == "confirm" else 0)
            key = (json.dumps(content, sort_keys=True), record.phase, number)
            found[RepeatKey(key[0], sessions[key[0]], record.phase, number, trials[key])] = record
            trials[key] += 1
        sessions.update({configuration for configuration, _, _ in trials})
    return found
