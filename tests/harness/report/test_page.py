"""The page in a browser: it opens without an error, draws, sorts, fits, and asks nothing of the network."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from harness.report.page.write import write_comparison, write_report
from tests.browser import errors, wait
from tests.harness.report.studies import make_record, two_hundred_trials, write_study
from tests.harness.report.test_report import HOSTILE, HOSTILE_KEY, HOSTILE_SEARCH

PHONE, DESKTOP = 375, 1280


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = two_hundred_trials(tmp_path_factory.mktemp("page") / "made_up" / "1a2b", curve_points=300)
    return write_report(folder).html


def media(theme: str) -> dict[str, Any]:
    """A theme, without motion, so that nothing moves under a test's click."""
    wanted = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce"}
    return {"features": [{"name": name, "value": value} for name, value in wanted.items()]}


@pytest.fixture
def window(browser: Any) -> Iterator[Any]:
    """Opens pages in a window of a width and a theme; the browser is as before afterwards."""

    def open_page(path: Path, width: int = DESKTOP, theme: str = "light", drawn: bool = True) -> Any:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media(theme))
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get_log("performance")
        errors(browser)
        browser.get(path.as_uri())
        if drawn:
            wait(browser, f"document.body.dataset.drawn === '{theme}'")
        return browser

    yield open_page
    browser.get("about:blank")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def requested(driver: Any) -> list[str]:
    """Addresses that the browser asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def everything_drawn(driver: Any) -> dict[str, int]:
    """Marks of each chart."""
    return driver.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('.plot')].map(p => [p.id,"
        " p.querySelectorAll('svg .mark-symbol path, svg .mark-rect path, svg .mark-line path').length]))"
    )


@pytest.mark.parametrize(("width", "theme"), [(PHONE, "dark"), (DESKTOP, "light")])
def test_it_opens_draws_fits_and_stays_offline(window: Any, report: Path, width: int, theme: str) -> None:
    driver = window(report, width, theme)
    assert errors(driver) == []
    marks = everything_drawn(driver)
    assert len(marks) >= 14 and all(marks.values()), marks
    assert marks["pareto-chart"] > 180
    named = "return [...document.querySelectorAll('#curve-env_steps .role-legend-label text')].map(t => t.textContent)"
    assert driver.execute_script(named)[:2] == ["trial 55", "trial 0 (baseline)"]
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    cut = driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter(p => p.scrollWidth > p.clientWidth + 1)"
        ".map(p => p.id)",
        ".plot, .scroll" if width == PHONE else ".plot",
    )
    assert cut == []
    assert requested(driver) == [report.as_uri()]


def test_the_answer_is_on_the_first_screen(window: Any, report: Path) -> None:
    driver = window(report)
    for selector in (".headline", ".claim", "dl", "#train"):
        bottom = driver.execute_script(
            "return document.querySelector(arguments[0]).getBoundingClientRect().bottom", selector
        )
        assert 0 < bottom <= 800, selector


def test_another_theme_draws_again(window: Any, report: Path) -> None:
    driver = window(report)
    script = "return getComputedStyle(document.body).backgroundColor"
    colour = "return document.querySelector('#pareto-chart .mark-symbol path').getAttribute('stroke')"
    before = [driver.execute_script(one) for one in (script, colour)]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media("dark"))
    wait(driver, "document.body.dataset.drawn === 'dark'")
    after = [driver.execute_script(one) for one in (script, colour)]
    assert before[0] != after[0] and before[1] != after[1]
    assert errors(driver) == []


def column(driver: Any, table: str, index: int) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)]"
        ".map(row => row.children[arguments[1]].dataset.sort)", table, index,
    )  # fmt: skip


def test_tables_sort_by_keyboard(window: Any, report: Path) -> None:
    driver = window(report)
    heads = driver.find_elements(By.CSS_SELECTOR, "#trials-table thead th")
    place = next(i for i, head in enumerate(heads) if head.text.startswith("env steps a second"))
    button = heads[place].find_element(By.TAG_NAME, "button")
    button.send_keys(Keys.ENTER)
    assert heads[place].get_attribute("aria-sort") == "descending"
    values = column(driver, "trials-table", place)
    there = [float(value) for value in values if value]
    assert there == sorted(there, reverse=True) and len(there) == 183
    assert values[183:] == [""] * 17  # what is missing comes last, in both directions
    button.send_keys(Keys.SPACE)
    assert heads[place].get_attribute("aria-sort") == "ascending"
    assert column(driver, "trials-table", place)[183:] == [""] * 17
    heads[0].find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert heads[place].get_attribute("aria-sort") is None
    assert column(driver, "trials-table", 0)[:3] == ["0", "1", "2"]
    assert "Sorted by trial, ascending" in driver.find_element(By.ID, "announcement").get_attribute("textContent")


def test_it_is_used_by_keyboard_and_read_aloud(window: Any, report: Path) -> None:
    driver = window(report)
    focused = driver.switch_to.active_element
    focused.send_keys(Keys.TAB)
    assert driver.switch_to.active_element.get_attribute("class") == "skip"
    driver.switch_to.active_element.send_keys(Keys.TAB)
    assert driver.switch_to.active_element.get_attribute("href").endswith("#answer")
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert driver.execute_script(outline) != "none"
    problems = driver.execute_script("""
        const problems = [];
        const all = (selector) => [...document.querySelectorAll(selector)];
        for (const tag of ["header", "nav", "main", "footer"]) if (all(tag).length !== 1) problems.push(tag);
        if (all("h1").length !== 1) problems.push("h1");
        let level = 1;
        for (const heading of all("h1, h2, h3")) {
          const own = Number(heading.tagName[1]);
          if (own > level + 1) problems.push(`level of ${heading.textContent}`);
          level = own;
        }
        for (const table of all("table")) {
          if (!table.caption) problems.push(`caption of ${table.id}`);
          if (table.querySelector("th:not([scope])")) problems.push(`scope in ${table.id}`);
        }
        for (const plot of all(".plot")) {
          for (const name of ["aria-labelledby", "aria-describedby"])
            if (!document.getElementById(plot.getAttribute(name))?.textContent.trim())
              problems.push(`${name} of ${plot.id}`);
        }
        for (const text of all("pre")) if (text.getAttribute("role") !== "region") problems.push("a name without role");
        for (const scroll of all(".scroll")) if (scroll.tabIndex !== 0) problems.push("a region without keyboard");
        for (const link of all("nav a"))
          if (!document.querySelector(link.getAttribute("href"))) problems.push(link.href);
        const ids = all("[id]").map((one) => one.id);
        if (new Set(ids).size !== ids.length) problems.push("ids twice");
        return problems;
    """)
    assert problems == []


def test_the_command_can_be_copied(window: Any, report: Path) -> None:
    driver = window(report)
    driver.find_element(By.CSS_SELECTOR, "[data-copy=train]").click()
    wait(driver, "['Copied', 'Selected'].includes(document.querySelector('[data-copy=train]').textContent)")
    assert errors(driver) == []


def test_hostile_names_and_errors_run_nothing(window: Any, tmp_path: Path) -> None:
    params = {"mode": HOSTILE, "num_envs": 100, HOSTILE: HOSTILE}
    records = [make_record(0), make_record(1, params=params, verdict=HOSTILE), make_record(2)]
    records += [make_record(3, state="failed", error=HOSTILE, params=params)]
    records += [make_record(n, params={HOSTILE_KEY: n, "num_envs": 100}) for n in (4, 5)]
    driver = window(write_report(write_study(tmp_path, records, searched=HOSTILE_SEARCH, curve_points=30)).html)
    assert all(everything_drawn(driver).values())
    assert errors(driver) == []
    assert driver.execute_script("return document.querySelectorAll('img').length") == 0
    assert driver.execute_script("return document.scripts.length") == 3
    assert "alert(1)" in driver.find_element(By.ID, "problems-table").text


def test_studies_side_by_side(window: Any, tmp_path: Path) -> None:
    folders = [write_study(tmp_path / name / "x", [make_record(n) for n in range(3)], name=name) for name in ("a", "b")]
    driver = window(write_comparison(folders, tmp_path / "comparison.html").html, PHONE)
    assert errors(driver) == []
    assert everything_drawn(driver)["best-env_steps_per_second"] >= 4
    assert driver.execute_script("return document.documentElement.scrollWidth") <= PHONE


def test_a_watched_page_loads_itself_again_where_it_was(window: Any, tmp_path: Path) -> None:
    folder = write_study(tmp_path, [make_record(n) for n in range(4)])
    driver = window(write_report(folder, watched="running, 4 repeats").html, PHONE)
    driver.execute_script("window.scrollTo({top: 700, behavior: 'instant'}); window.first = true;")
    head = driver.find_element(By.CSS_SELECTOR, "#trials-table thead th")
    driver.execute_script("arguments[0].click()", head.find_element(By.TAG_NAME, "button"))
    driver.execute_script("document.getElementById('trials-table-scroll').scrollTop = 90")
    driver.execute_script("arguments[0].focus({preventScroll: true})", head.find_element(By.TAG_NAME, "button"))
    write_report(folder, watched="running, 5 repeats")
    current = "document.querySelector('.watched').textContent.includes('5 repeats')"
    wait(driver, f"window.first === undefined && {current} && document.body.dataset.drawn")
    assert abs(driver.execute_script("return window.scrollY") - 700) <= 2
    assert driver.find_element(By.CSS_SELECTOR, "#trials-table th[aria-sort]").get_attribute("aria-sort") == "ascending"
    focused = "return [document.activeElement.tagName, document.activeElement.closest('table')?.id]"
    assert driver.execute_script(focused) == ["BUTTON", "trials-table"]
    assert driver.execute_script("return document.getElementById('trials-table-scroll').scrollTop") == 90
    write_report(folder)
    wait(driver, "document.querySelector('.watched') === null && document.body.dataset.drawn")
    assert not driver.find_elements(By.ID, "pause")
