"""What one does with a suite before it runs: ``init``, ``schema``, ``settings``, ``validate`` and ``plan``."""

import argparse
import dataclasses
import textwrap
from pathlib import Path
from typing import Any

from harness.cli.options import add_limits, add_suite, add_verb, overrides
from harness.cli.output import print_json, tell
from unilab.errors import UserError

WIDTH = 80
"""columns of prose at most: longer lines are harder to read"""
SUITE = """\
# Which configuration trains fastest on this machine?
# Check this file with:
#   python -m harness validate {file}
# An editor with a YAML language server checks it too. Write a schema for it:
#   python -m harness schema > schema.json
# and make this the first line of this file:
#   # yaml-language-server: $schema=schema.json

name: {name}
trainer: appo       # or sac, td3, package.module:Class
env: HalfCheetah    # python -m harness list shows the others

# Settings that all trials have. What is not set has the trainer's default.
# python -m harness settings appo shows all settings with their defaults.
fixed:
  steps_per_env: 16

# Settings that vary: a list of values, or a range.
search:
  num_envs: {{low: 256, high: 1024, log: true}}
  num_slots: [2, 4]

# The configuration that is measured first; all others are compared with it.
baseline: {{num_envs: 256, num_slots: 2}}

objectives: [env_steps_per_second]          # what is to be improved
measure: {{warmup_seconds: 3, seconds: 8}}    # of each trial
confirm: {{top: 1, repeats: 6}}    # the best and the baseline, measured again
limits: {{trials: 8, minutes: 10}}    # minutes: of each run of this study
"""


def add(verbs: Any) -> None:
    verb = add_verb(verbs, "plan", show_plan, "show trials, time and memory of a suite; nothing is started")
    add_suite(verb)
    add_limits(verb)
    add_suite(add_verb(verbs, "validate", validate, "check a suite file; nothing is started"))
    verb = add_verb(verbs, "init", init, "write a small suite with comments, to be changed")
    text = "file to write; default: suite.yaml"
    verb.add_argument("file", type=Path, nargs="?", default=Path("suite.yaml"), metavar="FILE", help=text)
    add_verb(verbs, "schema", schema, "print a JSON schema of the suite file, for editors")
    verb = add_verb(verbs, "settings", settings, "list the settings of a trainer, with meanings and defaults")
    verb.add_argument("trainer", metavar="TRAINER", help="a trainer: appo, sac, td3, or package.module:Class")


def init(arguments: argparse.Namespace) -> int:
    """Write a small commented suite; a file that is there stays."""
    file: Path = arguments.file
    name = "".join(one if one.isalnum() and one.isascii() else "_" for one in file.stem).lstrip("_") or "suite"
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(SUITE.format(name=name, file=file))
    except FileExistsError:
        raise UserError(f"{file} is there already; name another file") from None
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None
    return tell(arguments, {"file": file}, f"{file} is written; next: python -m harness plan {file}")


def schema(arguments: argparse.Namespace) -> int:
    """Print the JSON schema of the suite file."""
    from harness.report.reference import suite_schema

    print_json(suite_schema())
    return 0


def settings(arguments: argparse.Namespace) -> int:
    """List every setting of a trainer with its meaning and default."""
    from harness.report import reference
    from harness.report.live import console

    found = reference.settings(arguments.trainer)
    width = min(WIDTH, console().width)
    groups: dict[str, list[str]] = {}
    for one in found:
        default = reference.default_text(one.default) or "empty"
        changes = f"; changes {one.changes}" if one.changes else ""
        lines = groups.setdefault(one.name.rpartition(".")[0], [])
        head = f"{one.name}: {one.values}; default {default}{changes}".replace("`", "")
        lines.append(textwrap.fill(head, width, subsequent_indent="        ", break_on_hyphens=False))
        if one.meaning:
            text = one.meaning.replace("`", "")
            lines.append(textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    "))
    paragraphs = ("\n".join([f"# {group or 'the run'}", *lines]) for group, lines in groups.items())
    return tell(arguments, [dataclasses.asdict(one) for one in found], "\n\n".join(paragraphs))


def validate(arguments: argparse.Namespace) -> int:
    """Check a suite and start nothing; mistakes are errors with their lines."""
    from harness.predict import plan

    made = plan.make(arguments.suite, arguments.set)
    name, study = made.suite.name, made.study_id
    return tell(
        arguments, {"suite": name, "study": study, "valid": True, "dropped": made.dropped, "notes": made.notes},
        f"{arguments.suite}: valid; study {name}/{study}",
        *(f"left out of the search: {dropped}" for dropped in made.dropped), *(f"note: {note}" for note in made.notes),
    )  # fmt: skip


def show_plan(arguments: argparse.Namespace) -> int:
    """Show what a suite would measure and take on this machine; nothing is started."""
    from harness.predict import plan, ranking
    from harness.report import planned
    from harness.report.live import console

    made = plan.make(arguments.suite, overrides(arguments), arguments.results)
    known, missing = ranking.kept(made, arguments.results)
    folder = made.folder(arguments.results)
    if arguments.json:
        print_json(planned.plan_dict(made, folder, known, missing))
    else:
        planned.show_plan(made, folder, console(), known, missing)
        for note in made.notes:
            console().print(f"note: {note}")
    return 0
