"""A driver that trains nothing, and a trainer for it."""

import functools
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.trainers.adapters.foreign import Act, ForeignConfig, ForeignTrainer, Report


@dataclass(frozen=True)
class FakeConfig(ForeignConfig):
    speed: int = 10
    behaviour: Literal["good", "raise", "finish"] = "good"


class FakeForeign(ForeignTrainer):
    config_type = FakeConfig
    driver = "tests.harness.trainers.adapters.fake_driver:train"
    extra = "fake"

    def __init__(self, package: str = "json") -> None:
        super().__init__()
        self.package = package


def train(settings: dict[str, Any], report: Report, log_dir: Path) -> Act:
    (log_dir / "started").write_text(sys.executable)
    iteration = 0

    def policy() -> Act:
        return functools.partial(np.full_like, fill_value=iteration / 100)

    while report(policy, iteration=iteration, env_steps=iteration * settings["speed"], metrics={"loss": 0.5}):
        iteration += 1
        time.sleep(0.03)  # as long as some work takes
        if settings["behaviour"] == "raise":
            raise FloatingPointError("the loss is nan")
        if settings["behaviour"] == "finish" and iteration == 3:
            break
    (log_dir / "model.zip").touch()
    return policy()
