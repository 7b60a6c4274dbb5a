"""A page as HTML that needs no network, and as Markdown.

Whatever came from files is escaped: by Jinja in text and attributes, as ``\\u003c`` inside the JSON of a script. A
content security policy allows only the page's own scripts, by their hashes, and no connection at all.
"""

import base64
import hashlib
import os
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from harness.measure.record import RecordError, write_atomic
from harness.report.page.model import Page

MARKUP = str.maketrans({**{mark: f"\\{mark}" for mark in "\\`*_[]<>#|~"}, "\n": " ", "\r": " "})


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("harness.report.page"), autoescape=select_autoescape(["html"]), trim_blocks=True,
        lstrip_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip
    made.filters["markdown"] = markdown_text
    made.filters["fence"] = _fence
    return made


def html(page: Page) -> str:
    """The whole page; Vega and its parts, about 900 kB, are in it when there are charts."""
    scripts = [Markup(script) for script in ([_vega()] if page.charts else []) + [_source("page.js")]]
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return _environment().get_template("page.html").render(
        page=page, style=Markup(_source("page.css")), scripts=scripts,
        policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:",
        content={"charts": {chart.id: chart.spec for chart in page.charts}, "data": page.data},
    )  # fmt: skip


def markdown(page: Page) -> str:
    """The answer and the tables, without charts."""
    return _environment().get_template("page.md").render(page=page)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return str(text).translate(MARKUP)


def _fence(text: str) -> str:
    """A fence that the text cannot close."""
    ticks = 3
    while "`" * ticks in text:
        ticks += 1
    return "`" * ticks


@cache
def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script. Making it takes a second or two, so it is kept for next time."""
    kept = cache_folder() / f"vega-{metadata.version('vl-convert-python')}.js"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if "</script" in bundle.lower():
        raise RuntimeError("the bundle of the charts' scripts cannot be put into a page: it holds '</script'")
    with suppress(RecordError):  # without a place to keep it, it is made each time
        write_atomic(kept, bundle)
    return bundle


def cache_folder() -> Path:
    """What can be made again at any time, as the XDG base directory specification has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unilab-harness"
