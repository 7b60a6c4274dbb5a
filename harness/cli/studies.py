"""``report`` and ``list``: studies that were measured."""

import argparse
from pathlib import Path
from typing import Any

from harness.cli.options import add_results, add_verb
from harness.cli.output import print_json


def add_report(verbs: Any) -> None:
    verb = add_verb(
        verbs, "report", report, "write a page about a study, about several side by side, or about a run of train"
    )
    verb.add_argument(
        "study", nargs="+", metavar="STUDY",
        help="a study's folder, SUITE/ID, a suite (its newest study is meant), or the folder of a run of train",
    )  # fmt: skip
    add_results(verb)
    verb.add_argument("--compare", action="store_true", help="put studies side by side; of a suite all its studies")
    verb.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="page to write; default: report.html in the study, for several comparison.html in --results",
    )


def report(arguments: argparse.Namespace) -> int:
    from harness.report.page.write import write_named

    written = write_named(arguments.study, arguments.results, arguments.out, side_by_side=arguments.compare)
    if arguments.json:
        print_json(vars(written))
    else:
        for reason in written.left_out:
            print(f"left out: {reason}")
        print(f"{written.html} ({written.bytes / 1e6:.1f} MB, open it in a browser), {written.markdown}")
    return 0


def add_list(verbs: Any) -> None:
    add_results(add_verb(verbs, "list", list_all, "list studies, suites and environments"))


def list_all(arguments: argparse.Namespace) -> int:
    from harness.report import listing

    content = listing.collect(arguments.results, Path("suites"))
    if arguments.json:
        print_json(content)
    else:
        print(listing.text(content))
    return 0
