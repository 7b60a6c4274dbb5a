"""A driver that trains nothing, and a trainer for it."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.trainers.adapters.foreign import ForeignConfig, ForeignTrainer, Report


@dataclass(frozen=True)
class FakeConfig(ForeignConfig):
    speed: int = 10
    behaviour: Literal["good", "raise", "finish"] = "good"


class FakeForeign(ForeignTrainer):
    def __init__(self, package: str = "json") -> None:
        super().__init__(FakeConfig, "tests.harness.trainers.adapters.fake_driver:train", package, "fake")


def train(settings: dict[str, Any], report: Report, log_dir: Path) -> None:
    (log_dir / "started").write_text(sys.executable)
    report.start()
    iteration = 0
    while report(iteration=iteration, env_steps=iteration * settings["speed"], metrics={"loss": 0.5}):
        iteration += 1
        time.sleep(0.03)  # as long as some work takes
        if settings["behaviour"] == "raise":
            raise FloatingPointError("the loss is nan")
        if settings["behaviour"] == "finish" and iteration == 3:
            break
    (log_dir / "saved").touch()
