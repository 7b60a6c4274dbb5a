import numpy as np
import planted_regression
import pytest
from planted_regression import SHORTEST_SLEEP, SlowedHalfCheetah


class Clock:
    """Stands still except where it is told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def perf_counter(self) -> float:
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
