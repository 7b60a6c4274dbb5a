"""A driver that trains nothing, and a trainer for it: how foreign processes behave is what is tested."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.trainers.adapters.drive import Reporter
from harness.trainers.adapters.foreign import ForeignConfig, ForeignTrainer


@dataclass(frozen=True)
class FakeConfig(ForeignConfig):
    speed: int = 10
    behaviour: Literal["good", "raise", "die", "exit", "finish", "deaf", "hold_gil"] = "good"


class FakeForeign(ForeignTrainer):
    def __init__(self, package: str = "json") -> None:
        super().__init__(FakeConfig, "tests.harness.trainers.adapters.fake_driver:train", package, "fake")


def train(settings: dict[str, Any], report: Reporter, log_dir: Path) -> None:
    print("noise on standard output")
    (log_dir / "started").write_text(f"{os.getpid()} {sys.executable}")
    iteration = 0
    # a stop that comes early on a loaded machine does not keep it from misbehaving
    while report(iteration=iteration, env_steps=iteration * settings["speed"], metrics={"loss": 0.5}) or iteration < 3:
        iteration += 1
        time.sleep(0.03)  # as long as some work takes
        if iteration == 3:
            misbehave(settings["behaviour"])
        if settings["behaviour"] == "finish" and iteration == 5:
            break
    (log_dir / "saved").touch()


def misbehave(how: str) -> None:
    if how == "raise":
        raise FloatingPointError("the loss is nan")
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        print("last words", flush=True)
        os._exit(3)
    while how == "deaf":
        time.sleep(1)
    while how == "hold_gil":
        (10**7) ** (10**7)
