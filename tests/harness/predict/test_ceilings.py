"""Ceilings: measured in a process of their own, kept, completed, and used by a study."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness import cli
from harness.measure.record import read_records
from harness.measure.stop import Stopped, StopSignal
from harness.predict import calibration, ceilings, ranking
from harness.predict import plan as plans
from harness.predict.ceilings import Ceilings, CeilingsError
from harness.trainers.rounds import Part
from tests.harness import calm_ceilings
from tests.harness.predict.test_throughput import DESCRIBED

CODE = "0123456789abcdef"
TRAINER = "tests.harness.described_trainer:DescribedTrainer"


def parts(*sizes: int) -> list[Part]:
    return [Part("collector", "step", size, {}) for size in sizes]


def measure(results: Path, *sizes: int) -> tuple[Ceilings, list[str]]:
    said: list[str] = []
    with StopSignal() as stop:
        return ceilings.measure(TRAINER, parts(*sizes), results, CODE, stop, said.append), said


@pytest.fixture
def undisturbed(monkeypatch) -> None:
    """Whatever else runs on the machine: the processes of a test suite share it."""
    monkeypatch.setattr(ceilings, "measure_parts", calm_ceilings.measure_parts)


def test_measured_once_and_then_only_what_is_new(tmp_path, undisturbed) -> None:
    first, said = measure(tmp_path, 10, 20)
    assert [(one.part.size, one.cost.seconds) for one in first.measured] == [(10, 0.01), (20, 0.02)]
    assert said == ["measuring this machine's ceilings: step"]
    assert ceilings.load(ceilings.path_of(tmp_path, TRAINER, CODE)) == first
    assert measure(tmp_path, 20, 10) == (first, [])
    more, _ = measure(tmp_path, 10, 20, 40)
    assert [one.part.size for one in more.measured] == [10, 20, 40]
    assert ceilings.path_of(tmp_path, "another:Trainer", CODE) != ceilings.path_of(tmp_path, TRAINER, CODE)
    assert more.machine and more.cores >= 1 and more.disturbed == "" and more.seconds > first.seconds > 0


def test_what_another_study_measured_meanwhile_is_kept(tmp_path, undisturbed) -> None:
    with StopSignal() as stop:

        def meanwhile(_: str) -> None:
            if not ceilings.path_of(tmp_path, TRAINER, CODE).exists():
                measure(tmp_path, 10, 20)

        ceilings.measure(TRAINER, parts(20, 40), tmp_path, CODE, stop, meanwhile)
    kept = ceilings.load(ceilings.path_of(tmp_path, TRAINER, CODE))
    assert kept is not None and sorted(one.part.size for one in kept.measured) == [10, 20, 40]


def test_both_sides_at_once_are_run_once_for_a_trainer(tmp_path, undisturbed) -> None:
    settings = {"env": "Fake", "speed": 10}
    others = [settings | {"speed": 20}, settings | {"mode": "sync"}, settings | {"mode": "sync", "speed": 30}]
    with StopSignal() as stop:
        for rehearse in ([settings], [settings], others[:2], others):
            known = ceilings.measure(TRAINER, parts(10), tmp_path, CODE, stop, rehearse=rehearse)
    assert [rehearsal.settings for rehearsal in known.rehearsals] == [settings, others[1]]  # in turns once, too
    assert [rehearsal.updates_per_second for rehearsal in known.rehearsals] == [pytest.approx(2000)] * 2
    assert ceilings.load(ceilings.path_of(tmp_path, TRAINER, CODE)) == known


def test_a_damaged_file_is_measured_anew(tmp_path, undisturbed) -> None:
    path = ceilings.path_of(tmp_path, TRAINER, CODE)
    path.parent.mkdir()
    for damaged in ("", "[]", '{"measured": [{}]}', '{"measured": [], "unknown": 1}'):
        path.write_text(damaged)
        assert ceilings.load(path) is None
    assert len(measure(tmp_path, 10)[0].measured) == 1


def test_what_cannot_be_measured_is_an_error_with_its_traceback(tmp_path) -> None:
    with pytest.raises(CeilingsError, match="ValueError: no cost for 13"):
        measure(tmp_path, 13)
    assert not ceilings.path_of(tmp_path, TRAINER, CODE).exists()


ENDLESS = Part("collector", "env_step", 4, {"env": "tests.harness.predict.test_ceilings:never"})


def test_the_measuring_process_ends_with_its_parent(tmp_path) -> None:
    code = "from tests.harness.predict import test_ceilings; test_ceilings.measure_for_ever()"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path,
                              env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])})  # fmt: skip
    measuring: list[psutil.Process] = []
    while not measuring:
        assert parent.poll() is None
        time.sleep(0.1)
        measuring = [one for one in psutil.Process(parent.pid).children() if "spawn_main" in " ".join(one.cmdline())]
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(measuring, timeout=60)[1] == []


def measure_for_ever() -> None:
    with StopSignal() as stop:
        ceilings.measure("appo", [ENDLESS], Path(), CODE, stop)


def test_a_measuring_process_that_hangs_is_ended(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ceilings, "SILENT_SECONDS", 0.5)
    with StopSignal() as stop, pytest.raises(CeilingsError, match=r"no answer for 0\.5 s"):
        ceilings.measure("appo", [ENDLESS], tmp_path, CODE, stop)
    assert multiprocessing.active_children() == []


def test_a_signal_ends_the_measuring(tmp_path) -> None:
    with StopSignal() as stop, pytest.raises(Stopped):
        ceilings.measure("appo", [ENDLESS], tmp_path, CODE, stop, lambda text: os.kill(os.getpid(), signal.SIGINT))
    assert multiprocessing.active_children() == []


def never(*_: object, **__: object) -> None:
    """An environment that is never ready."""
    import threading

    threading.Event().wait()


# -- studies


@pytest.fixture
def suite(tmp_path) -> Path:
    path = tmp_path / "described.yaml"
    path.write_text(DESCRIBED)
    return path


def test_a_study_begins_with_the_best_of_the_ranking_and_keeps_a_copy(suite, tmp_path, undisturbed, capsys) -> None:
    arguments = [str(suite), "--results", str(tmp_path / "r"), "--set", "search.mode=[async, sync]", "--set",
                 "baseline.mode=sync", "--set", "baseline.speed=10"]  # fmt: skip
    assert cli.main(["plan", *arguments, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["costs_to_measure"] == 12 and planned["ranking"] == []
    assert not (tmp_path / "r").exists()

    assert cli.main(["run", *arguments, "--json"]) == 0
    folder = Path(json.loads(capsys.readouterr().out)["folder"])
    kept = ceilings.path_of(tmp_path / "r", TRAINER, plans.make(suite).code)
    assert ceilings.load(folder / ceilings.FILE) == ceilings.load(kept)
    records = read_records(folder / "trials.jsonl")
    assert [record.params["mode"] for record in records[:2]] == ["sync", "async"]
    assert [record.predicted_env_steps_per_second for record in records[:2]] == pytest.approx([1000 / 3, 500])
    assert all(record.verdict and record.async_efficiency > 0 for record in records)
    assert records[0].budget_items == {"ring": 1000} and records[0].calibrated_host_bytes == 1000
    ratios = calibration.load(tmp_path / "r")[TRAINER]
    assert len(ratios) == sum(record.peak_host_bytes > 0 for record in records)

    assert cli.main(["plan", *arguments, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["costs_to_measure"] == 0 and planned["ranked_by"] == ["env_steps_per_second"]
    assert [one["params"]["mode"] for one in planned["ranking"]] == ["async"] * 4 + ["sync"] * 4
    assert cli.main(["plan", *arguments]) == 0
    out = capsys.readouterr().out
    assert "predicted before anything is run" in out and "base" in out
    assert max(map(len, out.split("predicted before")[1].splitlines())) <= 80


def test_a_study_that_goes_on_uses_the_ceilings_that_it_began_with(suite, tmp_path) -> None:
    plan, study = plans.make(suite), tmp_path / "study"
    study.mkdir()
    own = Ceilings(ceilings.fingerprint(), 2, [])
    (study / ceilings.FILE).write_text(own.text())
    with StopSignal() as stop:
        known = ranking.prepare(plan, tmp_path, study, stop)
    assert known.ceilings == own and not known.ranking


def test_a_trainer_whose_parts_cannot_be_measured_goes_without(suite, tmp_path) -> None:
    plan, said = plans.make(suite, ["search.speed=[13]", "baseline.speed=13"]), []
    with StopSignal() as stop:
        known = ranking.prepare(plan, tmp_path, tmp_path, stop, said.append)
    assert known.ceilings is None and not known.ranking and "nothing is predicted" in said[-1]


def test_the_most_needed_costs_of_our_suites_are_few() -> None:
    for name in ("appo_throughput", "offpolicy_throughput", "smoke", "appo_grid"):
        plan = plans.make(Path(__file__).parents[3] / "suites" / f"{name}.yaml")
        needed = ranking.parts(ranking.candidates(plan, 2)[::7])
        assert 0 < len(Ceilings("m", 2).missing(needed)) <= 25, name
