"""Measures a trainer that the harness knows, ours or another package's. Run with one JSON argument, which has
``trainer`` and ``settings`` as a suite does.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from steady_window import SteadyWindow

from harness.trainers import trainer as trainers
from unilab.run.progress import Progress


def main(job: dict[str, Any]) -> None:
    window = SteadyWindow(job["warmup_seconds"], job["seconds"])

    def more(progress: Progress) -> bool:
        if progress.updates == 0:  # the first update is awaited
            return True
        return not window.report(updates=progress.updates, env_steps=progress.env_steps)

    trainer = trainers.get(job["trainer"])
    trainer.check(job["settings"])
    trainer.check_together(job["settings"])
    trainers.enter(trainer.interpreter(job["settings"]), __file__)
    with tempfile.TemporaryDirectory() as log_dir:
        trainer.run(job["settings"], more, log_dir=Path(log_dir), max_iterations=sys.maxsize, save_interval=0)
    window.print_result()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
