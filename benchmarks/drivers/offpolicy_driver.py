"""Measures this project's OffPolicyRunner. Run by offpolicy_vs_others.py with one JSON argument."""

import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from curve import Curve
from steady_window import SteadyWindow

from unilab.algos.torch.offpolicy.config import CONFIGS, OffPolicyConfig
from unilab.algos.torch.offpolicy.runner import OffPolicyRunner
from unilab.training.progress import Progress
from unilab.training.settings import parse


def learn(config: OffPolicyConfig, over: Callable[[Progress], bool]) -> None:
    """Train until ``over``."""
    with tempfile.TemporaryDirectory() as log_dir, OffPolicyRunner.from_config(config) as runner:
        runner.learn(
            sys.maxsize,
            save_interval=sys.maxsize,
            log_dir=log_dir,
            on_iteration=lambda progress: not over(progress),
        )


def measure(config: OffPolicyConfig, window: SteadyWindow) -> None:
    """Updates and env steps a second, the first update awaited."""
    learn(
        config,
        lambda progress: (
            progress.updates > 0 and window.report(updates=progress.updates, env_steps=progress.collected_env_steps)
        ),
    )
    window.print_result()


def record(config: OffPolicyConfig, curve: Curve) -> None:
    """The learning curve."""
    learn(
        config,
        lambda progress: curve.report(progress.collected_env_steps, progress.updates, progress.episode_return),
    )


def main(job: dict[str, Any]) -> None:
    config = parse(
        CONFIGS[job["algorithm"]],
        {
            "env": "HalfCheetah",
            "batch_size": job["batch_size"],
            "policy.hidden_dims": job["hidden_dims"],
            "policy.critic_hidden_dims": job["hidden_dims"],
            **job["settings"],
        },
    )
    if "curve" in job:
        record(config, Curve(job["curve"], job["seconds"]))
    else:
        measure(config, SteadyWindow(job["warmup_seconds"], job["seconds"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
