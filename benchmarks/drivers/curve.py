"""A learning curve over wall time, written alike for every contestant."""

import math
import time
from pathlib import Path

COLUMNS = ("wall_seconds", "env_steps", "updates", "episode_return", "latest_return")
INTERVAL = 5.0
"""seconds between two rows"""


class Curve:
    """A CSV file that grows as training goes on; a value that is not known yet is an empty cell.

    Args:
        path: of the file, which is overwritten.
        seconds: of training, from the creation of this object on.
    """

    def __init__(self, path: str | Path, seconds: float) -> None:
        self._path = Path(path)
        self._seconds = seconds
        self._began = time.monotonic()
        self._next = 0.0
        self._path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")

    def report(self, env_steps: int, updates: int, episode_return: float, latest_return: float = math.nan) -> bool:
        """Take the counts so far and the mean return of the last 100 finished episodes; True once time is over.

        ``latest_return`` is the mean over fewer, newer episodes, where the package knows them.
        """
        spent = time.monotonic() - self._began
        over = spent >= self._seconds
        if spent >= self._next or over:
            self._next = (spent // INTERVAL + 1) * INTERVAL
            numbers = (spent, env_steps, updates, episode_return, latest_return)
            cells = ("" if math.isnan(number) else f"{number:.10g}" for number in numbers)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(",".join(cells) + "\n")
        return over
