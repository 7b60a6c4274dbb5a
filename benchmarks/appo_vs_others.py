"""Asynchronous PPO against other packages: env steps trained on per second, measured in turns on this machine.

    python benchmarks/appo_vs_others.py --unilab-rl-python OTHER/bin/python --sample-factory-python ANOTHER/bin/python

Without another interpreter it measures this project alone, with 5 epochs.

HalfCheetah, networks [256, 256], float32. Against unilab-rl both use 5 epochs, 4 minibatches and rollouts of 24 steps;
against Sample Factory 2 epochs. Every env step is counted once, however often it is trained on. Each contestant runs in
a fresh process a round, one after the other, and only its steady window counts. The environments of the others need,
besides the package itself:

    unilab-rl        pip install unilab-rl==1.4.15 mujoco gymnasium pydantic
    Sample Factory   pip install sample-factory mujoco imageio
"""

import argparse
import json
import sys
from typing import Any

from contest import Contestant, Window, add_options, add_settings, compare, conduct, print_table, settings

OURS: dict[str, Any] = {
    "num_envs": 1024,
    "num_slots": 2,
}

# One rollout an update and one thread a process: larger pools, more threads and more environments were slower.
UNILAB_RL: dict[str, Any] = {
    "num_envs": 256,
    "env_threads": 1,
    "inference_threads": 1,
    "learner_threads": 1,
    "replay_queue_size": 1,
}
# Two sampling processes, one for each core.
SAMPLE_FACTORY: dict[str, Any] = {
    "num_workers": 2,
    "num_envs_per_worker": 16,
    "batch_size": 3072,
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unilab-rl-python", metavar="PATH", help="interpreter that has unilab-rl installed")
    parser.add_argument("--sample-factory-python", metavar="PATH", help="interpreter that has sample-factory installed")
    parser.add_argument("--activation", choices=("elu", "relu"), default="elu", help="of all networks")
    add_options(parser)
    add_settings(parser)
    return parser.parse_args()


def job(epochs: int, activation: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a driver is told."""
    return {
        "steps_per_env": 24,
        "minibatches": 4,
        "hidden_dims": [256, 256],
        "activation": activation,
        "epochs": epochs,
        "settings": given,
    }


def matches(args: argparse.Namespace) -> list[tuple[int, list[Contestant]]]:
    """Who is measured beside whom, and with how many epochs."""
    ours, other = OURS | settings(args.set), settings(args.set_other)
    others = [
        (epochs, Contestant(name, driver, python, job(epochs, args.activation, defaults | other)))
        for name, driver, python, epochs, defaults in (
            ("unilab-rl", "unilab_rl_driver.py", args.unilab_rl_python, 5, UNILAB_RL),
            ("Sample Factory", "sample_factory_driver.py", args.sample_factory_python, 2, SAMPLE_FACTORY),
        )
        if python
    ]

    def us(epochs: int) -> Contestant:
        return Contestant("unilab-harness", "appo_driver.py", sys.executable, job(epochs, args.activation, ours))

    return [(epochs, [us(epochs), contestant]) for epochs, contestant in others] or [(5, [us(5)])]


def main() -> None:
    args = options()
    window = Window(args.warmup_seconds, args.seconds)
    comparisons = [
        {"epochs": epochs, **compare(match, "env_steps", args.rounds, window)} for epochs, match in matches(args)
    ]
    if args.json:
        print(json.dumps(comparisons))
        return
    for comparison in comparisons:
        print_table(f"{comparison['epochs']} epochs, env steps trained on per second", comparison)


if __name__ == "__main__":
    conduct(main)
