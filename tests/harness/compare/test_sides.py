"""Whether the repeats of a block can be alive at the same time, without any."""

from pathlib import Path

import pytest

from harness.compare.sides import TURNS, CompareError, Configuration, Side, why_not_together
from harness.compare.sides import configuration as configuration_of
from harness.predict import calibration
from harness.predict.calibration import AS_PREDICTED, Calibration, Ratio
from unilab.ipc.memory_budget import BudgetItem, MemoryAvailable, MemoryBudget

GIB = 2**30


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryAvailable, "here", lambda: MemoryAvailable(10 * GIB, 9 * GIB, 5 * GIB))


def configuration(gib: float | None, pausable: bool = True) -> Configuration:
    items = (BudgetItem("all", "host", int((gib or 0) * GIB)),)
    predicted = None if gib is None else MemoryBudget(items)
    return Configuration("appo", {}, "", None, predicted, 0.8, AS_PREDICTED, pausable)


@pytest.mark.parametrize(
    ("base", "new", "reason"),
    [
        (1.9, 1.9, ""),
        (0.1, 3.8, ""),
        (0.1, 4.0, "four repeats at a time do not fit into the memory"),
        (1, None, "how much memory one side takes is not predicted"),
    ],
)
def test_four_at_once_have_to_fit(base: float, new: float | None, reason: str) -> None:
    assert why_not_together([configuration(base), configuration(new)], [None, None]) == reason


def test_what_goes_on_while_its_processes_are_stopped_takes_no_turns() -> None:
    assert why_not_together([configuration(1), configuration(1, pausable=False)], [None, None]).startswith("work on a")


@pytest.mark.parametrize(
    ("text", "old"), [(None, True), ('FILE = "turns.f64"\n', True), ('FILE = "turns.log"\n', False)]
)
def test_the_code_of_both_sides_has_to_know_of_turns(tmp_path: Path, text: str | None, old: bool) -> None:
    if text is not None:
        (tmp_path / TURNS[0]).parent.mkdir(parents=True)
        (tmp_path / TURNS[0]).write_text(text)
    reason = why_not_together([configuration(1), configuration(1)], [None, tmp_path])
    assert reason == ("the code of one side is older than taking turns" if old else "")


def test_memory_that_past_runs_took_beyond_their_prediction_is_asked_for_as_by_run(tmp_path: Path) -> None:
    trainer = "tests.harness.fake_trainer:FakeTrainer"
    (tmp_path / "a.yaml").write_text(f"trainer: {trainer}\nenv: Fake\nsettings: {{host_bytes: {6 * GIB}}}\n")
    side = Side("a", configuration=tmp_path / "a.yaml")
    assert configuration_of(side, None, None, tmp_path).memory_factor == AS_PREDICTED
    calibration.save(Calibration({trainer: [Ratio(1.5, "")] * 3}), tmp_path)
    with pytest.raises(CompareError, match="does not fit into this machine"):
        configuration_of(side, None, None, tmp_path)
