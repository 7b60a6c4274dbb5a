"""One repeat of one trial, in the process that runs it: warm-up, steady window, result.

``python -m harness.trial SPEC.json`` is the process entry around ``Trial``, which runs in-process as well.
It reports to the parent with one JSON object a line on the file descriptor that the specification names.
"""

import dataclasses
import faulthandler
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from harness import trainers
from unilab.training.progress import Progress

WARMUP_ITERATIONS = 3
"""left out of the window however short the warm-up: first updates allocate and compile"""
REPORT_SECONDS = 0.5
"""at most one line to the parent in this time"""
UNLIMITED = 2**62


@dataclass(frozen=True)
class TrialSpec:
    """All that the process needs to know."""

    trainer: str
    settings: dict[str, Any]
    warmup_seconds: float
    seconds: float
    folder: str
    """for the curve and whatever the trainer writes"""
    report_fd: int


class Window:
    """The steady window: from the first progress after the warm-up to the first one ``seconds`` later."""

    def __init__(self, warmup_seconds: float, seconds: float) -> None:
        self.warmup_seconds = warmup_seconds
        self.seconds = seconds
        self.first: Progress | None = None
        self.last: Progress | None = None
        self._seen = 0

    def add(self, progress: Progress) -> bool:
        """Count ``progress`` in; False once the window is long enough."""
        self._seen += 1
        if self.first is None:
            if self._seen >= WARMUP_ITERATIONS and progress.wall_seconds >= self.warmup_seconds:
                self.first = progress
            return True
        self.last = progress
        return progress.wall_seconds - self.first.wall_seconds < self.seconds

    def result(self) -> dict[str, float]:
        """The measured fields of a record.

        Raises:
            RuntimeError: training ended before there was a window.
        """
        first, last = self.first, self.last
        if first is None or last is None or last.wall_seconds <= first.wall_seconds:
            raise RuntimeError("training ended before the steady window began; give it more iterations or less warm-up")
        seconds = last.wall_seconds - first.wall_seconds

        def rate(counter: str) -> float:
            return (getattr(last, counter) - getattr(first, counter)) / seconds

        def fraction(counter: str) -> float:
            return min(1.0, rate(counter))  # the collector counts by whole rollouts: one may reach over the window

        return {
            "env_steps_per_second": rate("env_steps"),
            "updates_per_second": rate("updates"),
            "samples_per_second": rate("samples"),
            "collector_busy_fraction": fraction("collector_busy_seconds"),
            "collector_wait_fraction": fraction("collector_wait_seconds"),
            "learner_busy_fraction": fraction("learner_busy_seconds"),
            "learner_wait_fraction": fraction("learner_wait_seconds"),
            "episode_return": last.episode_return,
            "episodes": last.episodes,
            "policy_lag_mean": last.policy_lag_mean,
            "dropped_rollouts": last.dropped_rollouts,
            "env_steps": last.env_steps,
            "steady_seconds": seconds,
        }


class Trial:
    """Runs a trainer until the steady window is full.

    Args:
        report: is called with ``{"event": "progress" | "result" | "error", ...}``.
    """

    def __init__(self, spec: TrialSpec, report: Callable[[Mapping[str, Any]], None]) -> None:
        self.spec = spec
        self.window = Window(spec.warmup_seconds, spec.seconds)
        self._report = report
        self._next_report = 0.0
        self._curve: IO[str] | None = None

    def run(self) -> bool:
        """True when a result was reported, False when an error was."""
        folder = Path(self.spec.folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # by lines: what was reported is there however the repeat ends
            with (folder / "curve.jsonl").open("w", encoding="utf-8", buffering=1) as self._curve:
                trainers.get(self.spec.trainer).run(
                    self.spec.settings, self._on_progress, log_dir=folder, max_iterations=UNLIMITED,
                    save_interval=UNLIMITED,
                )  # fmt: skip
            result = self.window.result()
        except Exception as error:  # noqa: BLE001 whatever a trainer raises is its trial's result
            self._report({"event": "error", "error": describe(error), "traceback": traceback.format_exc()})
            return False
        self._report({"event": "result", "result": _finite(result)})
        return True

    def _on_progress(self, progress: Progress) -> bool:
        more = self.window.add(progress)
        if time.monotonic() >= self._next_report or not more:
            self._next_report = time.monotonic() + REPORT_SECONDS
            scalars = _finite(progress.scalars())
            scalars["measuring"] = self.window.first is not None
            assert self._curve is not None
            self._curve.write(json.dumps(scalars) + "\n")  # first: the answer to the report may be our end
            self._report({"event": "progress", "progress": scalars})
        return more


def describe(error: BaseException) -> str:
    """One line; running out of memory is named as such whoever ran out of it."""
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate" in str(error):
        return f"out of memory ({text})"
    return text


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _stop(signum: int, _: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def main(spec_file: str) -> int:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the parent asks for it when nothing moves
    signal.signal(signal.SIGTERM, _stop)
    spec = TrialSpec(**json.loads(Path(spec_file).read_text(encoding="utf-8")))
    os.set_inheritable(spec.report_fd, False)  # the parent must see this process end, not its last descendant
    with os.fdopen(spec.report_fd, "w", encoding="utf-8", buffering=1) as pipe:

        def report(message: Mapping[str, Any]) -> None:
            pipe.write(json.dumps(message) + "\n")

        report({"event": "started", "pid": os.getpid()})
        return 0 if Trial(spec, report).run() else 1


def write_spec(spec: TrialSpec, path: Path) -> None:
    path.write_text(json.dumps(dataclasses.asdict(spec)), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
