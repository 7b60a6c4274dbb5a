"""A page as HTML that needs no network, and as Markdown.

Whatever came from files is escaped: by Jinja in text and attributes, as ``\\u003c`` inside the JSON of a script. A
content security policy allows only the page's own scripts, by their hashes, and no connection at all.
"""

import base64
import hashlib
import re
from functools import cache
from importlib import metadata, resources

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from harness.report.page.model import Page
from unilab.machine import user_cache

MARKUP = str.maketrans({**{mark: f"\\{mark}" for mark in "\\`*_[]<>#|~"}, "\n": " ", "\r": " "})
TEMPLATES = resources.files("harness.report.page") / "templates"


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
    """The answer and the tables, without charts."""
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
