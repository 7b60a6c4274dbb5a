"""The predictor's benchmark on grids made by hand: nothing is measured."""

import dataclasses
from pathlib import Path

import predictor
import pytest

from harness.measure.record import Record, RecordFile
from harness.predict import ceilings
from harness.predict import plan as plans
from harness.predict.ceilings import Ceilings, Measured
from harness.predict.plan import Plan
from harness.predict.ranking import Candidate
from harness.predict.throughput import Rates
from harness.suite.schema import Confirm, Sampler
from harness.trainers.rounds import Cost, Part, Workload
from tests.harness.conftest import SUITE

TRAINER = "tests.harness.described_trainer:DescribedTrainer"
SPEEDS = (10, 20, 40, 80)
GRID = SUITE.replace("tests.harness.fake_trainer:FakeTrainer", TRAINER).replace(
    "  speed: [10, 20, 40, 80]\nbaseline: {speed: 20}",
    "  speed: [10, 20, 40, 80]\n  mode: [async, sync]\nbaseline: {speed: 20, mode: sync}\nsampler: {name: grid}",
)
RATE = {"async": 500.0, "sync": 1000 / 3}
"""env steps a second by the costs of the described trainer: 2 ms for each, or 1 ms and 2 ms in turns"""


def grid() -> list[tuple[int, str]]:
    return [(speed, mode) for mode in RATE for speed in SPEEDS]


def measured(**changes: float) -> list[Record]:
    """Every configuration once, as fast as predicted, the larger the better by a little."""
    made = Record("s", 0, 0, "complete", budget_host_bytes=1000, calibrated_host_bytes=1100, peak_host_bytes=1100)
    return [
        dataclasses.replace(
            made, trial=trial, params={"speed": speed, "mode": mode}, env_steps_per_second=RATE[mode] + speed / 100,
            wall_seconds=10.0, predicted_env_steps_per_second=RATE[mode] + speed / 100, **changes,
        )
        for trial, (speed, mode) in enumerate(grid())
    ]  # fmt: skip


def study(folder: Path, records: list[Record]) -> Path:
    folder.mkdir()
    (folder / "suite.yaml").write_text(GRID)
    file = RecordFile(folder / "trials.jsonl")
    for record in records:
        file.append(record)
    costs = [
        Measured(part, Cost(seconds * part.size, seconds * part.size))
        for seconds, part in [
            *((0.001, Part("collector", "step", speed, {"mode": mode})) for speed, mode in grid()),
            *((0.002, Part("learner", "learn", speed, {})) for speed in SPEEDS),
        ]
    ]
    (folder / ceilings.FILE).write_text(Ceilings("m", 4, costs).text())
    return folder


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *folders: Path) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["predictor.py", *map(str, folders), "--seeds", "2"])
    return predictor.main(), capsys.readouterr().out


def plan_of(tmp_path: Path) -> Plan:
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return plans.make(path)


def test_a_search_on_paper_takes_its_time_from_the_grid(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    params = [{"speed": speed, "mode": mode} for speed, mode in grid()]
    best = {"speed": 80, "mode": "async"}
    made = {
        predictor.key(plan, one): predictor.Configuration((200.0, 204.0) if one == best else (100.0, 102.0), 10.0)
        for one in params
    }
    known = [
        Candidate(one, Workload((), "wait", 1, 1, 1), rates=Rates(2.0 if one == best else 1.0, 1.0, 1.0))
        for one in params
    ]
    short, trials, seconds = predictor.replay(plan, made, known, before=5.0, most=80.0, seed=0)
    assert short == 0 and trials >= 2
    assert seconds == pytest.approx(5 + trials * (10 - plan_saved(plan)) + 2 * 10), "ceilings, trials, second looks"
    short, trials, _ = predictor.replay(plan, made, known[1:], before=5.0, most=12.0, seed=0)
    assert trials == 1 and short == pytest.approx(0.5), "there was no time for another"


def plan_saved(plan: Plan) -> float:
    suite = dataclasses.replace(plan.suite, sampler=Sampler("auto"), confirm=Confirm(top=1))
    return dataclasses.replace(plan, suite=suite).saved_seconds


def test_memory_is_judged_by_what_was_expected(capsys: pytest.CaptureFixture) -> None:
    records = measured()
    assert predictor.show_memory([records[0], dataclasses.replace(records[1], peak_host_bytes=1155)]) == []
    out = capsys.readouterr().out.splitlines()
    assert "itemised   measured / predicted 1.100 to 1.155, 15.5% at most" in out[0]
    assert "calibrated measured / predicted 1.000 to 1.050, 5.0% at most" in out[1]
    (missed,) = predictor.show_memory([dataclasses.replace(records[0], peak_host_bytes=1210)])
    assert "10.0% at most, bound 8%" in missed


def test_a_whole_grid_is_replayed_to_its_end(tmp_path: Path, monkeypatch, capsys) -> None:
    folder = study(tmp_path / "grid", measured())
    monkeypatch.setattr(predictor, "PART", 1.0)
    code, out = run(monkeypatch, capsys, folder)
    assert code == 0, out
    assert "env_steps_per_second  as recorded Spearman  1.00 over 8 trials" in out
    assert out.count("recomputed") == 2 and "missed" not in out
    assert "with prediction  0.0% below the best" in out and "    without " in out


def test_a_prediction_is_judged_by_what_was_recorded_before(tmp_path: Path, monkeypatch, capsys) -> None:
    records = measured()
    backwards = [
        dataclasses.replace(record, predicted_env_steps_per_second=1e6 / record.env_steps_per_second)
        for record in records
    ]
    code, out = run(monkeypatch, capsys, study(tmp_path / "grid", backwards))
    assert code == 1 and "missed: " in out and "Spearman -1.00 over 8 trials, bound 0.85" in out


def test_a_search_that_does_not_find_the_best_is_a_missed_bound(tmp_path: Path, monkeypatch, capsys) -> None:
    """An eighth of the time is one trial's, and that is the baseline's."""
    records = [
        dataclasses.replace(
            record, env_steps_per_second=9000.0 if record.params == {"speed": 80, "mode": "sync"} else 1.0
        )
        for record in measured()
    ]
    code, out = run(monkeypatch, capsys, study(tmp_path / "grid", records))
    assert code == 1 and "search with prediction: 100.0% below the best, bound 5%" in out


def test_the_confirmation_counts_if_it_has_all_trials() -> None:
    searched = measured()
    again = [dataclasses.replace(r, repeat=1, phase="confirm", env_steps_per_second=1.0) for r in searched]
    for records, value in ((searched + again, 1.0), (searched + again[1:], searched[3].env_steps_per_second)):
        own = predictor.by_trial(records)
        assert list(own) == list(range(8)) and [r.env_steps_per_second for r in own[3]] == [value]
