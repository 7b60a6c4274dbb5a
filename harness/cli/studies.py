"""``show``, ``best``, ``report``, ``list`` and ``rm``: studies that were measured."""

import argparse
import sys
from pathlib import Path
from typing import Any

from harness.cli.options import add_results, add_verb
from harness.cli.output import print_json, tell
from unilab.errors import UserError

NAMED = "a study: its folder, SUITE/ID, ID, a suite (its newest study is meant), or the name that run --name gave"


def add(verbs: Any) -> None:
    shown = add_verb(verbs, "show", show, "show what a study found, as at the end of its run")
    text = "print best.yaml of a study, the configuration that measured best, and the command that trains with it"
    trained = add_verb(verbs, "best", best, text)
    for verb in (shown, trained):
        verb.add_argument("study", nargs="?", metavar="STUDY", help=f"{NAMED}; default: the newest")
        add_results(verb)

    text = "write a page about a study, about several side by side, or about a run of train"
    verb = add_verb(verbs, "report", report, text)
    text = f"{NAMED}; or the folder of a run of train; default: the newest study"
    verb.add_argument("study", nargs="*", metavar="STUDY", help=text)
    add_results(verb)
    text = "put studies side by side; a suite stands for all its studies"
    verb.add_argument("--compare", action="store_true", help=text)
    text = "page to write; default: report.html in the study, or comparison.html in --results for several studies"
    verb.add_argument("--out", type=Path, metavar="FILE", help=text)

    verb = add_verb(verbs, "list", list_all, "list studies, suites and environments")
    text = "list only the studies of this suite, or of this name"
    verb.add_argument("study", nargs="?", metavar="STUDY", help=text)
    add_results(verb)

    verb = add_verb(verbs, "rm", remove, "delete a study: its folder with records, reports, logs and checkpoints")
    verb.add_argument("study", metavar="STUDY", help="as for report; a suite only if it has one study")
    add_results(verb)
    verb.add_argument("--yes", action="store_true", help="do not ask; in a pipe nothing is asked")


def show(arguments: argparse.Namespace) -> int:
    from harness.report import terminal
    from harness.report.live import console
    from harness.report.studies import ReportedStudy
    from harness.study.results import find

    study = ReportedStudy(find(arguments.study, arguments.results))
    if arguments.json:
        print_json(terminal.summary(study))
    else:
        terminal.show(study, console())
    return 0


def best(arguments: argparse.Namespace) -> int:
    from harness.report.terminal import train_command
    from harness.study.results import RecordedStudy, find

    study = RecordedStudy(find(arguments.study, arguments.results))
    if study.best is None:
        raise UserError(f"{study.folder}: has no best.yaml; python -m harness show {study.folder} says what it found")
    path = study.folder / "best.yaml"
    content = {"study": study.folder, "path": path, "command": train_command(path), "text": study.best}
    return tell(arguments, content, study.best.rstrip("\n"))


def report(arguments: argparse.Namespace) -> int:
    """Write the page of a study, of several side by side, or of a run of ``train``."""
    from harness.report import training_run
    from harness.report.page.write import REPORT, write_comparison, write_page, write_report
    from harness.runs.folder import configuration_of
    from harness.study.results import find, find_all

    names, results, out = arguments.study, arguments.results, arguments.out
    if arguments.compare or len(names) > 1:
        every = [find_all(name, results) for name in names] or [find_all(None, results)]
        folders = dict.fromkeys(folder for one in every for folder in one)
        written = write_comparison(list(folders), out or results / "comparison.html")
    elif names and configuration_of(folder := Path(names[0])):
        written = write_page(training_run.page(folder), out or folder / REPORT, [folder])
    else:
        written = write_report(find(next(iter(names), None), results), out)
    page = f"{written.html} ({written.bytes / 1e6:.1f} MB, open it in a browser), {written.markdown}"
    return tell(arguments, vars(written), *(f"left out: {reason}" for reason in written.left_out), page)


def list_all(arguments: argparse.Namespace) -> int:
    """List the studies below ``--results``, the suites and the environments."""
    from harness.report import listing

    content = listing.collect(arguments.results, Path("suites"), arguments.study)
    return tell(arguments, content, listing.text(content))


def remove(arguments: argparse.Namespace) -> int:
    from harness.study.folder import delete
    from harness.study.results import RecordedStudy, find_all

    folder, *others = find_all(arguments.study, arguments.results)
    if others:
        there = ", ".join(map(str, [folder, *others]))
        raise UserError(f"{arguments.study}: stands for {1 + len(others)} studies; name one of them: {there}")
    kept_in = RecordedStudy(folder).manifest.get("storage")
    if sys.stdin.isatty() and not arguments.yes:
        print(f"Delete {folder} with all that is in it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UserError("nothing was deleted")
    files, size = delete(folder)
    told = f"deleted {folder}: {files} files, {size / 1e6:.1f} MB"
    rest = [f"its records stay in {kept_in}"] if kept_in else []
    return tell(arguments, {"deleted": folder, "files": files, "bytes": size, "kept_in": kept_in}, told, *rest)
