"""``compare``: whether NEW is worse than BASE."""

import argparse
import sys
from pathlib import Path
from typing import Any

from harness.cli.options import add_results, add_verb, fraction, not_negative, positive, positive_int
from harness.cli.output import as_json, print_json

ERROR = 2
"""where 1 is a regression"""
MEASURE_OPTIONS = ("suite", "config", "pairs", "seconds", "warmup", "no_turns")
"""that mean nothing without --measure"""
EXIT_CODES = {
    0: "no regression: nothing that decides got worse",
    1: "regression",
    ERROR: "error: something is wrong with the command, or a side failed",
    3: "undecided: too few pairs, different sessions, or noise that hides a change of --detect",
}


def add(verbs: Any) -> None:
    text = "say whether NEW is worse than BASE: two studies, commits or configurations"
    verb = add_verb(verbs, "compare", compare, text, error_code=ERROR, exit_codes=EXIT_CODES)
    what = "a study (folder, or SUITE/ID below --results), several with commas between, a commit, or a configuration"
    verb.add_argument("base", metavar="BASE", help=what)
    verb.add_argument("new", metavar="NEW", help="the other side, named in the same way")
    add_results(verb)
    verb.add_argument(
        "--metric", action="append", default=[], metavar="NAME",
        help="metric that decides about the exit code; may be repeated; default: the suite's objectives",
    )  # fmt: skip
    verb.add_argument(
        "--detect", type=fraction, metavar="CHANGE",
        help="end with exit code 3 if a change of this size, such as 5%%, could have gone unseen; default: 50%%",
    )  # fmt: skip
    now = verb.add_argument_group("measuring now")
    now.add_argument(
        "--measure", action="store_true", help="measure both sides now, in fresh processes that take turns"
    )
    configuration = now.add_mutually_exclusive_group()
    configuration.add_argument(
        "--suite", type=Path, metavar="SUITE", help="suite whose baseline is measured at the commits"
    )
    configuration.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration that is measured at the commits"
    )
    now.add_argument("--pairs", type=positive_int, metavar="N", help="pairs of repeats, at least 6; default: 8")
    now.add_argument("--seconds", type=positive, metavar="S", help="length of the steady window; default: the suite's")
    now.add_argument(
        "--warmup", type=not_negative, metavar="S", help="seconds left out before the window; default: the suite's"
    )
    now.add_argument(
        "--no-turns", action="store_true", default=None, help="run the repeats of a block one after the other"
    )  # fmt: skip


def compare(arguments: argparse.Namespace) -> int:
    """Compare two sides, recorded before or measured now; the exit code is the decision."""
    from harness.compare import measured, recorded, verdict
    from harness.compare.sides import CompareError, resolve
    from harness.measure.record import write_atomic
    from harness.measure.stop import Stopped
    from harness.report.live import console
    from harness.stats.inference import needed_pairs
    from harness.suite.metrics import METRICS
    from unilab.settings import nearest

    for name in arguments.metric:
        if name not in METRICS:
            raise CompareError(f"--metric {name}: unknown metric; {nearest(name, METRICS)}")
    given = {name: getattr(arguments, name) for name in MEASURE_OPTIONS if getattr(arguments, name) is not None}
    if given and not arguments.measure:
        option = f"--{next(iter(given)).replace('_', '-')}"
        raise CompareError(f"{option} is for measuring now: add --measure, or leave {option} out")
    if arguments.pairs is not None and arguments.pairs < needed_pairs():
        raise CompareError(
            f"--pairs {arguments.pairs}: nothing can be shown with fewer than {needed_pairs()} pairs; the exact test "
            "reaches p < 0.05 with six"
        )
    out = console(stderr=arguments.json)
    base, new = (resolve(name, arguments.results) for name in (arguments.base, arguments.new))
    folder = None
    if arguments.measure:
        try:
            pairs, deciding, folder = measured.measure(base, new, arguments.results, out, **given)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return stopped.exit_code
    else:
        pairs, deciding = recorded.pairs(base, new, arguments.results)
    metrics, detect = arguments.metric or list(deciding), arguments.detect or verdict.DETECT
    comparison = verdict.compare(pairs, metrics, detect, deciding)
    content = verdict.as_dict(comparison, base, new)
    if folder is not None:
        content["folder"] = str(folder)
        write_atomic(folder / "comparison.json", as_json(content) + "\n")
    verdict.show(comparison, base, new, out)
    if folder is not None:
        out.print(f"Records: {folder}", soft_wrap=True)
    if arguments.json:
        print_json(content)
    return comparison.exit_code
