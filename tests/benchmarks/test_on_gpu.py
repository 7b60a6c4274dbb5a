"""The first minutes on a GPU, in their dry form on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import on_gpu

SCRIPT = Path(on_gpu.__file__)


def run(folder: Path, minutes: float = 2) -> subprocess.CompletedProcess[str]:
    """In a process of its own with nothing on its path, as on a machine where the project is not installed."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--dry", f"--minutes={minutes}", f"--out={folder}"],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=folder.parent, capture_output=True, text=True, timeout=150,
    )  # fmt: skip


def test_every_part_leaves_figures_and_is_not_run_again(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    _, here = on_gpu.sizes_and_machine(dry=True)
    before = [
        {"machine": here, "part": "copies", "state": "complete", "figures": [["to the moon", 3.0, "GB/s"]]},
        {"machine": here, "part": "tests", "state": "begun"},
        {"machine": here, "part": "tests", "state": "failed", "error": "RuntimeError: before it was mended"},
        {"machine": "another", "part": "sac updates, float32", "state": "complete", "figures": []},
    ]
    cut_off = '{"part": "cop'
    (folder / "records.jsonl").write_text("\n".join([*map(json.dumps, before), cut_off]))

    done = run(folder)
    assert done.returncode == 0, done.stderr
    records = on_gpu.read(folder / "records.jsonl", here)[3:]
    ended = [record["part"] for record in records if record["state"] == "complete"]
    assert ended == [part for part in on_gpu.PARTS if part not in ("copies", "tests")] + ["tests"]  # failures come last
    assert all(value >= 0 for record in records for _, value, _ in record.get("figures", ()))
    table = (folder / "on_gpu.md").read_text()
    assert "| copies | to the moon | 3 | GB/s |" in table
    assert all(f"| {part} |" in table for part in on_gpu.PARTS)
    assert "failed" not in table and "skipped:" not in table


def test_what_does_not_fit_into_the_minutes_is_skipped_and_named(tmp_path):
    done = run(tmp_path / "out", minutes=0)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "out/on_gpu.md").read_text()
    assert table.count("skipped: too few of the minutes") == len(on_gpu.PARTS)


def test_a_part_that_fails_is_told_and_the_others_are_run(tmp_path, monkeypatch):
    def broken(sizes, seconds):
        raise ArithmeticError("planned | failure")

    monkeypatch.setattr(on_gpu, "PARTS", {"broken": (1, broken), "fine": (1, lambda sizes, seconds: [("a", 1.0, "b")])})
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "--dry", f"--out={tmp_path}"])
    try:
        on_gpu.main()
    except SystemExit as ended:
        assert ended.code == 1
    table = (tmp_path / "on_gpu.md").read_text()
    assert "| broken | failed: ArithmeticError: planned / failure | | |" in table
    assert "| fine | a | 1 | b |" in table
