"""Throughput of a training loop over its steady window, counted alike for every contestant."""

import json
import time


class SteadyWindow:
    """Env steps over wall time, from the first report after the warm-up to the first one after the window.

    The warm-up begins with the first report, so that imports and process starts are outside it.
    """

    def __init__(self, warmup_seconds: float, seconds: float) -> None:
        self._warmup_seconds = warmup_seconds
        self._seconds = seconds
        self._began: float | None = None
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None

    def report(self, env_steps: int) -> bool:
        """Take the count of env steps trained on so far, each counted once; True once the window is over."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        if self._first is None:
            if now - self._began >= self._warmup_seconds:
                self._first = (now, env_steps)
            return False
        self._last = (now, env_steps)
        return now - self._first[0] >= self._seconds

    def print_result(self) -> None:
        """The driver's last line of output, which the benchmark reads."""
        if self._first is None or self._last is None:
            raise RuntimeError("training ended before the steady window did: train for longer")
        seconds = self._last[0] - self._first[0]
        env_steps = self._last[1] - self._first[1]
        result = {"env_steps": env_steps, "seconds": seconds, "env_steps_per_second": env_steps / seconds}
        print(json.dumps(result), flush=True)
