"""``machine`` and ``clean``: the machine at hand."""

import argparse
from typing import Any

from harness.cli.options import add_verb
from harness.cli.output import print_json


def add_machine(verbs: Any) -> None:
    add_verb(verbs, "machine", show_machine, "describe this machine")


def show_machine(arguments: argparse.Namespace) -> int:
    from harness.measure import host as machine

    description = machine.describe()
    if arguments.json:
        print_json(description)
    else:
        print(machine.table(description))
    return 0


def add_clean(verbs: Any) -> None:
    add_verb(verbs, "clean", clean, "remove shared memory that crashed runs left")


def clean(arguments: argparse.Namespace) -> int:
    from unilab.ipc.shared_memory import segments

    removed = segments.remove_leftovers()
    if arguments.json:
        print_json({"removed": removed})
        return 0
    for name in removed:
        print(f"removed {name}")
    print(f"{len(removed)} left-over segments of shared memory removed" if removed else "nothing was left over")
    return 0
