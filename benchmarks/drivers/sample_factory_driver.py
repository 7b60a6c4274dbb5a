"""Measures Sample Factory. Run by appo_vs_others.py, in that package's environment, with one JSON argument.

Its own MuJoCo example with gymnasium's HalfCheetah-v4, which is the same task; counted are the env steps that its
learner has consumed, as its runner knows them after each training step.
"""

import json
import sys
import tempfile
from typing import Any

from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.train import make_runner
from sf_examples.mujoco.train_mujoco import parse_mujoco_cfg, register_mujoco_components
from steady_window import SteadyWindow


class Measure(AlgoObserver):
    """Reports to the steady window and ends training after it."""

    def __init__(self, window: SteadyWindow) -> None:
        self._window = window

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        if self._window.report(env_steps=sum(runner.env_steps.values())):
            runner.cfg.train_for_env_steps = 0


def arguments(job: dict[str, Any], train_dir: str) -> list[str]:
    given = {
        "env": "mujoco_halfcheetah",
        "experiment": "measured",
        "train_dir": train_dir,
        "device": "cpu",
        "nonlinearity": job["activation"],
        "rollout": job["steps_per_env"],
        "num_epochs": job["epochs"],
        "num_batches_per_epoch": job["minibatches"],
        "train_for_env_steps": 10**9,
        "save_every_sec": 10**6,
        "async_rl": True,
        **job["settings"],
    }
    return [f"--{key}={value}" for key, value in given.items()] + [
        "--encoder_mlp_layers",
        *map(str, job["hidden_dims"]),
    ]


def main(job: dict[str, Any]) -> None:
    register_mujoco_components()
    window = SteadyWindow(job["warmup_seconds"], job["seconds"])
    with tempfile.TemporaryDirectory() as train_dir:
        _, runner = make_runner(parse_mujoco_cfg(arguments(job, train_dir)))
        runner.register_observer(Measure(window))
        status = runner.init()
        if status == ExperimentStatus.SUCCESS:
            runner.run()
    window.print_result()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
