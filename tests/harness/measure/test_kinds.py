"""Numbers that were measured in turns and numbers that were measured alone never stand beside each other."""

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from harness.measure.record import Record
from harness.predict.plan import Plan
from harness.report import terminal as tables
from harness.report.asv_export import export, read_benchmarks
from harness.report.finding import conclude
from harness.report.live import StudyDisplay
from harness.report.page import build
from harness.report.page.comparison import comparison
from harness.report.page.model import MISSING, Table
from harness.report.studies import ReportedStudy
from harness.study.best_trials import of_one_kind, ranking
from harness.study.folder import Study
from tests.harness.report.studies import make_record, write_study

SPEEDS = {0: 15_000.0, 1: 18_000.0, 2: 18_769.0}
"""of a first run on a fresh machine, alone; in turns all are slower"""


def records(**more) -> list[Record]:
    """Trial 1 is confirmed; trial 2 was faster in the search than trial 1 in the confirmation."""
    searched = [make_record(trial, env_steps_per_second=speed, **more) for trial, speed in SPEEDS.items()]
    confirmed = [
        make_record(trial, repeat, phase="confirm", in_turns=True, env_steps_per_second=speed, **more)
        for repeat in range(1, 7) for trial, speed in ((0, 14_000.0), (1, 17_636.0))
    ]  # fmt: skip
    return [*searched, *confirmed]


def table(page, name: str) -> Table:
    return next(one for section in page.sections for one in section.tables if one.id == name)


def test_a_record_says_of_what_kind_it_is() -> None:
    plain = Record("s", 0, 0, "complete")
    assert plain.kind == "alone"
    assert Record("s", 0, 0, "complete", in_turns=True).kind == "in turns"
    assert Record("s", 0, 0, "complete", shared=True).kind == "on a shared node"
    assert Record("s", 0, 0, "complete", in_turns=True, traced=True).kind == "in turns, traced"


def test_tables_of_a_run_show_confirmed_values_apart(make_plan, tmp_path: Path) -> None:
    plan: Plan = make_plan("confirm={top: 1, repeats: 6}")
    out = Console(file=io.StringIO(), width=100, markup=False)
    with Study(plan.folder(tmp_path)) as study:
        for record in records(params={"speed": 80}):
            study.records.append(record)
        study.describe(plan, [])
    tables.show(ReportedStudy(study.folder), out)
    content = tables.summary(ReportedStudy(study.folder))
    confirmed, _, search = out.file.getvalue().partition("search, alone")  # type: ignore[attr-defined]
    assert "confirmation, in turns" in confirmed and "17,636" in confirmed and "14,000" in confirmed
    assert not {"18,769", "18,000", "15,000"} & set(confirmed.split())
    rows = search.partition("Records:")[0]
    assert all(number in rows for number in ("18,769", "18,000", "15,000")) and "17,636" not in rows
    assert [line.split()[1] for line in rows.splitlines() if line.startswith("│")] == ["2", "1*", "0"]  # by the search
    assert "+26%" in confirmed and "+20%" in rows and "+25%" in rows  # each against the baseline of its kind
    best, other = content["trials"][1], content["trials"][2]
    assert (best["kind"], best["metrics"]["env_steps_per_second"]) == ("in turns", 17_636.0)
    assert (best["search"]["kind"], best["search"]["metrics"]["env_steps_per_second"]) == ("alone", 18_000.0)
    assert other["kind"] == "alone"


def test_a_page_draws_one_kind_to_a_chart(tmp_path: Path) -> None:
    page = build.page(ReportedStudy(write_study(tmp_path / "s", records())))
    assert {row["trial"] for row in page.data["evidence"]} == {"0 (baseline)", "1"}
    assert {row["env_steps_per_second"] for row in page.data["evidence"]} == {14_000.0, 17_636.0}
    assert page.first_screen is not None and "confirmation, in turns" in page.first_screen.charts[0].title
    by_trial = {row["trial"]: row["env_steps_per_second"] for row in page.data["trials"]}
    assert by_trial == SPEEDS
    assert {row["role"] for row in page.data["trials"] if row["trial"] == 1} == {"best"}
    assert {row["objective"] for row in page.data["lines"]} == set(SPEEDS.values())
    everything = table(page, "trials-table")
    rows = [dict(zip(everything.columns, row, strict=True)) for row in everything.rows]
    shown = {row["trial"].text: [row[c].text for c in everything.columns[3:7]] for row in rows}
    assert shown["1"] == ["18,000", "+20%", "17,636", "+26%"]
    assert shown["2"] == ["18,769", "+25%", MISSING, MISSING]


def test_studies_side_by_side_have_a_chart_for_each_kind(tmp_path: Path) -> None:
    folders = [write_study(tmp_path / "turns", records()), write_study(tmp_path / "alone", records()[:3])]
    page = comparison([ReportedStudy(folder) for folder in folders])
    drawn = [rows for name, rows in page.data.items() if name.startswith("best_")]
    assert [{row["measured"] for row in rows} for rows in drawn] == [{"confirmation, in turns"}, {"search, alone"}]
    assert len(page.sections[0].charts) == 2


def test_a_candidate_that_could_not_take_turns_is_not_ranked_with_those_that_did(make_plan) -> None:
    alone = [
        make_record(trial, repeat, phase="confirm", env_steps_per_second=speed)
        for repeat in (7, 8) for trial, speed in ((0, 15_000.0), (2, 18_700.0))
    ]  # fmt: skip
    suite = make_plan().suite
    whole = [*records(), *alone]
    assert of_one_kind(whole) == records() and of_one_kind(records()[:3]) == records()[:3]
    assert ranking(whole, suite)[0] == 1
    found = conclude(suite, whole)
    assert found.best == 1 and found.baseline_points == (14_000.0,) * 6


def test_the_best_so_far_is_one_of_the_same_kind(make_plan) -> None:
    out = Console(file=io.StringIO(), width=200, markup=False)
    display = StudyDisplay(make_plan("confirm={top: 1, repeats: 6}"), out)
    display.note_existing(records()[:-1])
    last = records()[-1]
    display.started(last, "confirming")
    display._due = 0.0
    display.progress(last, {"wall_seconds": 1.0, "env_steps": 10.0, "episode_return": math.nan})
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "best 17,636" in text and "18,769" not in text


@pytest.mark.parametrize(("confirmed", "ending"), [(True, "_in_turns"), (False, "")])
def test_histories_are_apart(tmp_path: Path, confirmed: bool, ending: str) -> None:
    study = write_study(tmp_path / "s", records() if confirmed else records()[:3], name="duel")
    export(study, tmp_path / "asv")
    names = set(read_benchmarks(tmp_path / "asv" / "benchmarks.json")) - {"version"}
    assert "bench_studies.duel.track_seconds_per_env_step" + ending in names
    assert all(name.endswith(ending) for name in names)
