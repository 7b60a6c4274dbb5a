"""Whether the repeats of a block can be alive at the same time, without any."""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.compare.sides import (
    PREFIX,
    TURNS,
    CompareError,
    Side,
    Version,
    checkouts,
    version_of,
    why_not_together,
)
from harness.measure import provenance
from harness.measure.process import RepeatLimits
from harness.predict import calibration
from harness.predict.calibration import AS_PREDICTED, Ratio
from harness.predict.plan import Plan
from harness.suite.schema import Limits, Suite
from harness.suite.space import Space
from tests.harness.fake_trainer import FakeTrainer
from unilab.ipc.memory_budget import BudgetItem, MemoryAvailable, MemoryBudget

GIB = 2**30


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryAvailable, "here", lambda: MemoryAvailable(10 * GIB, 9 * GIB, 5 * GIB))


class Sized(FakeTrainer):
    """So many GiB; None: it does not say."""

    def __init__(self, gib: float | None, pausable: bool) -> None:
        self.gib, self.can_pause = gib, pausable

    def budget(self, settings: Mapping[str, Any]) -> Any:
        return None if self.gib is None else MemoryBudget((BudgetItem("all", "host", int(self.gib * GIB)),))

    def pausable(self, settings: Mapping[str, Any]) -> bool:
        return self.can_pause


def version(gib: float | None, pausable: bool = True, code: Path | None = None) -> Version:
    plan = Plan(Suite("sized", "Fake"), Sized(gib, pausable), Space({}), {}, ())
    return Version(plan, RepeatLimits(9, 9), "c", code=code)


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
    assert why_not_together([version(base), version(new)]) == reason


def test_what_goes_on_while_its_processes_are_stopped_takes_no_turns() -> None:
    assert why_not_together([version(1), version(1, pausable=False)]).startswith("work on a")


@pytest.mark.parametrize(
    ("text", "old"), [(None, True), ('FILE = "turns.f64"\n', True), ('FILE = "turns.log"\n', False)]
)
def test_the_code_of_both_sides_has_to_know_of_turns(tmp_path: Path, text: str | None, old: bool) -> None:
    if text is not None:
        (tmp_path / TURNS).parent.mkdir(parents=True)
        (tmp_path / TURNS).write_text(text)
    reason = why_not_together([version(1), version(1, code=tmp_path)])
    assert reason == ("the code of one side is older than taking turns" if old else "")


def test_memory_that_past_runs_took_beyond_their_prediction_is_asked_for_as_by_run(tmp_path: Path) -> None:
    trainer = "tests.harness.fake_trainer:FakeTrainer"
    (tmp_path / "a.yaml").write_text(f"trainer: {trainer}\nenv: Fake\nsettings: {{host_bytes: {6 * GIB}}}\n")
    side = Side("a", configuration=tmp_path / "a.yaml")
    made = version_of(side, None, None, tmp_path, Limits())
    assert made.plan.factor({}) == AS_PREDICTED and made.limits.host_bytes == 8 * GIB
    calibration.save({trainer: [Ratio(1.5, "")] * 3}, tmp_path)
    with pytest.raises(CompareError, match="does not fit into this machine"):
        version_of(side, None, None, tmp_path, Limits())


def test_files_of_a_commit_that_are_in_use_stay_and_what_a_killed_comparison_left_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{PREFIX}1-of-a-killed-one"
    (left / "files").mkdir(parents=True)
    with checkouts([]):
        assert left.exists()
    monkeypatch.setattr(provenance, "git", lambda *arguments, **_: subprocess.CompletedProcess(arguments, 0))
    with checkouts(["1" * 40]) as first:
        assert not left.exists()
        (folder := first["1" * 40]).mkdir()
        with checkouts(["1" * 40]):
            assert folder.exists()
        assert list(tmp_path.iterdir()) == [folder.parent]
    assert not list(tmp_path.iterdir())
