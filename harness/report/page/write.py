"""Reports as files: whole or not at all, and beside each page its Markdown summary."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.files.yaml_file import InputError
from harness.measure.record import write_atomic
from harness.report import training_run
from harness.report.page import build, render
from harness.report.page.comparison import comparison
from harness.report.page.model import Page
from harness.report.studies import VIDEO, ReportedStudy
from harness.runs.folder import configuration_of
from harness.study.results import find, find_all

REPORT = "report.html"
MOST_SECONDS = 60.0
"""that making a video may take"""


@dataclass(frozen=True)
class Written:
    """The two files, the size of the page, and the folders of the studies in it."""

    html: Path
    markdown: Path
    bytes: int
    studies: tuple[Path, ...]
    left_out: tuple[str, ...] = ()
    """why studies that were asked for are not in it"""


def write_named(names: Sequence[str], results: Path, out: Path | None = None, *, side_by_side: bool = False) -> Written:
    """The report of the study that is named, or several side by side, as the command line has it.

    Args:
        names: of studies, as ``harness.study.results.find`` takes them, side by side as ``find_all``; or the folder of
            a ``train`` run. None: the newest study.
        out: default: in the study's folder, ``comparison.html`` in ``results`` for several.

    Raises:
        InputError, RecordError: as ``write_report``, or a name means no study.
    """
    if side_by_side or len(names) > 1:
        every = [find_all(name, results) for name in names] or [find_all(None, results)]
        folders = dict.fromkeys(folder for one in every for folder in one)
        return write_comparison(list(folders), out or results / "comparison.html")
    name = next(iter(names), None)
    if name is not None and configuration_of(folder := Path(name)):
        return _write(training_run.page(folder), out or folder / REPORT, [folder])
    return write_report(find(name, results), out)


def write_report(folder: Path, out: Path | None = None, *, watched: str | None = None) -> Written:
    """The report of one study, ``report.html`` in its folder unless ``out`` says otherwise.

    Args:
        watched: how far the study is while it runs; the page then loads itself again.

    Raises:
        InputError: the folder has no suite that can be read.
        RecordError: a file cannot be written; the old version stays.
    """
    return _write(build.page(ReportedStudy(folder), watched=watched), out or folder / REPORT, [folder])


def film(folder: Path) -> str:
    """Make the video that the report of a study with robots shows, by ``eval`` in a process that loads MuJoCo anew.

    Returns:
        what came of it, in a line; nothing where there is no robot's policy to be seen.
    """
    policy, file = ReportedStudy(folder).robots_policy, folder / VIDEO
    if policy is None:
        return ""
    command = [sys.executable, "-m", "harness", "eval", str(policy), "--video", str(file), "--episodes", "1"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=MOST_SECONDS)
        if done.returncode == 0:
            return f"video:      {file}"
        problem = done.stderr.strip().rpartition("\n")[2].removeprefix("error: ") or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        problem = f"it took more than {MOST_SECONDS:g} s"
    for left in folder.glob(f"{VIDEO}*"):  # of an earlier best, or unfinished
        left.unlink()
    return f"no video of the best policy: {problem}"


def write_comparison(folders: Sequence[Path], out: Path) -> Written:
    """Several studies side by side; those that cannot be read are left out.

    Raises:
        InputError: none of them can be read.
        RecordError: as ``write_report``.
    """
    studies, unreadable = [], []
    for study in map(ReportedStudy, folders):
        try:
            _ = study.suite
        except InputError as error:
            unreadable.append(error)
        else:
            studies.append(study)
    if not studies:
        raise InputError.together(unreadable)
    return _write(comparison(studies), out, [study.folder for study in studies], unreadable)


def _write(page: Page, out: Path, studies: Sequence[Path], left_out: Sequence[InputError] = ()) -> Written:
    text = render.html(page)
    markdown = out.with_suffix(".md")
    html = out.with_suffix(".html") if out == markdown else out
    write_atomic(html, text)
    write_atomic(markdown, render.markdown(page))
    return Written(html, markdown, len(text.encode()), tuple(studies), tuple(map(str, left_out)))
