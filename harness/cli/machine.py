"""``check-env``, ``machine`` and ``clean``: an environment of one's own, and the machine at hand."""

import argparse
from typing import Any

from harness.cli.options import FAILURE, add_set, add_verb
from harness.cli.output import tell


def add(verbs: Any) -> None:
    check = add_verb(verbs, "check-env", check_env, "step an environment and say what its code does wrong")
    check.add_argument(
        "name", metavar="NAME", help="as 'env' in a suite: HalfCheetah, module:Class, module:Id-v0, Id-v0"
    )
    add_set(check, "max_episode_steps=500")
    add_verb(verbs, "machine", show_machine, "describe this machine")
    add_verb(verbs, "clean", clean, "remove shared memory that crashed runs left")


def check_env(arguments: argparse.Namespace) -> int:
    """Step an environment, and exit with an error if its code makes mistakes."""
    from harness.files.yaml_file import Document
    from unilab.envs.check import check

    findings = check(arguments.name, Document.parse("{}", "--set", arguments.set).content)
    lines = [*(f"wrong: {one}" for one in findings.problems), *(f"note: {one}" for one in findings.notes)]
    if not findings.problems:
        lines.append(f"{arguments.name}: {findings.sizes}; nothing wrong was found")
    tell(arguments, {"environment": arguments.name, **vars(findings)}, *lines)
    return FAILURE if findings.problems else 0


def show_machine(arguments: argparse.Namespace) -> int:
    """Describe the machine, as records name it."""
    from harness.measure import host as machine

    description = machine.describe()
    return tell(arguments, description, machine.table(description))


def clean(arguments: argparse.Namespace) -> int:
    """Remove the shared memory of crashed runs, and nothing of runs that live."""
    from unilab.ipc import remove_leftovers

    removed = remove_leftovers()
    count = f"{len(removed)} left-over segments of shared memory removed" if removed else "nothing was left over"
    return tell(arguments, {"removed": removed}, *(f"removed {name}" for name in removed), count)
