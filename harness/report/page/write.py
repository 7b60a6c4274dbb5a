"""Reports as files: a page as HTML that needs no network, and beside it as Markdown; whole or not at all.

Whatever came from files is escaped: by Jinja in text and attributes, as ``\\u003c`` inside the JSON of a script. A
content security policy allows only the page's own scripts, by their hashes, and no connection at all.
"""

import base64
import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from harness.files.yaml_file import InputError
from harness.measure.record import write_atomic
from harness.report.page import build
from harness.report.page.comparison import comparison
from harness.report.page.model import Page
from harness.report.studies import VIDEO, ReportedStudy
from unilab.envs.registry import is_robot
from unilab.machine import user_cache

REPORT = "report.html"
MARKUP = str.maketrans({**{mark: f"\\{mark}" for mark in "\\`*_[]<>#|~"}, "\n": " ", "\r": " "})
TEMPLATES = resources.files("harness.report.page") / "templates"
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


def write_report(folder: Path, out: Path | None = None, *, watched: str | None = None) -> Written:
    """The report of one study, ``report.html`` in its folder unless ``out`` says otherwise.

    Args:
        watched: how far the study is while it runs; the page then loads itself again.

    Raises:
        InputError: the folder has no suite that can be read.
        RecordError: a file cannot be written; the old version stays.
    """
    return write_page(build.page(ReportedStudy(folder), watched=watched), out or folder / REPORT, [folder])


def film(folder: Path) -> str:
    """Make the video that the report of a study with robots shows, by ``eval`` in a process that loads MuJoCo anew.

    Returns:
        what came of it, in a line; nothing where there is no robot's policy to be seen.
    """
    study, file = ReportedStudy(folder), folder / VIDEO
    policy, task = study.best_policy, study.suite.tasks[0]
    try:
        if policy is None or not is_robot(task, load=True):
            return ""
    except Exception as error:  # noqa: BLE001 - a module that was edited since may raise anything
        problem = f"{type(error).__name__}: {error}".partition("\n")[0]
        return f"no video of the best policy: {task} cannot be loaded any more: {problem}"
    command = [sys.executable, "-m", "harness", "eval", str(policy), "--video", str(file), "--episodes", "1"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=MOST_SECONDS)
        if done.returncode == 0:
            return f"video:      {file}"
        problem = done.stderr.strip().rpartition("\n")[2].removeprefix("error: ") or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        problem = f"it took more than {MOST_SECONDS:g} s"
    for left in [file, *folder.glob(f".{VIDEO}.*")]:  # of an earlier best, or unfinished
        left.unlink(missing_ok=True)
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
    return write_page(comparison(studies), out, [study.folder for study in studies], unreadable)


def write_page(page: Page, out: Path, folders: Sequence[Path], left_out: Sequence[InputError] = ()) -> Written:
    """A page as HTML and as Markdown, of the studies or the run in ``folders``; raises as ``write_report``."""
    text, summary = html(page), out.with_suffix(".md")
    out = out.with_suffix(".html") if out == summary else out
    write_atomic(out, text)
    write_atomic(summary, markdown(page))
    return Written(out, summary, len(text.encode()), tuple(folders), tuple(map(str, left_out)))


# -- a page as text


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("harness.report.page"), autoescape=select_autoescape(["html"]), trim_blocks=True,
        lstrip_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip
    made.filters["markdown"] = markdown_text
    # a fence that the text cannot close
    made.filters["fence"] = lambda text: max(["```", *(f"{ticks}`" for ticks in re.findall("`{3,}", text))], key=len)
    return made


def html(page: Page) -> str:
    """The whole page; Vega and its parts, about 900 kB, are in it when there are charts."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    scripts = [_vega(), script] if page.charts else [script]
    digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return _environment().get_template("page.html").render(
        page=page, style=Markup(style), scripts=[Markup(one) for one in scripts],
        policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; media-src data:",
        content={"charts": {chart.id: chart.spec for chart in page.charts}, "data": page.data},
    )  # fmt: skip


def markdown(page: Page) -> str:
    """The first screen and the tables, without charts."""
    return _environment().get_template("page.md").render(page=page)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return str(text).translate(MARKUP)


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script. Making it takes a second or two, so it is kept for next time."""
    name = f"vega-{metadata.version('vl-convert-python')}.js"
    if (kept := user_cache.read(name)) is not None:
        return kept
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if "</script" in bundle.lower():
        raise RuntimeError("the bundle of the charts' scripts cannot be put into a page: it holds '</script'")
    user_cache.write(name, bundle)
    return bundle
