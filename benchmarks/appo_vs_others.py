"""Asynchronous PPO against other packages: env steps trained on per second, measured in turns on this machine.

    python benchmarks/appo_vs_others.py --unilab-rl-python OTHER/bin/python --sample-factory-python ANOTHER/bin/python

Without another interpreter it measures this project alone, with 5 epochs.

HalfCheetah, networks [256, 256], float32. Against unilab-rl both use 5 epochs, 4 minibatches and rollouts of 24 steps;
against Sample Factory 2 epochs. Every env step is counted once, however often it is trained on. Each contestant runs in
a fresh process a round, one after the other, and only its steady window counts. The environments of the others need,
besides the package itself:

    unilab-rl        pip install unilab-rl==1.4.15
    Sample Factory   pip install sample-factory mujoco imageio
"""

import argparse
import json
import sys
from typing import Any

from contest import Contestant, Window, add_options, add_settings, compare, conduct, print_table, settings

HIDDEN_DIMS = [256, 256]
STEPS_PER_ENV, MINIBATCHES = 24, 4

OURS: dict[str, Any] = {
    "num_envs": 1024,
    "num_slots": 2,
}

# One rollout an update and one thread a process: larger pools, more threads and more environments were slower.
UNILAB_RL: dict[str, Any] = {
    "num_envs": 256,
    "env_threads": 1,
    "inference_threads": 1,
    "threads": 1,
    "replay_queue_size": 1,
    "algorithm.schedule": "adaptive",
    "actor.obs_normalization": True,
    "critic.obs_normalization": True,
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


def ours(epochs: int, activation: str, given: dict[str, Any]) -> Contestant:
    """This project's APPO."""
    settings = {
        "steps_per_env": STEPS_PER_ENV,
        "network.activation": activation,
        "network.actor": HIDDEN_DIMS,
        "network.critic": HIDDEN_DIMS,
        "algorithm.num_learning_epochs": epochs,
        "algorithm.num_mini_batches": MINIBATCHES,
    }
    return _trainer("unilab-harness", "appo", settings | OURS | given)


def unilab_rl(python: str, epochs: int, activation: str, given: dict[str, Any]) -> Contestant:
    """Its APPO, in this project's environments."""
    settings = {
        "python": python,
        "steps_per_env": STEPS_PER_ENV,
        "actor.activation": activation,
        "critic.activation": activation,
        "actor.hidden_dims": HIDDEN_DIMS,
        "critic.hidden_dims": HIDDEN_DIMS,
        "algorithm.num_learning_epochs": epochs,
        "algorithm.num_mini_batches": MINIBATCHES,
    }
    return _trainer("unilab-rl", "harness.trainers.adapters.unilab_rl:APPO", settings | UNILAB_RL | given)


def _trainer(name: str, trainer: str, settings: dict[str, Any]) -> Contestant:
    job = {"trainer": trainer, "settings": {"env": "HalfCheetah"} | settings}
    return Contestant(name, "trainer_driver.py", sys.executable, job)


def sample_factory(python: str, epochs: int, activation: str, given: dict[str, Any]) -> Contestant:
    """Its APPO, in gymnasium's environments."""
    job = {
        "steps_per_env": STEPS_PER_ENV,
        "minibatches": MINIBATCHES,
        "hidden_dims": HIDDEN_DIMS,
        "activation": activation,
        "epochs": epochs,
        "settings": SAMPLE_FACTORY | given,
    }
    return Contestant("Sample Factory", "sample_factory_driver.py", python, job)


def matches(args: argparse.Namespace) -> list[tuple[int, list[Contestant]]]:
    """Who is measured beside whom, and with how many epochs."""
    mine, other = settings(args.set), settings(args.set_other)
    others = [
        (epochs, make(python, epochs, args.activation, other))
        for make, python, epochs in (
            (unilab_rl, args.unilab_rl_python, 5),
            (sample_factory, args.sample_factory_python, 2),
        )
        if python
    ]
    alone = [(5, [ours(5, args.activation, mine)])]
    return [(epochs, [ours(epochs, args.activation, mine), contestant]) for epochs, contestant in others] or alone


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
