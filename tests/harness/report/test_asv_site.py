"""The site that ``asv publish`` makes of exported studies, read in a browser: two machines, two commits.

The site loads its libraries (jQuery, Flot and others) from public servers. Here it gets them from npm's registry, so
that the test depends on one registry instead of three servers; everything else is as asv wrote it.
"""

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from selenium.webdriver.common.by import By

from tests.browser import errors, served, wait
from tests.harness.report.test_asv_export import (
    AT_FOUND,
    BASELINE,
    FOUND,
    REWARD,
    THROUGHPUT,
    asv,
    export,
    git,
    record,
    repository,
    write_study,
)

__all__ = ["repository"]

LIBRARIES = {
    "jquery-3.3.1.min.js": ("jquery@3.3.1", "dist/jquery.min.js"),
    "jquery.flot.min.js": ("flot@0.8.3", "jquery.flot.js"),
    "jquery.flot.time.min.js": ("flot@0.8.3", "jquery.flot.time.js"),
    "jquery.flot.selection.min.js": ("flot@0.8.3", "jquery.flot.selection.js"),
    "jquery.flot.categories.min.js": ("flot@0.8.3", "jquery.flot.categories.js"),
    "jquery.flot.orderBars.js": ("flot-orderbars@1.0.0", "js/jquery.flot.orderBars.js"),
    "stupidtable.min.js": ("stupid-table-plugin@1.1.3", "stupidtable.min.js"),
    "md5.min.js": ("blueimp-md5@2.19.0", "js/md5.min.js"),
    "bootstrap.min.js": ("bootstrap@3.1.1", "dist/js/bootstrap.min.js"),
    "bootstrap.min.css": ("bootstrap@3.1.1", "dist/css/bootstrap.min.css"),
}
"""file names in asv's page: npm's package and the file in it"""
MACHINES = {"node7-3f9a2c": 1.0, "node9-77aa10": 2.0}
"""two machines, the second one twice as fast"""
SERIES = "$('#main-graph').data('plot').getData().map(s => [s.label, s.data.map(p => p[1]).filter(y => y !== null)])"
"""what the graph has drawn: label and values of each line"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the site needs; skips where npm or its registry cannot be reached, which fails in CI."""
    end = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
    folder = tmp_path_factory.mktemp("libraries")
    if shutil.which("npm") is None:
        end("npm is not installed; it brings the libraries of asv's site")
    for package in sorted({package for package, _ in LIBRARIES.values()}):
        done = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=folder, capture_output=True, text=True, timeout=120
        )
        if done.returncode != 0:
            end(f"npm cannot fetch {package}: {done.stderr.strip()[-200:]}")
        with tarfile.open(folder / done.stdout.strip()) as archive:
            archive.extractall(folder / package, filter="data")
    return folder


def localize(site: Path, libraries: Path) -> None:
    """Let the page load its libraries from beside it."""
    page = (site / "index.html").read_text()
    outside = re.findall(r'(?:src|href)="(https://[^"]+/([^"/]+\.(?:js|css)))"[^>]*?(integrity="[^"]+")', page)
    assert {name for _, name, _ in outside} == LIBRARIES.keys()
    for address, name, integrity in outside:
        package, file = LIBRARIES[name]
        shutil.copy(libraries / package / "package" / file, site / name)
        page = page.replace(address, name).replace(integrity, "")
    (site / "index.html").write_text(page)


def studies_of_a_commit(repository: Path, results: Path, number: int) -> None:
    """What each machine measured at the commit that is checked out."""
    commit = git(repository, "rev-parse", "HEAD")
    for machine, factor in MACHINES.items():
        repeats: list[dict[str, Any]] = [
            {"trial": 0, "params": BASELINE, "baseline": True, "env_steps_per_second": 10_000.0 * factor},
            {"trial": 1, "params": FOUND, "pinned": "wide", "env_steps_per_second": 20_000.0 * factor * number},
        ]
        records = [record(f"{machine}-{number}", commit, episode_return=500.0 * number, **r) for r in repeats]
        export(write_study(repository, records, machine=machine), results)


@pytest.fixture
def site(repository: Path, libraries: Path) -> Path:
    """Two commits, each measured on both machines, published."""
    results = repository / "results" / "asv"
    studies_of_a_commit(repository, results, 1)
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "twice as fast", "--date", "2030-01-01T00:00:00")
    studies_of_a_commit(repository, results, 2)
    asv(repository, "publish")
    html = repository / ".asv" / "html"
    localize(html, libraries)
    return html


def lines(browser: Any) -> dict[str, list[float]]:
    return {re.sub("<[^>]+>", "", label or ""): values for label, values in wait(browser, SERIES)}


def test_throughput_and_reward_of_both_machines_are_drawn(site: Path, browser: Any) -> None:
    with served(site) as address:
        browser.get(address)
        wait(browser, "$('#summarygrid-display .benchmark-container').length >= 2")
        listed = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "#summarygrid-display .benchmark-text")]
        assert {name.removeprefix("bench_studies.") for name in (THROUGHPUT, REWARD)} <= set(listed)

        browser.get(f"{address}/#{THROUGHPUT}?p-configuration={quote(repr(AT_FOUND))}")
        wait(browser, f"$('#main-graph canvas').length > 0 && {SERIES}.length == 2")
        buttons = {button.text: button for button in browser.find_elements(By.CSS_SELECTOR, "a.btn")}
        assert MACHINES.keys() <= buttons.keys()
        drawn = sorted(lines(browser).values())
        assert drawn == [pytest.approx([1 / 40_000, 1 / 80_000]), pytest.approx([1 / 20_000, 1 / 40_000])]

        buttons["node7-3f9a2c"].click()
        wait(browser, f"{SERIES}.length == 1")
        assert list(lines(browser).values()) == [pytest.approx([1 / 40_000, 1 / 80_000])]

        browser.get(f"{address}/#{REWARD}?p-configuration={quote(repr(AT_FOUND))}")
        wait(browser, f"$('#title').text() == '{REWARD}' && {SERIES}.length == 2 && {SERIES}[0][1][0] < 0")
        assert list(lines(browser).values()) == [[-500.0, -1000.0], [-500.0, -1000.0]]
        assert errors(browser) == []
