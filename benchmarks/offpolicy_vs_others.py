"""SAC and TD3 against others, on this machine. HalfCheetah, float32, networks [256, 256].

    python benchmarks/offpolicy_vs_others.py throughput --sb3-python OTHER/bin/python
    python benchmarks/offpolicy_vs_others.py update

- throughput: gradient updates a second with batches of 256, as many as env steps are made beside them, measured in
  turns with Stable-Baselines3. Its best number of environments and of threads is found beforehand.
- update: the learner's update alone on large batches, beside the same update in plain PyTorch (drivers/
  plain_offpolicy.py) with its best number of threads.

Without another interpreter, throughput measures this project alone. Its environment needs:

    Stable-Baselines3   pip install stable-baselines3==2.9.2 gymnasium[mujoco]
"""

import argparse
import json
import sys
from typing import Any

from contest import (
    Contestant,
    Window,
    add_options,
    add_settings,
    compare,
    conduct,
    fastest,
    print_table,
    settings,
)

ALGORITHMS = ("sac", "td3")
HIDDEN_DIMS = [256, 256]
AS_MANY_UPDATES_AS_ENV_STEPS = {"num_envs": 16, "updates_per_step": 16}
"""the replay ratio of Stable-Baselines3 in its settings here; so the collectors beside the learners do the same work"""
_PUBLISHED = {
    "algorithm.actor_learning_rate": 3e-4, "algorithm.critic_learning_rate": 3e-4, "algorithm.tau": 0.005,
}  # fmt: skip
AS_PUBLISHED: dict[str, dict[str, Any]] = {
    "sac": _PUBLISHED
    | {"algorithm.alpha_learning_rate": 3e-4, "algorithm.init_alpha": 1.0}
    | {"algorithm.policy_frequency": 1},
    "td3": _PUBLISHED
    | {"network.layer_norm": False, "algorithm.policy_frequency": 2, "algorithm.target_reduction": "min"},
}
"""the algorithms of the papers, which the others are, where ours begin with other settings"""
SB3 = "Stable-Baselines3"
_SB3: dict[str, Any] = {
    "policy.net_arch": HIDDEN_DIMS,
    "learning_starts": 10_000,
    "gradient_steps": -1,
}
SB3_SETTINGS = {"sac": _SB3, "td3": _SB3 | {"action_noise": 0.1}}
"""its own hyperparameters, with as many updates as env steps, but for those that its RL Zoo gives for HalfCheetah"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="throughput | update")
    throughput = verbs.add_parser("throughput", help="updates a second in training, beside Stable-Baselines3")
    throughput.add_argument("--batch-size", type=int, default=256)
    add_options(throughput)
    _add_sb3(throughput)
    throughput.set_defaults(function=compare_throughput)

    update = verbs.add_parser("update", help="the update alone, beside plain PyTorch")
    update.add_argument("--batch-size", type=int, default=8192)
    update.add_argument("--device", default="cpu", help="of both: cpu or cuda")
    update.add_argument("--plain-threads", type=_numbers, default=[1, 2], metavar="N,...", help="the best of these")
    add_options(update)
    update.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of ours, JSON value")
    update.set_defaults(function=compare_update)

    for verb in (throughput, update):
        verb.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS)
    return top


def _add_sb3(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--sb3-python", metavar="PATH", help="interpreter that has stable-baselines3 installed")
    verb.add_argument("--sb3-envs", type=_numbers, default=[4, 8, 16], metavar="N,...", help="the best of these")
    verb.add_argument("--sb3-threads", type=_numbers, default=[1, 2], metavar="N,...", help="the best of these")
    verb.add_argument("--choose-seconds", type=float, default=8.0, help="length of each trial that finds the best")
    add_settings(verb)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def ours(args: argparse.Namespace, algorithm: str, **defaults: Any) -> Contestant:
    """This project's runner with the published algorithm, ``defaults`` and ``--set``."""
    chosen = {
        "env": "HalfCheetah",
        "batch_size": args.batch_size,
        "network.actor": HIDDEN_DIMS,
        "network.critic": HIDDEN_DIMS,
    }
    job = {"trainer": algorithm, "settings": chosen | AS_PUBLISHED[algorithm] | defaults | settings(args.set)}
    return Contestant("unilab-harness", "trainer_driver.py", sys.executable, job)


def stable_baselines3(args: argparse.Namespace, algorithm: str) -> list[Contestant]:
    """Stable-Baselines3 in its fastest setting, if there is an interpreter that has it."""
    if not args.sb3_python:
        return []
    chosen = SB3_SETTINGS[algorithm] | {"python": args.sb3_python, "batch_size": args.batch_size}
    candidates = [
        Contestant(
            f"{SB3}, {envs} envs, {threads} thread{'s'[: threads > 1]}",
            "trainer_driver.py",
            sys.executable,
            {
                "trainer": f"harness.trainers.adapters.sb3:{algorithm.upper()}",
                "settings": chosen | {"n_envs": envs, "threads": threads} | settings(args.set_other),
            },
        )
        for envs in args.sb3_envs
        for threads in args.sb3_threads
    ]
    return [fastest(candidates, "updates", Window(2.0, args.choose_seconds))]


def compare_throughput(args: argparse.Namespace, algorithm: str) -> dict[str, Any]:
    """Updates a second, environments stepped beside them."""
    contestants = [ours(args, algorithm, **AS_MANY_UPDATES_AS_ENV_STEPS), *stable_baselines3(args, algorithm)]
    comparison = compare(contestants, "updates", args.rounds, Window(args.warmup_seconds, args.seconds))
    if not args.json:
        print_table(f"{algorithm}, updates a second in training, batch {args.batch_size}", comparison)
    return comparison


def compare_update(args: argparse.Namespace, algorithm: str) -> dict[str, Any]:
    """Updates a second of the learners alone."""
    window = Window(args.warmup_seconds, args.seconds)

    def learner(name: str, kind: str, given: dict[str, Any]) -> Contestant:
        told = {
            "algorithm": algorithm,
            "batch_size": args.batch_size,
            "hidden_dims": HIDDEN_DIMS,
            "settings": given,
            "learner": kind,
            "device": args.device,
        }
        return Contestant(name, "learner_driver.py", sys.executable, told)

    plain = [
        learner(f"plain PyTorch, {threads} thread{'s'[: threads > 1]}", "plain", {"threads": threads})
        for threads in args.plain_threads
    ]
    published = learner("unilab-harness", "ours", AS_PUBLISHED[algorithm] | settings(args.set))
    contestants = [published, fastest(plain, "updates", window)]
    comparison = compare(contestants, "updates", args.rounds, window)
    if not args.json:
        print_table(f"{algorithm}, updates a second alone, batch {args.batch_size}", comparison)
    return comparison


def main() -> None:
    args = parser().parse_args()
    results = {algorithm: args.function(args, algorithm) for algorithm in args.algorithms}
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    conduct(main)
