"""``report`` and ``list``: studies that were measured."""

import argparse
from pathlib import Path
from typing import Any

from harness.cli.options import add_results, add_verb
from harness.cli.output import tell


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
    text = "page to write; default: report.html in the study, for several comparison.html in --results"
    verb.add_argument("--out", type=Path, metavar="FILE", help=text)


def report(arguments: argparse.Namespace) -> int:
    """Write the page of a study, of several side by side, or of a run of ``train``."""
    from harness.report.page.write import write_named

    written = write_named(arguments.study, arguments.results, arguments.out, side_by_side=arguments.compare)
    page = f"{written.html} ({written.bytes / 1e6:.1f} MB, open it in a browser), {written.markdown}"
    return tell(arguments, vars(written), *(f"left out: {reason}" for reason in written.left_out), page)


def add_list(verbs: Any) -> None:
    add_results(add_verb(verbs, "list", list_all, "list studies, suites and environments"))


def list_all(arguments: argparse.Namespace) -> int:
    """List the studies below ``--results``, the suites and the environments."""
    from harness.report import listing

    content = listing.collect(arguments.results, Path("suites"))
    return tell(arguments, content, listing.text(content))
