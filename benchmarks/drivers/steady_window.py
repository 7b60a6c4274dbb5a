"""Throughput of a training loop over its steady window, counted alike for every contestant."""

import json
import time


class SteadyWindow:
    """Counters over wall time, from the first report after the warm-up to the first one after the window.

    The warm-up begins with the first report, so that imports and process starts are outside it.
    """

    def __init__(self, warmup_seconds: float, seconds: float) -> None:
        self._warmup_seconds = warmup_seconds
        self._seconds = seconds
        self._began: float | None = None
        self._first: tuple[float, dict[str, int]] | None = None
        self._last: tuple[float, dict[str, int]] | None = None

    def report(self, **counters: int) -> bool:
        """Take the counts so far, such as ``env_steps`` trained on, each once; True once the window is over."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        if self._first is None:
            if now - self._began >= self._warmup_seconds:
                self._first = (now, counters)
            return False
        self._last = (now, counters)
        return now - self._first[0] >= self._seconds

    def print_result(self) -> None:
        """The line of output that the benchmark reads."""
        if self._first is None or self._last is None:
            raise RuntimeError("training ended before the steady window did: train for longer")
        seconds = self._last[0] - self._first[0]
        counts = {name: count - self._first[1][name] for name, count in self._last[1].items()}
        rates = {f"{name}_per_second": count / seconds for name, count in counts.items()}
        print("steady window:", json.dumps({**counts, **rates, "seconds": seconds}), flush=True)
