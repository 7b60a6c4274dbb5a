"""The table of what learns as well, from records; that they are measured is a matter of the page of benchmarks."""

import dataclasses
import json
from pathlib import Path

import learns_as_well
import pytest
import torch

from harness.measure import provenance
from harness.measure.record import Record
from harness.trainers import evidence
from unilab.machine.devices import computes_bfloat16


def seeds(values: list[float]) -> list[Record]:
    return [
        Record("s", 0, n, "complete", seed=n, evaluated_return=value, versions="torch 2")
        for n, value in enumerate(values)
    ]


def asked(*given: str):
    return learns_as_well.parser().parse_args([*given, "--tasks", "Hopper", "Ant", "--seeds", "4"])


BASELINE = {"Hopper": seeds([99.0, 100.0, 101.0, 100.0]), "Ant": seeds([990.0, 1000.0, 1010.0, 1000.0])}
SETTING = {"Hopper": seeds([98.0, 101.0, 100.0, 99.0]), "Ant": seeds([1000.0, 990.0, 1020.0, 1000.0])}


def test_an_entry_is_what_the_seeds_say_and_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = asked("mode=sync,num_slots=2")
    assert arguments.settings == [{"mode": "sync", "num_slots": 2}]
    assert learns_as_well.kept_baseline(arguments) is None
    baseline, own = (learns_as_well.returns_of(arguments, records) for records in (BASELINE, SETTING))
    assert baseline is not None and own is not None
    entry = learns_as_well.entry_of(arguments, arguments.settings[0], baseline, own)
    assert entry.verdict == "as well" and entry.seeds == 4 and entry.current
    assert entry.difference == pytest.approx((-0.005 + 0.0025) / 2)
    assert entry.returns["Ant"] == {
        "baseline": [990.0, 1000.0, 1010.0, 1000.0], "setting": [1000.0, 990.0, 1020.0, 1000.0]
    }  # fmt: skip
    file = tmp_path / "table.json"
    file.write_text("[]")
    other = learns_as_well.entry_of(arguments, {"mode": "sync"}, baseline, own | {"Hopper": [5.0] * 4})
    for _ in range(2):
        learns_as_well.keep([entry, other], file)
    assert len(json.loads(file.read_text())) == 2
    monkeypatch.setattr(evidence, "FILE", file)
    evidence.shipped.cache_clear()
    try:
        assert evidence.shipped() == (entry, other)
        assert evidence.covering("appo", {"mode": "sync", "num_slots": 2}) == [entry]
        assert evidence.covering("sac", {"mode": "sync"}) == []
        assert learns_as_well.kept_baseline(arguments) == baseline
        assert learns_as_well.kept_baseline(asked("--env-steps", "1000")) is None
    finally:
        evidence.shipped.cache_clear()


def test_there_are_no_returns_as_long_as_a_seed_is_missing_or_failed() -> None:
    arguments = asked("mode=sync")
    missing = SETTING["Ant"][:-1]
    assert learns_as_well.returns_of(arguments, SETTING | {"Ant": missing}) is None
    failed = [*missing, Record("s", 0, 3, "failed", seed=3)]
    assert learns_as_well.returns_of(arguments, SETTING | {"Ant": failed}) is None


def test_an_entry_is_carried_to_code_that_trains_to_the_same_bits(tmp_path: Path, monkeypatch, capsys) -> None:
    baseline, own = (learns_as_well.returns_of(asked("x=1"), records) for records in (BASELINE, SETTING))
    assert baseline is not None and own is not None
    made = learns_as_well.entry_of(asked("x=1"), {"value_normalization": True}, baseline, own)
    settings = {"algorithm.value_normalization": False}
    file = tmp_path / "table.json"
    old = dataclasses.replace(made, settings=settings, code="0" * 8, commit=provenance.commit().commit)
    file.write_text("[]")
    learns_as_well.keep([old], file)
    monkeypatch.setattr(evidence, "FILE", file)
    monkeypatch.setattr(learns_as_well, "ITERATIONS", 2)
    options = ["--carry", "--tasks", "InvertedPendulum", "--file", str(file)]
    try:
        evidence.shipped.cache_clear()
        assert not evidence.shipped()[0].current
        with monkeypatch.context() as patched:
            patched.setattr(learns_as_well, "bits", lambda arguments, code, settings: str(code))
            assert learns_as_well.main(options) == 1
        assert learns_as_well.main(options) == 0
        assert "value_normalization=false: the same bits" in capsys.readouterr().out
        evidence.shipped.cache_clear()
        assert evidence.shipped()[0].current and evidence.shipped()[0].code == "0" * 8
    finally:
        evidence.shipped.cache_clear()


def test_other_numbers_are_other_bits() -> None:
    states = [{"a": [torch.zeros(2), 1]}, {"a": [torch.tensor([0.0, -0.0]), 1]}, {"a": [torch.zeros(2), 2]}]
    assert len({b"".join(learns_as_well.numbers(state)) for state in states}) == 3


def test_without_arguments_it_is_what_auto_may_choose() -> None:
    found = learns_as_well.choices("appo")
    assert {"mode", "num_slots", "when_full"} <= {name for name, _ in found}
    assert (("learner_dtype", "bfloat16") in found) == computes_bfloat16()
    assert not any(name.endswith(("_threads", "_device")) for name, _ in found)
