import numpy as np
import planted_regression
import pytest
from planted_regression import SHORTEST_SLEEP, SlowedHalfCheetah

SAME, OTHER, NOTHING = ({"exit_code": 0, "verdict": "same"}, {"exit_code": 0, "verdict": "better"},
                        {"exit_code": 3, "verdict": "undecided"})  # fmt: skip
NUMBERS = {"base": 1.0, "new": 1.0, "change": 0.0, "p": 1.0, "smallest_effect": 0.0, "unsteady": 0, "disturbed": 0}


@pytest.mark.parametrize(
    ("planted", "itself", "code", "told"),
    [
        (1, [SAME, SAME], 0, "0 wrong, as 5% allow, 0 undecided"),
        (0, [SAME, SAME], 1, "NOT found"),
        (1, [SAME, OTHER, OTHER], 1, "2 wrong, more than 5% explain, 0 undecided"),
        (1, [SAME] * 17 + [OTHER] * 3, 0, "3 wrong, as 5% allow"),  # of 20 so many or more: 7.5 %
        (1, [SAME] * 16 + [OTHER] * 4, 1, "4 wrong, more than 5% explain"),  # 1.6 %
        (1, [NOTHING, SAME], 1, "1 undecided"),
        (3, [], 1, "NOT found"),
    ],
)
def test_only_the_loss_found_and_nothing_else_is_a_success(monkeypatch, capsys, planted, itself, code, told) -> None:
    results = iter([{"exit_code": planted, "verdict": "worse"}, *itself])
    monkeypatch.setattr(planted_regression, "compare", lambda *_: NUMBERS | next(results))
    monkeypatch.setattr("sys.argv", ["planted_regression.py", "--comparisons", str(len(itself))])
    assert planted_regression.main() == code
    assert told in capsys.readouterr().out


class Clock:
    """Stands still except where it is told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds + 0.0005  # as a busy system oversleeps


@pytest.mark.parametrize("loss", [0.08, 0.0])
def test_sleeping_costs_the_planted_part_of_the_speed(monkeypatch: pytest.MonkeyPatch, loss: float) -> None:
    clock = Clock()
    monkeypatch.setattr(planted_regression, "time", clock)
    steps = 100

    def takes_a_millisecond(env: SlowedHalfCheetah, actions: np.ndarray) -> str:
        clock.now += 0.001
        return "the result"

    monkeypatch.setattr(planted_regression.HalfCheetah, "step", takes_a_millisecond)
    with SlowedHalfCheetah(2, num_threads=1, seed=0, loss=loss) as env:
        results = {env.step(np.zeros((2, env.action_dim), np.float32)) for _ in range(steps)}
    assert results == {"the result"}
    assert steps * 0.001 / clock.now == pytest.approx(1 - loss, abs=SHORTEST_SLEEP / (steps * 0.001))
    assert bool(clock.slept) == bool(loss)
