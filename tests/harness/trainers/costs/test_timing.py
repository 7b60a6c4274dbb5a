"""The cost of a piece of work: wall and core time of its fastest execution."""

import subprocess
import sys

import pytest

from harness.trainers.costs.timing import fastest, timed


def test_wall_and_core_time_are_those_of_the_fastest_execution() -> None:
    one, other = [(0.0, 0.0), (4.0, 2.0), (7.0, 5.0)], [(0.0, 0.0), (9.0, 1.0)]
    cost = fastest(one, other, count=2)
    assert (cost.seconds, cost.core_seconds) == (1.5, 1.5)


def test_work_that_waits_costs_its_wall_time() -> None:
    cost = fastest([(0.0, 0.0), (2.0, 0.01), (3.0, 0.02)])
    assert cost.seconds == 1.0 and cost.core_seconds == pytest.approx(0.01)


def test_work_of_another_process_is_waited_for() -> None:
    busy = "import time; began = time.process_time()\nwhile time.process_time() < began + 0.05: pass"
    cost = timed(lambda: subprocess.run([sys.executable, "-S", "-c", busy], check=True))
    assert cost.seconds >= 0.05 > cost.core_seconds
