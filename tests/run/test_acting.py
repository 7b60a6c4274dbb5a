"""Returns and lengths of finished episodes."""

import math

import numpy as np

from unilab.run.acting import EpisodeCounter
from unilab.run.progress import WINDOW


def test_the_means_are_of_the_last_episodes() -> None:
    statistics = EpisodeCounter(2)
    assert math.isnan(statistics.mean_return) and math.isnan(statistics.mean_length)
    statistics.discard_running()
    lengths = []
    for step in range(1, 5 * WINDOW):
        ended = np.array([1]) if step % 3 == 0 else np.array([], np.int64)
        statistics.step(np.array([0.0, step]), ended)
        if step > 3 and step % 3 == 0:
            lengths.append((step + step - 1 + step - 2, 3))
            expected = np.mean(lengths[-WINDOW:], axis=0)
            assert [statistics.mean_return, statistics.mean_length] == expected.tolist()
    resumed = EpisodeCounter(2)
    resumed.load_state_dict(statistics.state_dict())
    assert (resumed.mean_return, resumed.mean_length) == (statistics.mean_return, statistics.mean_length)
    assert resumed.finished == len(lengths) > WINDOW
