"""Whether the repeats of a block can be alive at the same time, without any."""

from pathlib import Path

import pytest

from harness.compare.prepare import TURNS, Configuration, _why_not_together
from unilab.ipc.memory_budget import BudgetItem, MemoryAvailable, MemoryBudget

GIB = 2**30


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryAvailable, "here", lambda: MemoryAvailable(10 * GIB, 9 * GIB, 5 * GIB))


def configuration(gib: float | None, pausable: bool = True) -> Configuration:
    items = (BudgetItem("all", "host", int((gib or 0) * GIB)),)
    return Configuration("appo", {}, "", None, None if gib is None else MemoryBudget(items), 0.8, pausable)


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
    assert _why_not_together([configuration(base), configuration(new)], [None, None]) == reason


def test_what_goes_on_while_its_processes_are_stopped_takes_no_turns() -> None:
    assert _why_not_together([configuration(1), configuration(1, pausable=False)], [None, None]).startswith("work on a")


@pytest.mark.parametrize(
    ("text", "old"), [(None, True), ('FILE = "turns.f64"\n', True), ('FILE = "turns.log"\n', False)]
)
def test_the_code_of_both_sides_has_to_know_of_turns(tmp_path: Path, text: str | None, old: bool) -> None:
    if text is not None:
        (tmp_path / TURNS[0]).parent.mkdir(parents=True)
        (tmp_path / TURNS[0]).write_text(text)
    reason = _why_not_together([configuration(1), configuration(1)], [None, tmp_path])
    assert reason == ("the code of one side is older than taking turns" if old else "")
