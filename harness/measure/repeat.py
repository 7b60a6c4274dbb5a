"""One repeat of one trial, in the process that runs it: warm-up, steady window, result.

``python -m harness.measure.repeat SPEC.json`` is the process entry around ``run_repeat``, which also runs in-process.
It reports to the parent with one JSON object a line on the file descriptor that the specification names.
"""

import dataclasses
import faulthandler
import gc
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.files.writing import is_full
from harness.measure import interference
from harness.measure.interleaving import Pauses
from harness.measure.window import FRACTIONS, SteadyWindow
from harness.trainers import trainer as trainers
from harness.trainers.trainer import KeptPolicy
from unilab.ipc import ProcessFailure
from unilab.run.progress import Progress

if TYPE_CHECKING:  # the process of a trial has no use for suites
    from harness.suite.schema import Measure

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
    return_at: dict[str, float] | None = None
    """``{"env_steps": N}`` or ``{"seconds": S}``: the trial ends there instead of after ``seconds``"""
    target_return: float | None = None
    pauses: str | None = None
    """the file with its pauses where trials take turns"""
    cores: list[int] | None = None
    """that it has to itself; None: it may run on all"""
    evaluate: int | None = None
    """episodes that are played without noise after the training"""
    judge: dict[str, float] | None = None
    """``{"every_seconds": S, "episodes": N}``: policies are kept, and judged after the training"""

    @classmethod
    def of(cls, measure: "Measure", trainer: str, settings: dict[str, Any], folder: Path) -> "TrialSpec":
        """One repeat, measured as ``measure`` says; ``process.Repeat`` sets the file descriptor."""
        return cls(
            trainer, settings, measure.warmup_seconds, measure.steady_seconds, str(folder), report_fd=-1,
            return_at=None if measure.return_at is None else measure.return_at.to_dict(),
            target_return=measure.target_return, evaluate=measure.evaluate,
            judge=None if measure.judge is None else dataclasses.asdict(measure.judge),
        )  # fmt: skip


def run_repeat(spec: TrialSpec, report: Callable[[Mapping[str, Any]], None]) -> bool:
    """Run a trainer until the steady window is full; True when a result was reported, False when an error was.

    ``report`` is called with ``{"event": "progress" | "window_ended" | "evaluating" | "result" | "error", ...}``.
    """
    folder = Path(spec.folder)
    folder.mkdir(parents=True, exist_ok=True)
    load_average, pauses = os.getloadavg()[0], Pauses(Path(spec.pauses)) if spec.pauses else None
    before: interference.Reading | None = None
    found: interference.Interference | None = None
    next_report = 0.0

    def read() -> interference.Reading | None:
        return interference.read(groups=pauses.groups if pauses else (), alone=spec.cores is None)

    def window_ended() -> interference.Interference:
        report({"event": "window_ended"})
        return interference.between(before, read())

    def on_progress(progress: Progress) -> bool:
        nonlocal before, found, next_report
        if pauses is not None:
            progress = dataclasses.replace(progress, wall_seconds=pauses.active(progress.wall_seconds))
        warming_up = window.first is None
        more = window.add(progress)
        opened = warming_up and window.first is not None
        if opened:
            before = read()
        if not more:
            found = window_ended()
        if time.monotonic() >= next_report or opened or not more:
            next_report = time.monotonic() + REPORT_SECONDS
            scalars = _finite(progress.scalars()) | {"measuring": window.first is not None}
            curve.write(json.dumps(scalars) + "\n")  # before the report, whose answer may end this process
            report({"event": "progress", "progress": scalars})
        return more

    try:
        trainer = trainers.get(spec.trainer)
        trainers.enter(trainer.interpreter(spec.settings), "harness.measure.repeat", spec.report_fd)
        window = SteadyWindow(
            spec.warmup_seconds, spec.seconds, warmup_iterations=trainer.warmup_iterations(spec.settings),
            return_at=spec.return_at, target_return=spec.target_return,
        )  # fmt: skip
        # buffered by lines: what was reported is in the file however the repeat ends
        with (folder / "curve.jsonl").open("w", encoding="utf-8", buffering=1) as curve:
            keeping: dict[str, Any] = {} if spec.judge is None else {"keep_seconds": spec.judge["every_seconds"]}
            trainer.run(
                spec.settings, on_progress, log_dir=folder, max_iterations=UNLIMITED, save_interval=0, **keeping
            )
        found = found or window_ended()  # the trainer may end by itself
        result = window.result() | dataclasses.asdict(found) | {"load_average": load_average}
        if spec.cores is not None:  # the harness counted all of the machine
            result["threads"] = trainers.threads_text(trainer, spec.settings)
        if pauses is not None:  # what each side did is counted by clocks that know of no pauses
            result |= dict.fromkeys((*FRACTIONS, "queue_wait_fraction"), math.nan)
        if spec.evaluate is not None:
            report({"event": "evaluating"})
            result["evaluated_return"] = trainer.evaluate(spec.settings, folder, spec.evaluate)
        if spec.judge is not None:
            result |= judge_kept(trainer.kept(spec.settings, folder), int(spec.judge["episodes"]), folder, report)
    except Exception as error:  # noqa: BLE001 whatever a trainer raises is its trial's result
        said = {"error": describe(error), "traceback": traceback.format_exc(), "disk_full": is_full(error)}
        report({"event": "error", **said})
        return False
    report({"event": "result", "result": _finite(result)})
    return True


def judge_kept(
    policies: Sequence[KeptPolicy], episodes: int, folder: Path, report: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any]:
    """``seconds_to_success`` and ``judged`` of a record; every judgement is a line of ``judged.jsonl``.

    The policies are judged one after the other until one succeeds; what would come after it is not judged, but the
    last one is. Nothing is assumed of those between.

    Raises:
        ValueError: the environment does not say whether it is solved.
    """
    succeeded, number = math.nan, 0
    said: dict[str, float] = {}
    with (folder / "judged.jsonl").open("w", encoding="utf-8", buffering=1) as lines:
        while number < len(policies):
            report({"event": "evaluating"})
            seconds, said = policies[number](episodes)
            said = {name: float(value) for name, value in said.items()}
            if "success" not in said:
                raise ValueError("the environment does not say whether it is solved: its judge() gives no 'success'")
            lines.write(json.dumps({"wall_seconds": seconds, **_finite(said)}) + "\n")
            if said["success"] and math.isnan(succeeded):
                succeeded, number = seconds, max(number, len(policies) - 2)
            number += 1
    return {"seconds_to_success": succeeded, "judged": {n: value for n, value in said.items() if math.isfinite(value)}}


def describe(error: BaseException) -> str:
    """One line, the cause first; running out of memory is named as such whoever ran out of it."""
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if isinstance(error, ProcessFailure) and error.cause is not None:
        text = f"{error.cause} ({error.where})"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate" in str(error):
        return f"out of memory ({text})"
    return text


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def main(spec_file: str) -> int:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the parent asks for it when nothing moves
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    spec = TrialSpec(**json.loads(Path(spec_file).read_text(encoding="utf-8")))
    if spec.cores is not None:  # before anything counts them
        os.sched_setaffinity(0, spec.cores)
    os.set_inheritable(spec.report_fd, False)  # the parent must see this process end, not its last descendant
    with os.fdopen(spec.report_fd, "w", encoding="utf-8", buffering=1) as pipe:

        def report(message: Mapping[str, Any]) -> None:
            pipe.write(json.dumps(message) + "\n")

        report({"event": "started", "pid": os.getpid()})
        return 0 if run_repeat(spec, report) else 1


def write_spec(spec: TrialSpec, path: Path) -> None:
    """Without the fields that have their default: code of an older commit, which reads it, may not know them."""
    defaults = {field.name: field.default for field in dataclasses.fields(spec)}
    content = {name: value for name, value in dataclasses.asdict(spec).items() if value != defaults[name]}
    path.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    exit_code = main(sys.argv[1])
    gc.freeze()  # the end comes sooner: see ``harness.__main__``
    sys.exit(exit_code)
