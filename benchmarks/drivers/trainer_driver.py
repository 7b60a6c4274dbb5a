"""Measures a trainer that the harness knows, ours or another package's. Run with one JSON argument, which has
``trainer`` and ``settings`` as a suite does; and ``curve``, a file, when its learning curve is to be recorded.
"""

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from curve import Curve
from steady_window import SteadyWindow

from harness.trainers import trainer as trainers
from unilab.run.progress import Progress


def main(job: dict[str, Any]) -> None:
    if "curve" in job:
        train(job, Curve(job["curve"], job["seconds"]))
        return
    window = SteadyWindow(job["warmup_seconds"], job["seconds"])
    train(job, window)
    window.print_result()


def train(job: dict[str, Any], listener: Curve | SteadyWindow) -> None:
    """Until the listener has all that it wants."""

    def more(progress: Progress) -> bool:
        if isinstance(listener, Curve):
            latest = progress.metrics.get("latest_return", math.nan)
            return not listener.report(progress.env_steps, progress.updates, progress.episode_return, latest)
        if progress.updates == 0:  # the first update is awaited
            return True
        return not listener.report(updates=progress.updates, env_steps=progress.env_steps)

    trainer = trainers.get(job["trainer"])
    trainer.check(job["settings"])
    trainer.check_together(job["settings"])
    trainers.enter(trainer.interpreter(job["settings"]), __file__)
    with tempfile.TemporaryDirectory() as log_dir:
        trainer.run(job["settings"], more, log_dir=Path(log_dir), max_iterations=sys.maxsize, save_interval=0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
