"""``compare``: is NEW worse than BASE."""

import argparse
import sys
from pathlib import Path
from typing import Any

from harness.cli.options import add_results, add_verb, fraction, not_negative, positive, positive_int
from harness.cli.output import print_json

ERROR = 2
"""where 1 is a regression"""


def add_compare(verbs: Any) -> None:
    text = "is NEW worse than BASE: two studies, commits or configurations"
    verb = add_verb(verbs, "compare", compare, text, error_code=ERROR)
    verb.epilog = "Exit code: 0 no regression, 1 regression, 2 error, 3 undecided."
    what = "a study (folder, or SUITE/ID below --results), several with commas between, a commit, or a configuration"
    verb.add_argument("base", metavar="BASE", help=what)
    verb.add_argument("new", metavar="NEW", help="likewise")
    add_results(verb)
    verb.add_argument(
        "--metric", action="append", default=[], metavar="NAME",
        help="decides about the exit code; may be repeated; default: the suite's objectives",
    )  # fmt: skip
    verb.add_argument(
        "--detect", type=fraction, metavar="CHANGE",
        help="exit code 3 where a change of this size, such as 5%%, could have gone unseen; default: 50%%",
    )  # fmt: skip
    verb.add_argument("--across-machines", action="store_true", help="pair records of different machines, too")
    now = verb.add_argument_group("measuring now")
    now.add_argument("--measure", action="store_true", help="measure both sides now, in turns, in fresh processes")
    configuration = now.add_mutually_exclusive_group()
    configuration.add_argument("--suite", type=Path, metavar="SUITE", help="measure its baseline at the commits")
    configuration.add_argument("--config", type=Path, metavar="FILE", help="measure this configuration at the commits")
    now.add_argument("--pairs", type=positive_int, metavar="N", help="at least 6; default: 8")
    now.add_argument("--seconds", type=positive, metavar="S", help="steady window; default: the suite's")
    now.add_argument(
        "--warmup", type=not_negative, metavar="S", help="left out before the window; default: the suite's"
    )
    now.add_argument(
        "--no-turns", action="store_true", default=None, help="the repeats of a block one after the other"
    )  # fmt: skip


def compare(arguments: argparse.Namespace) -> int:
    from harness.compare import command
    from harness.measure.stop import Stopped
    from harness.report.live import console

    try:
        comparison, content = command.run(arguments, console(stderr=arguments.json))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    if arguments.json:
        print_json(content)
    return comparison.exit_code
