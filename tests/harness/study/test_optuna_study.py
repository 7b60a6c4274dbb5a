"""A study through Optuna's own eyes: loaded with its API, shown by its dashboard, never mixed with another space."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from harness.predict.plan import Plan
from harness.study.folder import JOURNAL
from tests.harness.study.test_search import Executed, sweep

SECONDS = 60


def load(plan: Plan, results: Path) -> optuna.Study:
    """As a user opens it: nothing of the harness is needed but the path."""
    folder = plan.folder(results)
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    return optuna.load_study(study_name=folder.name, storage=storage)


@contextmanager
def dashboard(journal: Path) -> Iterator[str]:
    """Optuna's dashboard of a journal; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).parent / "optuna-dashboard", journal, "--port", str(port), "--server", "wsgiref"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def read(address: str) -> str:
    """The page, once the server answers: it has no other way to say that it is ready."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(address, timeout=SECONDS) as answer:
                return answer.read().decode()
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_a_study_loads_with_its_trials(make_plan, tmp_path: Path) -> None:
    plan = make_plan("limits.trials=4")
    records = sweep(plan, tmp_path)
    study = load(plan, tmp_path)
    assert [trial.params for trial in study.trials] == [record.params for record in records]
    assert [trial.value for trial in study.trials] == [record.env_steps_per_second for record in records]
    assert study.best_params == {"speed": 80} and study.direction.name == "MAXIMIZE"


def test_the_dashboard_shows_a_study_with_its_trials(make_plan, tmp_path: Path) -> None:
    plan = make_plan("limits.trials=4")
    records = sweep(plan, tmp_path)
    with dashboard(plan.folder(tmp_path) / JOURNAL) as address:
        assert "<title>Optuna Dashboard</title>" in read(f"{address}/dashboard/")
        studies = json.loads(read(f"{address}/api/studies"))["study_summaries"]
        assert [study["study_name"] for study in studies] == [plan.study_id]
        shown = json.loads(read(f"{address}/api/studies/{studies[0]['study_id']}"))
    assert [trial["state"] for trial in shown["trials"]] == ["Complete"] * 4
    assert [trial["values"][0] for trial in shown["trials"]] == [record.env_steps_per_second for record in records]
    given = [{p["name"]: p["param_external_value"] for p in trial["params"]} for trial in shown["trials"]]
    assert given == [{"speed": str(record.params["speed"])} for record in records]


def test_a_space_that_changed_is_a_new_study_and_the_old_one_stays(make_plan, tmp_path: Path) -> None:
    """Not a byte of the old study changes, and both can be gone on with."""
    plan = make_plan()
    sweep(plan, tmp_path)
    folder = plan.folder(tmp_path)

    def content(folder: Path) -> dict[str, Any]:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    before = content(folder)
    changed = [
        make_plan("search.speed=[10, 20, 40]"),
        make_plan("search.speed={low: 10, high: 80}"),
        make_plan("search.layers=[[1], [2, 2]]"),
        make_plan("objectives=[episode_return]"),
        make_plan("measure.repeats=2"),
    ]
    assert len({plan.folder(tmp_path), *(other.folder(tmp_path) for other in changed)}) == 6
    for other in changed:
        records = sweep(other, tmp_path)
        assert len(load(other, tmp_path).trials) == 3 and records[0].study == other.study_id
        assert content(folder) == before
    executed = Executed()
    sweep(make_plan("limits.trials=4"), tmp_path, executed)
    assert len(executed.specs) == 1, "limits may be extended: the same study goes on"
    assert [trial.params for trial in load(plan, tmp_path).trials][:3] == [r.params for r in sweep(plan, tmp_path)][:3]
