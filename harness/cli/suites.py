"""``validate`` and ``plan``: what a suite file says; nothing is started."""

import argparse
from typing import Any

from harness.cli.options import add_limits, add_suite, add_verb, overrides
from harness.cli.output import print_json


def add_validate(verbs: Any) -> None:
    add_suite(add_verb(verbs, "validate", validate, "check a suite file; nothing is started"))


def validate(arguments: argparse.Namespace) -> int:
    from harness.predict import plan

    made = plan.make(arguments.suite, arguments.set)
    if arguments.json:
        print_json({
            "suite": made.suite.name, "study": made.study_id, "valid": True, "dropped": made.dropped,
            "notes": made.notes,
        })  # fmt: skip
        return 0
    print(f"{arguments.suite}: valid; study {made.suite.name}/{made.study_id}")
    for dropped in made.dropped:
        print(f"left out of the search: {dropped}")
    for note in made.notes:
        print(f"note: {note}")
    return 0


def add_plan(verbs: Any) -> None:
    verb = add_verb(verbs, "plan", show_plan, "show trials, time and memory of a suite; nothing is started")
    add_suite(verb)
    add_limits(verb)


def show_plan(arguments: argparse.Namespace) -> int:
    from harness.predict import plan, ranking
    from harness.report import terminal as tables
    from harness.report.live import console

    made = plan.make(arguments.suite, overrides(arguments), arguments.results)
    known, missing = ranking.kept(made, arguments.results)
    folder = made.folder(arguments.results)
    if arguments.json:
        print_json(tables.plan_dict(made, folder, known, missing))
    else:
        tables.show_plan(made, folder, console(), known, missing)
        for note in made.notes:
            console().print(f"note: {note}")
    return 0
