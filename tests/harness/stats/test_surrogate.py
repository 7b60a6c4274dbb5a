"""What a configuration is expected to bring, of values that are known."""

import numpy as np
import pytest

from harness.stats.surrogate import Array, expected_gains


def apart(configurations: Array, tried: int) -> Array:
    return np.abs(configurations.T[:, :, None] - configurations[:tried].T[:, None, :])


def test_a_prediction_decides_while_little_was_measured() -> None:
    settings = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    predicted = np.log([100.0, 110.0, 150.0, 90.0])
    gains = expected_gains(apart(settings, 1), np.log([70.0]), predicted)
    assert gains[1:].argmax() == 1 and gains.min() >= 0
    assert gains[2] == pytest.approx(np.log(1.5), abs=0.1), "it is trusted but for a factor that all have"


def test_what_was_measured_corrects_the_prediction() -> None:
    """The first setting is predicted to bring half as much again, and it was seen to bring nothing."""
    settings = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    predicted = np.log([100.0, 150.0, 100.0, 150.0, 150.0])
    gains = expected_gains(apart(settings, 4), np.log([100.0, 100.0, 121.0, 121.0]), predicted)
    assert gains[4] < 0.1 < 0.3 < expected_gains(apart(settings, 1), np.log([100.0]), predicted)[4]


def test_what_is_like_the_best_is_expected_to_bring_more_than_what_is_like_the_worst() -> None:
    settings = np.array([[0.0, 0.0], [0.5, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    gains = expected_gains(apart(settings, 3), np.log([100.0, 120.0, 144.0]), np.zeros(5))
    assert gains[4] > 2 * gains[3] > 0
    assert np.array_equal(gains, expected_gains(apart(settings, 3), np.log([100.0, 120.0, 144.0]), np.zeros(5)))


def test_levels_do_not_matter_only_ratios_do() -> None:
    settings = np.array([[0.0], [0.5], [1.0]])
    values, predicted = np.log([100.0, 130.0]), np.log([10.0, 12.0, 15.0])
    gains = expected_gains(apart(settings, 2), values, predicted)
    moved = expected_gains(apart(settings, 2), values + 3, predicted - 5)
    assert gains == pytest.approx(moved)
