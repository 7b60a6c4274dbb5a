"""What a results folder holds may be old, damaged or anybody's: it is data, and what is wrong with it stays its own."""

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.files.writing import RecordError
from harness.measure.record import Record, read_records
from harness.predict.plan import Plan
from unilab.errors import UserError

RECORD = Record("s", 0, 0, "complete", env_steps_per_second=10.0, commit="0a1b" * 10, log="logs/0-0")


def study(folder: Path, suite: bytes, *lines: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "suite.yaml").write_bytes(suite)
    (folder / "trials.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"commit": "--output=escaped"}, {"commit": "HEAD"}, {"commit": 7}, {"log": "../../../escaped"},
        {"log": "/escaped"}, {"log": "logs/../../escaped"}, {"log": None}, {"env_steps_per_second": "fast"},
        {"trial": True}, {"state": ["complete"]}, {"state": "cancelled"}, {"disturbed": 1},
    ],
)  # fmt: skip
def test_a_line_with_anything_else_than_a_record_s_values_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text("".join(json.dumps(RECORD.flat() | more) + "\n" for more in (change, {})))
    assert len(read_records(path)) == 1


@pytest.mark.parametrize("suite", [b"\xff\xfe", b"name: [", b"name: old\ntrainer: appo\nenv: Ant\ngone: 1\n"])
def test_studies_that_cannot_be_read_stop_neither_list_nor_compare(
    tmp_path: Path, suite: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.compare.sides.revision", lambda name: RECORD.commit)
    good = b"name: good\ntrainer: appo\nenv: Ant\n"
    line = json.dumps(RECORD.flat())
    study(tmp_path / "good" / "1", good, line, '{"trial": 0, "repeat": 0, "state": "complete"}', "[" * 100_000)
    study(tmp_path / "both" / "4", b"name: both\ntrainer: appo\nenvs: [Ant, Hopper]\n", line)
    study(tmp_path / "old" / "2", suite, line)
    (tmp_path / "old" / "3" / "trials.jsonl").mkdir(parents=True)
    assert cli.main(["list", "--results", str(tmp_path), "--json"]) == 0
    listed = {Path(one["folder"]).name: one for one in json.loads(capsys.readouterr().out)["studies"]}
    assert listed["1"]["best"] == 10.0 and "suite.yaml" in listed["2"]["problem"]
    assert "trials.jsonl cannot be read" in listed["3"]["problem"]
    assert (listed["4"]["best"], listed["4"]["environments"]) == (None, 2), "values of two environments do not compare"
    assert cli.main(["compare", "main", "main", "--results", str(tmp_path)]) != 2
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("a study was left out, as it cannot be read") == 2


def test_brackets_in_paths_and_errors_are_printed_literally(suite_file: Path, capsys: pytest.CaptureFixture) -> None:
    folder = suite_file.parent / "[bold]results[/]"
    assert cli.main(["plan", str(suite_file), "--results", str(folder)]) == 0
    assert str(folder) in capsys.readouterr().out.replace("\n", "")


def test_what_a_node_sends_lies_in_the_folder_of_its_repeat(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs pip install '.[ray]'")
    from harness.measure.engines.node import Ended
    from harness.measure.engines.ray_engine import _write
    from harness.measure.process import Outcome

    folder = tmp_path / "logs" / "0-0"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path)
    for name in ("../escaped", "/escaped", "a/../../escaped", "link/escaped"):
        with pytest.raises(UserError, match="outside of its repeat's folder"):
            _write(Ended(Outcome("complete"), {name: b"x"}), folder)
    _write(Ended(Outcome("complete"), {"a/curve.jsonl": b"x"}), folder)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["curve.jsonl"]


def test_curves_of_a_database_are_bounded_and_lie_in_the_study(
    tmp_path: Path, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sqlalchemy")
    from harness.study.database import records as stored
    from harness.study.database.database import RECORDS, Database
    from harness.study.database.shared_study import SharedStudy

    monkeypatch.setattr(stored, "CURVE_BYTES", 1000)
    with Database(f"sqlite:///{tmp_path / 'study.db'}") as database:
        plan = make_plan()

        def add(trial: int, curve: bytes, log: str) -> None:
            record = replace(RECORD, trial=trial, study=plan.study_id, log=log)
            row = {
                "study": f"{plan.suite.name}/{plan.study_id}", "trial": trial, "phase": "search", "repeat": 0,
                "attempt": 0, "driver": "d", "record": json.dumps(record.flat()), "curve": curve,
            }  # fmt: skip
            with database.engine.begin() as connection:
                connection.execute(RECORDS.delete())
                connection.execute(RECORDS.insert().values(row))

        folder = tmp_path / "r" / "study"
        (folder / "logs").mkdir(parents=True)
        (folder / "logs" / "3-0").symlink_to(tmp_path)
        bad = [
            (zlib.compress(b"x" * 10_000), "logs/1-0", "no learning curve that can be unpacked: more than"),
            (b"garbage", "logs/2-0", "no learning curve that can be unpacked"),
            (zlib.compress(bytes(range(32, 127)))[:-9], "logs/4-0", "can be unpacked: it is cut short"),
            (zlib.compress(b"\xff"), "logs/5-0", "no learning curve that can be unpacked"),
            (zlib.compress(b"{}"), "logs/3-0", "leads out of the study's folder"),
            (zlib.compress(b"{}"), "../../escaped", "is no record"),
        ]
        for trial, (curve, log, problem) in enumerate(bad):
            add(trial, curve, log)
            with pytest.raises(RecordError, match=problem), SharedStudy(folder, plan, database):
                pass
        add(9, zlib.compress(b" " * 1000), "logs/9-0")
        with SharedStudy(folder, plan, database):
            pass
    assert [path.relative_to(folder).parent for path in folder.rglob("curve.jsonl")] == [Path("logs/9-0")]
    assert not list(tmp_path.rglob("escaped*"))
