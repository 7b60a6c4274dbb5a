"""Studies to compare, and the verb that compares them."""

import json
from pathlib import Path

from harness import cli
from harness.measure.record import Record, RecordFile
from tests.harness.conftest import SUITE


def record(value: float, metric: str = "env_steps_per_second", **fields) -> Record:
    return Record(**{"study": "s", "trial": 0, "repeat": 0, "state": "complete", metric: value} | fields)


def study(folder: Path, factor: float = 1.0, trials: int = 1, confirms: int = 6, suite: str = SUITE, **fields) -> Path:
    """A study with noise of a percent or so, confirmed ``confirms`` times."""
    folder.mkdir(parents=True)
    (folder / "suite.yaml").write_text(suite)
    records = RecordFile(folder / "trials.jsonl")
    for trial in range(trials):
        for repeat in range(confirms + 1):
            value = factor * 1000 * (1 + (repeat * 7 % 5) / 500)
            common = {"study": folder.name, "params": {"speed": 10 * 2**trial}, "machine": "m", "commit": "c" * 40}
            common["phase"] = "confirm" if repeat else "search"
            records.append(
                record(value, trial=trial, repeat=repeat, episode_return=-value, **common | fields)
            )  # fmt: skip
    return folder


def verb(capsys, *arguments: object) -> tuple[int, dict, str]:
    code = cli.main(["compare", *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err
