"""What a report says: from whole studies, from old, empty and broken ones, and from hostile text."""

import base64
import io
import json
import math
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import altair as alt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.measure.record import Record
from harness.report.live import StudyDisplay
from harness.report.page import build, write
from harness.report.page.comparison import comparison, labels
from harness.report.page.curves import POINTS, aggregate, summary_kind, thin
from harness.report.page.model import MISSING, Cell, Page, Section, Table
from harness.report.page.resources import peak_bytes, predicted_bytes
from harness.report.page.search import _numbers_first, front
from harness.report.page.write import film, write_report
from harness.report.studies import ReportedStudy, ReportedTrial, trials_of
from harness.trainers.trainer import get
from tests.harness.report.studies import CEILINGS, make_record, two_hundred_trials, write_study

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }} | `code` [a](b)'
HOSTILE_KEY = "a[0].b</script>"
HOSTILE_SEARCH = f"  {HOSTILE_KEY}: [4, 5]\n"


@pytest.fixture(scope="module")
def long_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_hundred_trials(tmp_path_factory.mktemp("long") / "made_up" / "1a2b3c4d-0123456")


@pytest.fixture(scope="module")
def long_page(long_study: Path) -> Page:
    return build.page(ReportedStudy(long_study))


def section(page: Page, id: str) -> Section:
    return next(section for section in page.sections if section.id == id)


def table(page: Page, id: str) -> Table:
    return next(table for section in page.sections for table in section.tables if table.id == id)


def texts(table: Table, column: str) -> list[str]:
    index = table.columns.index(column)
    return [row[index].text for row in table.rows]


def charts(page: Page) -> list[str]:
    return [chart.id for section in page.sections for chart in section.charts]


# -- a whole study


def test_the_first_screen_answers(long_page: Page, long_study: Path) -> None:
    screen = long_page.first_screen
    assert screen is not None and screen.settings is not None
    assert re.fullmatch(r"\+\d+\.\d%", screen.headline)
    facts = dict(screen.facts)
    assert "95 % interval" in facts["Gain"] and "6 pairs" in facts["Gain"]
    assert facts["Limited now by"].startswith("learner-bound")
    assert [name for name, _ in screen.facts][:5] == ["Before", "After", "Gain", "Learns as well", "Limited now by"]
    assert facts["After"].endswith(", confirmed, alone")
    assert facts["Learns as well"].startswith("Only speed was measured. Nothing shows whether it learns as well with ")
    assert facts["Looked at"] == "200 trials, 212 repeats; 17 without a result"
    assert screen.command == f"python -m harness train {long_study / 'best.yaml'}"
    assert texts(screen.settings, "setting")[:2] == ["mode", "num_envs"]
    assert [chart.id for chart in screen.charts] == ["over-time", "evidence"]


def test_every_part_is_there_and_every_chart_is_valid(long_page: Page) -> None:
    assert [section.id for section in long_page.sections] == [
        "settings", "importances", "parallel", "pareto", "curves", "busy", "prediction", "memory", "problems",
        "unsteady", "trials", "machine", "reproduce",
    ]  # fmt: skip
    found = charts(long_page)
    assert {"parallel-chart", "pareto-chart", "busy-collector", "busy-learner", "memory-chart"} <= set(found)
    assert {"importance-chart", "prediction-chart", "setting-1-env_steps_per_second"} <= set(found)
    assert len(table(long_page, "trials-table").rows) == 200
    specs = [chart.spec for section in long_page.sections for chart in section.charts]
    for spec in [*specs, *(chart.spec for chart in (long_page.first_screen.charts if long_page.first_screen else ()))]:
        alt.LayerChart.from_dict(dict(spec))  # checks it against the schema of Vega-Lite
        named = set(re.findall(r"'data': \{'name': '(\w+)'\}", repr(spec)))
        assert named and named <= set(long_page.data) | set(spec.get("datasets", {}))


def test_problems_have_their_reasons(long_page: Page) -> None:
    problems = section(long_page, "problems")
    assert problems.text == ["12 did not fit, 5 failed."]
    reasons = texts(table(long_page, "problems-table"), "reason")
    assert set(reasons) == {"does not fit:", "ValueError: NaN in the reward of environment 3"}
    assert "use fewer num_envs" in problems.code[0].text
    assert "7 unsteady, 4 disturbed of 195 complete attempts" in section(long_page, "unsteady").text[0]
    assert "another process took 35 % of the cores" in texts(table(long_page, "unsteady-table"), "disturbed by")


def test_memory_and_ceilings(long_page: Page) -> None:
    assert "within 8%" in section(long_page, "memory").text[0]
    assert texts(table(long_page, "items-table"), "item")[-1] == "all items"
    assert texts(table(long_page, "ceilings-table"), "part") == ["env step", "update"]
    assert texts(table(long_page, "ceilings-table"), "milliseconds") == ["5", "5"]
    text = section(long_page, "prediction").text
    assert (
        text[0].startswith("Ceilings: 2 parts of a round")
        and "node7-3f9a2c (16 cores) in 21 s, and short runs" in text[0]
    )
    assert "Rank correlation of prediction and measurement over 183 trials: 0.9" in text[1]


def test_it_is_small_and_needs_no_network(long_page: Page) -> None:
    text = write.html(long_page)
    assert len(text.encode()) < 5e6
    assert "default-src &#39;none&#39;" in text
    assert not re.search(r"<(script|img|link|iframe)[^>]+(src|href)=", text.replace(write._vega(), ""))


def test_how_to_reproduce_it(long_page: Page, long_study: Path) -> None:
    reproduce = section(long_page, "reproduce")
    assert reproduce.code[0].text == "python -m harness run suites/made_up.yaml"
    facts = dict(zip(texts(reproduce.tables[0], "what"), texts(reproduce.tables[0], "value"), strict=True))
    assert facts["commit"] == "0123456789abcdef" and facts["changes that the commit does not have"] == "none"
    machine = section(long_page, "machine").tables[0]
    assert "H200, 128.0 GiB" in texts(machine, "value")


# -- studies that lack something


def page_of(folder: Path, records: list[Record], **more) -> Page:
    page = build.page(ReportedStudy(write_study(folder, records, **more)))
    assert "<h1>" in write.html(page) and "# made" in write.markdown(page)
    return page


def test_nothing_recorded_yet(tmp_path: Path) -> None:
    page = page_of(tmp_path, [])
    assert page.first_screen is not None and page.first_screen.headline == "No result"
    assert not charts(page) and section(page, "trials").text == ["No trial has been recorded yet."]


def test_nothing_complete(tmp_path: Path) -> None:
    nothing = {"env_steps_per_second": math.nan, "episode_return": math.nan, "peak_host_bytes": 0}
    page = page_of(tmp_path, [make_record(n, state="timeout", error="hangs", **nothing) for n in range(3)])
    assert (screen := page.first_screen) is not None and screen.headline == "No result" and screen.command is None
    assert texts(table(page, "problems-table"), "what happened") == ["timed out"] * 3


def test_one_trial(tmp_path: Path) -> None:
    page = page_of(tmp_path, [make_record(0)])
    assert page.first_screen is not None
    assert page.first_screen.unit == "env steps a second, the baseline"
    assert dict(page.first_screen.facts)["Gain"] == "none: the best is the baseline"


def test_defaults_that_have_left_a_baseline_behind_stand_beside_it(tmp_path: Path) -> None:
    """The made-up baseline leaves the learning rate to the trainer: it does not stand value by value."""
    folder = write_study(tmp_path / "s", [make_record(0), make_record(1)])
    page = build.page(ReportedStudy(folder))
    assert page.first_screen is not None and "Defaults today" not in dict(page.first_screen.facts)
    suite = (folder / "suite.yaml").read_text()
    whole = "baseline: {mode: async, num_envs: 256, num_slots: 2, algorithm.learning_rate: 1.0e-3, when_full: wait}"
    suite = re.sub("baseline: .*", whole, suite)
    (folder / "suite.yaml").write_text(suite)
    page = build.page(ReportedStudy(folder))
    defaults = get("appo").defaults()
    assert defaults["num_slots"] != 2 and defaults["network.activation"] == "relu"
    assert page.first_screen is not None
    today = f"num_slots={defaults['num_slots']}, where the baseline has num_slots=2"
    assert dict(page.first_screen.facts)["Defaults today"] == today
    suite = suite.replace("num_slots: 2,", f"num_slots: {defaults['num_slots']},")
    for fixed in ("{network.actor: [8]}", "{algorithm.of_an_older_version: 1}"):  # on purpose, and not known any more
        (folder / "suite.yaml").write_text(re.sub("fixed: .*", f"fixed: {fixed}", suite))
        page = build.page(ReportedStudy(folder))
        assert page.first_screen is not None and "Defaults today" not in dict(page.first_screen.facts)


def test_no_gain_is_claimed_from_a_single_repeat_each(tmp_path: Path) -> None:
    page = page_of(tmp_path, [make_record(0), make_record(1, env_steps_per_second=99_000.0)])
    assert page.first_screen is not None
    assert (page.first_screen.headline, page.first_screen.unit) == ("99,000", "env steps a second, unconfirmed")
    assert "; trial 1, unconfirmed, alone" in dict(page.first_screen.facts)["After"]
    assert dict(page.first_screen.facts)["Gain"].endswith("no interval: not confirmed")


def test_the_gain_is_drawn_over_wall_time_as_returns_where_repeats_are_long_enough(tmp_path: Path) -> None:
    """One reading of the made-up curves is at 120 s / points; the first twentieth of them has no return."""
    speeds = {0: 100.0, 1: 200.0}
    records = [make_record(trial, env_steps_per_second=speed) for trial, speed in speeds.items()]
    records += [make_record(t, n, phase="confirm", env_steps_per_second=s) for n in (1, 2) for t, s in speeds.items()]
    page = page_of(tmp_path / "long", records, curve_points=40)
    assert page.first_screen is not None and page.first_screen.charts[0].title == (
        "Best and baseline over wall time: episode return, median and range of 2 repeats; too few for an interval; "
        "confirmation, alone"
    )
    rows = page.data["over_time"]
    assert {row["name"] for row in rows} == {"best, trial 1", "baseline, trial 0"}
    assert min(row["x"] for row in rows) == 6 and max(row["x"] for row in rows) == 120
    records += [make_record(trial, 2000, phase="learning") for trial in speeds]
    page = page_of(tmp_path / "seeds", records, curve_points=40)
    assert page.first_screen is not None
    title = "Best and baseline over wall time: episode return, the one repeat, no band; seeds that learned here"
    assert page.first_screen.charts[0].title == title
    assert texts(section(page, "curves").tables[0], "repeats") == ["1", "1"], "of the seeds alone"
    folder = tmp_path / "long"
    for path in folder.rglob("curve.jsonl"):
        path.write_text(re.sub(r'"episode_return": [^,]*', '"episode_return": null', path.read_text()))
    page = build.page(ReportedStudy(folder))
    assert page.first_screen is not None
    assert "env steps since the first update, median" in page.first_screen.charts[0].title
    ends = {row["name"]: (row["x"], row["y"]) for row in page.data["over_time"]}
    assert ends == {"best, trial 1": (117, 23_400), "baseline, trial 0": (117, 11_700)}


def test_repeats_that_failed_are_to_be_taken_with_care(tmp_path: Path) -> None:
    confirmed = [make_record(trial, repeat, phase="confirm") for repeat in (1, 2) for trial in (0, 1)]
    lost = {"state": "failed", "error": "ValueError: NaN", "env_steps_per_second": math.nan}
    failed = make_record(1, 3, phase="confirm", **lost)
    doubtful = make_record(0, 3, phase="confirm", unsteady=True, disturbed="another process")
    fast = {"env_steps_per_second": 1e6}
    page = page_of(tmp_path / "s", [make_record(0), make_record(1, **fast), *confirmed, failed, doubtful])
    assert page.first_screen is not None
    assert dict(page.first_screen.facts)["With care"] == "of 6 repeats 1 failed, 1 disturbed, 1 unsteady"


def test_nan_everywhere(tmp_path: Path) -> None:
    unknown = {name: math.nan for name, value in vars(make_record(0)).items() if isinstance(value, float)}
    page = page_of(tmp_path, [replace(make_record(n), **unknown) for n in range(3)])
    assert page.first_screen is not None and page.first_screen.headline == "No result"
    assert "NaN" not in write.html(page).split('id="content">')[1].split("</script>")[0]


def test_a_study_of_an_older_version(tmp_path: Path) -> None:
    folder = write_study(tmp_path, [make_record(n) for n in range(3)], manifest=False)
    kept = {"study", "trial", "repeat", "state", "env_steps_per_second", "baseline", "error", "collector_busy_fraction"}
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    old = [{k: v for k, v in line.items() if k in kept or k.startswith("params.")} for line in lines]
    (folder / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old) + '{"trial": 7, "cut')
    with (folder / "suite.yaml").open("a") as suite:
        suite.write("sampler: {name: tpe, seed: 0, predict: true}\n")  # a key that is no more
    page = build.page(ReportedStudy(folder))
    assert len(table(page, "trials-table").rows) == 3
    assert "No manifest.json could be read" in section(page, "reproduce").text[0]
    assert "no ceilings.json" in section(page, "prediction").text[0]
    assert section(page, "memory").text == ["No trial has both a predicted and a measured peak."]
    assert "do not say whether" in section(page, "unsteady").text[0]
    assert "<h1>" in write.html(page)


RENDERER = """
import pathlib, sys
assert sys.argv[1:4] == ["-m", "harness", "eval"] and sys.argv[5] == "--video"
pathlib.Path(sys.argv[6]).write_bytes(b"moving pictures")
sys.exit("0 of 1 episodes\\nerror: nothing can be drawn here" if "fails" in sys.argv[6] else 0)
"""


@pytest.fixture
def robots_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A study of a Go1 whose best repeat left a policy, and a renderer that takes no time."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(RENDERER)} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))

    def write(name: str) -> Path:
        records = [make_record(0, n, env_steps_per_second=speed) for n, speed in enumerate([7e3, 9e3, 8e3])]
        folder = write_study(tmp_path / name, records)
        suite = folder / "suite.yaml"
        suite.write_text(suite.read_text().replace("HalfCheetah", "Velocity-Go1"))
        (folder / "logs" / "0-1").mkdir(parents=True)
        (folder / "logs" / "0-1" / "checkpoint.pt").touch()
        return folder

    return write


def test_a_robots_best_policy_is_seen_in_the_page(robots_study: Callable[[str], Path]) -> None:
    folder = robots_study("one")
    assert film(folder) == f"video:      {folder / 'best.mp4'}"
    page = build.page(ReportedStudy(folder))
    text = write.html(page)
    url = f"data:video/mp4;base64,{base64.b64encode(b'moving pictures').decode()}"
    assert page.sections[0].video == url and f'<video src="{url}" controls' in text and "media-src data:" in text
    command = shlex.split(page.sections[0].code[0].text)
    assert command[3:] == ["eval", str(folder / "logs" / "0-1"), "--video", str(folder / "best.mp4")]
    assert build.page(ReportedStudy(folder), watched="now").sections[0].id != "video"


def test_a_report_imports_nothing_that_a_study_names(robots_study: Callable[[str], Path], monkeypatch) -> None:
    folder = robots_study("one")
    suite = folder / "suite.yaml"
    suite.write_text(suite.read_text().replace("Velocity-Go1", "somebodys_module:ROBOT"))
    (folder / "somebodys_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(folder))
    assert build.page(ReportedStudy(folder)).sections[0].id != "video"
    (folder / "best.mp4").write_bytes(b"moving pictures")
    assert build.page(ReportedStudy(folder)).sections[0].video is not None
    with pytest.raises(SystemExit, match="imported"):  # the end of a run, which has trained in it
        film(folder)
    (folder / "edited_module.py").write_text("ROBOT =")
    suite.write_text(suite.read_text().replace("somebodys_module", "edited_module"))
    assert film(folder).startswith("no video of the best policy: edited_module:ROBOT cannot be loaded any more: Syntax")


def test_why_a_policy_is_not_seen_is_one_line(robots_study: Callable[[str], Path]) -> None:
    folder = robots_study("fails")
    assert film(folder) == "no video of the best policy: nothing can be drawn here"
    assert not list(folder.glob("best.mp4*"))
    shown = build.page(ReportedStudy(folder)).sections[0]
    assert shown.video is None and shown.text[0].startswith("There is no video of it.")
    (folder / "logs" / "0-1" / "checkpoint.pt").unlink()
    shown = build.page(ReportedStudy(folder)).sections[0]
    assert film(folder) == "" and shown.text == [
        "There is no video of it: no checkpoint of this project's trainers lies where it was trained."
    ]


def test_two_objectives_have_a_front(tmp_path: Path) -> None:
    speeds = {0: (10.0, 50.0), 1: (20.0, 40.0), 2: (15.0, 30.0), 3: (30.0, 10.0)}
    records = [make_record(n, env_steps_per_second=a, episode_return=b) for n, (a, b) in speeds.items()]
    page = page_of(tmp_path, records, objectives="[env_steps_per_second, episode_return]")
    assert texts(table(page, "pareto-table"), "trial") == ["3", "1", "0 (baseline)"]


def test_a_front_is_said_to_be_of_what_it_is_of(tmp_path: Path) -> None:
    objectives = "[env_steps_per_second, dropped_rollouts]"
    same = [make_record(n, env_steps_per_second=10.0 + n, dropped_rollouts=0) for n in range(3)]
    none = section(page_of(tmp_path / "same", same, objectives=objectives), "pareto")
    assert none.text == ["There is no second objective in which trials differ to set against the first objective."]
    assert not none.charts
    values = {0: (1.0, 200.0, 9.0), 1: (2.0, 100.0, 5.0)}  # the first is beaten in the two that are drawn
    three = [make_record(n, env_steps_per_second=a, peak_host_bytes=int(b), episode_return=c)
             for n, (a, b, c) in values.items()]  # fmt: skip
    objectives = "[env_steps_per_second, peak_host_bytes, episode_return]"
    page = page_of(tmp_path / "three", three, objectives=objectives)
    text = section(page, "pareto").text[0]
    assert text.startswith("These are two of 3 objectives.") and "no other trial beats in all objectives" in text
    assert texts(table(page, "pareto-table"), "trial") == ["1", "0 (baseline)"]
    assert not any("line" in str(layer["mark"]) for layer in section(page, "pareto").charts[0].spec["layer"])


def test_a_setting_that_some_trials_do_not_have_keeps_its_numbers_in_order(tmp_path: Path) -> None:
    """Of synchronous trials slots have no effect."""
    records = [
        make_record(n, params={"mode": "async", "num_envs": 64 + n} if n % 2 else {"mode": "sync"}) for n in range(40)
    ]
    by = table(page_of(tmp_path, records), "by-setting-table")
    rows = [row for row in by.rows if row[0].text == "num_envs"]
    assert rows[0][1].text == "not set" and sum(int(row[2].text) for row in rows) == 40
    assert sorted([10, "not set", 2, 16], key=_numbers_first) == [2, 10, 16, "not set"]


@pytest.mark.parametrize("values", [[0, 0.005, 0.01], [[n, n] for n in range(13)]], ids=["mixed numbers", "many texts"])
def test_any_list_of_values_has_an_axis_and_its_rows(tmp_path: Path, values: list) -> None:
    records = [make_record(n, params={"num_envs": 64 * (1 + n % 2), "x": one}) for n, one in enumerate(values * 2)]
    page = page_of(tmp_path, records, searched=f"  x: {values}\n")
    assert len(page.data["lines"])
    rows = [row for row in table(page, "by-setting-table").rows if row[0].text == "x"]
    assert len(rows) == len(values)


def test_what_limits_a_trial_does_not_depend_on_where_the_page_is_made(tmp_path: Path, monkeypatch) -> None:
    busy = {"collector_busy_fraction": 0.98, "learner_busy_fraction": 0.99, "verdict": ""}
    busy |= {"collector_wait_fraction": 0.02, "learner_wait_fraction": 0.01}
    folder = write_study(tmp_path / "study", [make_record(0, threads="env 2, learner 2", **busy)])
    monkeypatch.setattr("harness.report.studies.usable_cores", lambda: 2)
    study = ReportedStudy(folder)
    assert study.manifest["machine"]["cores_usable"] == 16
    assert study.limited_by(study.trials[0]).startswith("learner-bound")


def test_the_best_is_on_its_own_front(tmp_path: Path) -> None:
    """By the search trial 1 beats all in both, by the confirmation trial 2 has the most env steps."""
    values = {0: (10.0, 10.0), 1: (30.0, 60.0), 2: (20.0, 50.0)}
    records = [make_record(n, env_steps_per_second=a, episode_return=b) for n, (a, b) in values.items()]
    decided = {0: (10.0, 10.0), 1: (21.0, 60.0), 2: (25.0, 40.0)}
    for repeat in (1, 2):
        records += [make_record(n, repeat, phase="confirm", env_steps_per_second=a, episode_return=b, in_turns=True)
                    for n, (a, b) in decided.items()]  # fmt: skip
    page = page_of(tmp_path / "two", records, objectives="[env_steps_per_second, episode_return]")
    assert texts(table(page, "pareto-table"), "trial") == ["2", "1"]
    assert "All values are those of the confirmation, in turns." in section(page, "pareto").text[0]
    assert {row["env_steps_per_second"] for row in page.data["confirmed"]} == {10.0, 21.0, 25.0}
    lag = {0: 2.0, 1: 1.0, 2: 1.5}
    page = page_of(tmp_path / "one", [replace(r, policy_lag_mean=lag[r.trial]) for r in records])
    assert page.first_screen is not None and "trial 2, confirmed" in dict(page.first_screen.facts)["After"]
    assert not section(page, "pareto").tables and "No front is drawn" in section(page, "pareto").text[0]


def test_a_return_is_set_against_what_it_costs_and_not_against_another_return(tmp_path: Path) -> None:
    speeds = {0: (10.0, 50.0), 1: (20.0, 40.0)}
    records = [
        make_record(n, env_steps_per_second=a, episode_return=b, return_at_budget=b) for n, (a, b) in speeds.items()
    ]
    folder = write_study(tmp_path / "study", records, objectives="[return_at_budget]")
    text = (folder / "suite.yaml").read_text()
    (folder / "suite.yaml").write_text(text.replace("seconds: 8}", "return_at: {env_steps: 1000}}"))
    page = build.page(ReportedStudy(folder))
    assert table(page, "pareto-table").columns[1:3] == ("return at the budget", "env steps a second")
    assert texts(table(page, "pareto-table"), "trial") == ["0 (baseline)", "1"]


def test_a_return_is_set_against_that_of_the_baseline_by_its_difference(tmp_path: Path) -> None:
    """Of -400 against -1,200 a ratio would say that it is smaller."""
    records = [make_record(n, episode_return=value) for n, value in ((0, -1200.0), (1, -400.0), (2, -1500.0))]
    trials = table(page_of(tmp_path, records, objectives="[episode_return]"), "trials-table")
    assert dict(zip(texts(trials, "trial"), texts(trials, "against baseline"), strict=True)) == {
        "0 (baseline)": "baseline", "1": "+800", "2": "-300",
    }  # fmt: skip


def test_a_constraint_is_judged_as_the_ranking_judges_it(tmp_path: Path) -> None:
    records = [make_record(0, n, policy_lag_mean=lag) for n, lag in enumerate([6.0, 9.0])]
    page = page_of(tmp_path, records)
    assert section(page, "problems").text == ["Every repeat was measured to its end, within all constraints."]
    records = [make_record(0, n, policy_lag_mean=lag) for n, lag in enumerate([8.0, 9.0])]
    broken = table(page_of(tmp_path, records), "constraints-table")
    assert texts(broken, "value") == ["8.5"]


def test_the_median_by_setting_lies_between_the_middle_two(tmp_path: Path) -> None:
    params = {"num_envs": 64, "num_slots": 1}
    records = [make_record(n, params=params | {"mode": m}, env_steps_per_second=v)
               for n, (m, v) in enumerate([("async", 100.0), ("async", 200.0), ("sync", 50.0)])]  # fmt: skip
    by_mode = table(page_of(tmp_path, records), "by-setting-table")
    assert dict(zip(texts(by_mode, "value"), texts(by_mode, "median env steps a second"), strict=True)) == {
        "async": "150", "sync": "50",
    }  # fmt: skip


def test_commands_are_quoted_for_a_shell(tmp_path: Path) -> None:
    folders = [write_study(tmp_path / "my studies" / name, [make_record(0)]) for name in "ab"]
    expected = [["python", "-m", "harness", "train", str(folder / "best.yaml")] for folder in folders]
    studies = [ReportedStudy(folder) for folder in folders]
    page = build.page(studies[0])
    assert page.first_screen is not None and page.first_screen.command is not None
    assert shlex.split(page.first_screen.command) == expected[0]
    assert [shlex.split(code.text) for code in section(comparison(studies), "commands").code] == expected


# -- text from elsewhere


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    bad = make_record(1, state="failed", error=HOSTILE, log=HOSTILE)
    records = [make_record(0), replace(bad, params={HOSTILE: HOSTILE}), make_record(2, params={HOSTILE: HOSTILE})]
    records += [make_record(3, verdict=HOSTILE, machine=HOSTILE, disturbed=HOSTILE, threads=HOSTILE)]
    records += [make_record(n, params={HOSTILE_KEY: n, "mode": "sync"}) for n in (4, 5)]
    folder = write_study(tmp_path, records, searched=HOSTILE_SEARCH, ceilings=replace(CEILINGS, machine=HOSTILE))
    (folder / "best.yaml").write_text(HOSTILE)
    page = build.page(ReportedStudy(folder), watched=HOSTILE)
    text = write.html(page)
    own = text.replace(write._vega(), "")
    assert own.count("<script>") == 2 and "<img" not in own
    assert HOSTILE_KEY in texts(table(page, "by-setting-table"), "setting")
    assert "{{ 7 * 7 }}" in text and "\\u003c/script\\u003e" in text
    for line in write.markdown(page).splitlines():
        assert "<img" not in re.sub(r"\\.", "", line) or line.startswith(HOSTILE[:9])


@given(st.text())
def test_markdown_cells_stay_in_their_row(text: str) -> None:
    written = write.markdown_text(text)
    assert "\n" not in written and not re.search(r"(?<!\\)(\\\\)*[|<`]", written)


# -- numbers


def test_cells_sort_by_value_and_missing_ones_have_none() -> None:
    assert Cell.of(math.nan) == Cell.of(None) == Cell(MISSING)
    assert Cell.of(12345.6) == Cell("12,346", 12345.6)
    assert Cell.share(-0.123, "+", 1) == Cell("-12.3%", -0.123)
    assert Cell.share(0.5).text == "50%"
    numbers = Table.of("t", "", [{"name": "b", "n": 2, "text": "x"}, {"name": "a", "n": None, "text": "y"}])
    assert numbers.numeric == {"n"}


def test_thinned_curves_are_means_of_neighbours() -> None:
    x, y = thin(np.arange(1000.0), np.arange(1000.0) * 2, points=10)
    assert x.tolist() == [49.5 + 100 * n for n in range(10)]
    assert y.tolist() == [99.0 + 200 * n for n in range(10)]
    short = np.arange(5.0)
    assert thin(short, short, points=10)[0] is short


def test_bands_say_what_the_repeats_allow() -> None:
    def curves(*ends: float) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(np.array([0.0, 10.0]), np.array([0.0, end])) for end in ends]

    grid, line, low, high = aggregate(curves(10, 20, 60))
    assert (grid[-1], line[-1], low[-1], high[-1]) == (10, 20, 10, 60)
    _, line, low, high = aggregate(curves(0, 10, 20, 30, 1000, 20))
    assert line[-1] == 20 and 0 < low[-1] < 20 < high[-1] < 1000  # the interquartile mean of 10, 20, 20, 30
    later = (np.array([4.0, 8.0]), np.array([4.0, 8.0]))
    grid, _, _, _ = aggregate([*curves(10, 10), later])
    assert (grid[0], grid[-1]) == (4, 8)  # only where all have values
    assert "too few for an interval" in summary_kind(4) and "95 % bootstrap interval" in summary_kind(5)


def test_thousands_of_points_are_thinned_and_said_to_be(tmp_path: Path) -> None:
    page = page_of(tmp_path, [make_record(0), make_record(1)], curve_points=5000)
    assert "up to 4,751 readings; each point is the mean of about 31.7" in section(page, "curves").text[0]
    assert len(page.data["curve_wall_seconds"]) == 2 * POINTS
    assert charts(page).count("curve-env_steps") == 1


def test_the_front_holds_what_nothing_beats() -> None:
    pairs = [("env_steps_per_second", "maximize"), ("policy_lag_mean", "minimize")]
    values = [(1.0, 1.0), (3.0, 2.0), (2.0, 2.0), (3.0, 5.0), (math.nan, 0.0)]
    trials = [
        ReportedTrial(n, (make_record(n, env_steps_per_second=a, policy_lag_mean=b),))
        for n, (a, b) in enumerate(values)
    ]
    assert [trial.number for trial in front(trials, pairs)] == [0, 1]


def test_memory_uses_the_calibrated_prediction() -> None:
    trial = ReportedTrial(0, (make_record(0, budget_host_bytes=100, calibrated_host_bytes=120, peak_host_bytes=126),))
    assert (predicted_bytes(trial), peak_bytes(trial)) == (120, 126)


# -- where to, and while it runs


def test_both_files_are_written(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", [make_record(0)])
    written = write_report(folder, tmp_path / "elsewhere" / "page.html")
    assert written.html.stat().st_size == written.bytes
    assert written.markdown == tmp_path / "elsewhere" / "page.md"
    assert written.markdown.read_text().startswith("# made\\_up\n")
    assert not (folder / "report.html").exists()
    written = write_report(folder, tmp_path / "summary.md")
    assert (written.html, written.markdown) == (tmp_path / "summary.html", tmp_path / "summary.md")


def test_side_by_side(tmp_path: Path) -> None:
    one = write_study(tmp_path / "a" / "x", [make_record(0), make_record(1, env_steps_per_second=99_000.0)])
    two = write_study(tmp_path / "b" / "x", [make_record(0)], ceilings=CEILINGS)
    manifest = json.loads((two / "manifest.json").read_text()) | {"machine_name": "node8-777777"}
    (two / "manifest.json").write_text(json.dumps(manifest))
    studies = [ReportedStudy(one), ReportedStudy(two)]
    names = ["made_up/x on node7-3f9a2c", "made_up/x on node8-777777"]
    assert labels(studies) == names
    page = comparison(studies)
    assert texts(table(page, "overview-table"), "study") == names
    assert texts(table(page, "overview-table"), "best")[0] == "99,000"
    assert "These are 2 machines" in section(page, "best").text[1]
    assert [row["study"] for row in page.data["best_env_steps_per_second"]] == [names[0], names[0], names[1], names[1]]
    assert "<h1>2 studies side by side</h1>" in write.html(page)


def test_a_running_study_has_a_current_page(make_plan, tmp_path: Path) -> None:
    folder, out = write_study(tmp_path, []), Console(file=io.StringIO(), width=200)
    display = StudyDisplay(make_plan(), out, watched=folder)
    path = folder / "report.html"
    assert f"{path} (open it in a browser" in out.file.getvalue()  # type: ignore[attr-defined]
    assert "No trial has been recorded yet." in path.read_text()
    record = make_record(0)
    display.started(record, "trial 1 of 2")
    (folder / "trials.jsonl").write_text(json.dumps(record.flat()) + "\n")
    display.finished(record)
    text = path.read_text()
    assert "1 repeat of this run finished" in text and "data-watched" in text
    write_report(folder)
    assert "data-watched" not in path.read_text()


def test_trainers_side_by_side_are_named() -> None:
    records = [
        Record("s", trial, 0, "complete", params={"trainer": name}, baseline=trial == 0)
        for trial, name in enumerate(["ours", "theirs"])
    ]
    assert [trial.name for trial in trials_of(records)] == ["0 ours (baseline)", "1 theirs"]
    assert trials_of([Record("s", 3, 0, "complete", params={"speed": 1})])[0].name == "3"
