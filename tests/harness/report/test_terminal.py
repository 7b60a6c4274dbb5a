"""What a finished run says on a terminal of 80 columns, and to a program."""

import io
import json
import re
from pathlib import Path

from rich.console import Console

from harness.measure.engines.local import LocalEngine
from harness.measure.record import Record
from harness.measure.stop import StopSignal
from harness.predict.plan import Plan
from harness.report import live
from harness.report import terminal as tables
from harness.report.studies import ReportedStudy
from harness.study.folder import Study
from harness.study.search import Sweep
from tests.harness.study.test_search import Disturbed, Quiet


def finished(plan: Plan, results: Path, disturbed: set[int]) -> tuple[str, dict]:
    out = Console(file=io.StringIO(), width=80)
    with Study(plan.folder(results)) as study, StopSignal() as stop:
        Sweep(plan, study, stop, Quiet(), LocalEngine("here", stop, Disturbed(disturbed), in_turns=False)).run()
        study.describe(plan, [])
    tables.show(ReportedStudy(study.folder), out)
    content = tables.summary(ReportedStudy(study.folder))
    return out.file.getvalue(), content  # type: ignore[attr-defined]


def test_the_time_left_is_among_the_80_columns_of_the_line_that_is_replaced(make_plan, monkeypatch) -> None:
    monkeypatch.setattr(live, "PLAIN_SECONDS", 0.0)
    out = Console(file=io.StringIO(), width=80)
    display = live.StudyDisplay(make_plan("confirm={top: 1, repeats: 6}"), out)
    one = Record("s", 0, 1, "failed", "confirm", baseline=True)
    display.started(one, "confirming trial 0, repeat 1, again (1 of 2)")
    display.progress(one, {"wall_seconds": 1.0, "env_steps": 1000, "episode_return": 1234.5, "measuring": True})
    training = live.TrainDisplay(out, max_iterations=100, max_seconds=None)
    training.progress(
        {"wall_seconds": 9.0, "iteration": 10, "env_steps": 12_345_678, "episode_return": 5983.2, "eval_return": 6012.1}
    )
    study, train = [line for line in out.file.getvalue().splitlines() if " left" in line][-2:]  # type: ignore[attr-defined]
    assert re.match(r"  \d+ (s|min) left, confirming trial 0", study) and "measuring" in study[:80]
    assert train.startswith("81 s left, iteration 10, 12,345,678 steps")


def test_disturbed_repeats_are_marked_and_the_claim_is_below_the_table(make_plan, tmp_path) -> None:
    plan = make_plan("limits.trials=2", "measure.disturbed_retries=0", "search.speed=[20, 80]")
    text, content = finished(plan, tmp_path, {1})
    assert "1/1!" in text and "! disturbed by other work" in text
    sentence = content["answer"]["claim"]
    assert sentence.startswith("No configuration was better") and "disturbed" not in sentence
    assert sentence in " ".join(text.split())
    table = [line for line in text.splitlines() if "─" in line or "│" in line]
    assert table and max(map(len, table)) <= 80
    assert content["trials"][1]["disturbed"] == ["other processes took 1 of 2 cores"]
    assert content["trials"][0]["disturbed"] == [] and content["trials"][0]["unsteady"] == 0
    json.dumps(content["answer"])


def test_nothing_is_marked_where_nothing_disturbed(make_plan, tmp_path) -> None:
    text, content = finished(make_plan("limits.trials=2", "confirm={top: 1, repeats: 6}"), tmp_path, set())
    assert "disturbed" not in text
    assert content["answer"]["pairs"] == 6 and content["answer"]["change"] == content["gain_over_baseline"]


def test_returns_are_set_beside_the_baseline_by_their_difference(make_plan, tmp_path) -> None:
    plan = make_plan("limits.trials=2", "search.speed=[20, 80]", "objectives=[episode_return]")
    text, content = finished(plan, tmp_path, set())
    assert "+600" in text and "interquartile mean of 1 repeat" in " ".join(text.split())
    assert content["answer"]["claim"].startswith("No claim with fewer than six seeds: trial 1 had return 800")


def test_a_trial_that_was_stopped_beside_others_has_no_row(make_plan, tmp_path) -> None:
    plan = make_plan("limits.trials=3", "search.speed=[20, 40, 80]")
    with Study(plan.folder(tmp_path)) as study:
        for trial, speed in ((0, 20), (2, 80)):
            more = {"params": {"speed": speed}, "env_steps_per_second": speed}
            study.records.append(Record("s", trial, 0, "complete", baseline=not trial, **more))
        study.describe(plan, [])
    out = Console(file=io.StringIO(), width=80)
    tables.show(ReportedStudy(study.folder), out)
    content = tables.summary(ReportedStudy(study.folder))
    assert [trial["trial"] for trial in content["trials"]] == content["order"][::-1] == [0, 2]
    assert content["best"]["trial"] == 2 and "2*" in out.file.getvalue()  # type: ignore[attr-defined]
