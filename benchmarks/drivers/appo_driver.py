"""Measures this project's APPORunner. Run by appo_vs_others.py with one JSON argument."""

import json
import sys
import tempfile
from typing import Any

from steady_window import SteadyWindow

from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.runner import APPORunner
from unilab.training.settings import parse


def main(job: dict[str, Any]) -> None:
    config = parse(
        APPOConfig,
        {
            "env": "HalfCheetah",
            "steps_per_env": job["steps_per_env"],
            "policy.activation": job["activation"],
            "policy.hidden_dims": job["hidden_dims"],
            "policy.critic_hidden_dims": job["hidden_dims"],
            "algorithm.num_learning_epochs": job["epochs"],
            "algorithm.num_mini_batches": job["minibatches"],
            **job["settings"],
        },
    )
    window = SteadyWindow(job["warmup_seconds"], job["seconds"])
    with tempfile.TemporaryDirectory() as log_dir, APPORunner.from_config(config) as runner:
        runner.learn(
            sys.maxsize,
            save_interval=sys.maxsize,
            log_dir=log_dir,
            on_iteration=lambda progress: not window.report(env_steps=progress.env_steps),
        )
    window.print_result()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
