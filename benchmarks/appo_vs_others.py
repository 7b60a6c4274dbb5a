"""Asynchronous PPO against other packages: env steps trained on per second, measured in turns on this machine.

    python benchmarks/appo_vs_others.py --unilab-rl-python OTHER/bin/python --sample-factory-python ANOTHER/bin/python

Without another interpreter it measures this project alone, with 5 epochs.

HalfCheetah, networks [256, 256], float32. Against unilab-rl both use 5 epochs, 4 minibatches and rollouts of 24 steps;
against Sample Factory 2 epochs. Every env step is counted once, however often it is trained on. Each contestant runs in
a fresh process a round, one after the other, and only its steady window counts, so that what disturbs the machine for
a while disturbs all of them. The environments of the others need, besides the package itself:

    unilab-rl        pip install unilab-rl==1.4.15 mujoco gymnasium pydantic
    Sample Factory   pip install sample-factory mujoco imageio
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DRIVERS = ROOT / "benchmarks" / "drivers"
STARTUP_SECONDS = 120.0
"""allowance for imports, process starts and the first iteration"""


@dataclass(frozen=True)
class Contestant:
    """One package in one setting."""

    name: str
    driver: str
    python: str
    epochs: int
    activation: str
    settings: dict[str, Any]


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


def measure(contestant: Contestant, warmup_seconds: float, seconds: float) -> dict[str, float]:
    """Run one contestant in a fresh process group; env_steps, seconds and env_steps_per_second of its steady window.

    Raises:
        RuntimeError: it failed or did not end in time; with the end of its output.
    """
    job = {
        "steps_per_env": 24,
        "minibatches": 4,
        "hidden_dims": [256, 256],
        "activation": contestant.activation,
        "epochs": contestant.epochs,
        "settings": contestant.settings,
        "warmup_seconds": warmup_seconds,
        "seconds": seconds,
    }
    process = subprocess.Popen(
        [contestant.python, str(DRIVERS / contestant.driver), json.dumps(job)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=STARTUP_SECONDS + warmup_seconds + seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise RuntimeError(f"{contestant.name} did not end in time; its output ends:\n{output[-2000:]}") from None
    for line in reversed(output.splitlines()):
        if line.startswith('{"env_steps"'):
            result: dict[str, float] = json.loads(line)
            return result
    raise RuntimeError(f"{contestant.name} failed with exit code {process.returncode}:\n{output[-2000:]}")


def compare(contestants: list[Contestant], rounds: int, warmup_seconds: float, seconds: float) -> dict[str, Any]:
    """Measure them in turns, in an order that changes every round; ours comes first in ``contestants``."""
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        for contestant in contestants if number % 2 == 0 else reversed(contestants):
            rate = measure(contestant, warmup_seconds, seconds)["env_steps_per_second"]
            rates[contestant.name].append(rate)
            print(f"round {number + 1}: {contestant.name:<24} {rate:>9,.0f} env steps/s", file=sys.stderr, flush=True)
    ours, *others = rates
    ratios = {f"ours / {other}": [a / b for a, b in zip(rates[ours], rates[other], strict=True)] for other in others}
    return {"epochs": contestants[0].epochs, "env_steps_per_second": rates, "ratios": ratios}


def print_table(comparison: dict[str, Any]) -> None:
    print(f"\n{comparison['epochs']} epochs, env steps trained on per second (higher is better), median and range")
    for name, rates in comparison["env_steps_per_second"].items():
        print(f"  {name:<24} {statistics.median(rates):>9,.0f}   {min(rates):,.0f} to {max(rates):,.0f}")
    for name, ratios in comparison["ratios"].items():
        print(
            f"  {name:<24} {statistics.median(ratios):>9.2f}   {min(ratios):.2f} to {max(ratios):.2f}, round by round"
        )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unilab-rl-python", metavar="PATH", help="interpreter that has unilab-rl installed")
    parser.add_argument("--sample-factory-python", metavar="PATH", help="interpreter that has sample-factory installed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup-seconds", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of the steady window")
    parser.add_argument("--activation", choices=("elu", "relu"), default="elu", help="of all networks")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of ours, JSON value")
    parser.add_argument("--set-other", action="append", default=[], metavar="KEY=VALUE", help="a setting of the others")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args()


def settings(given: list[str]) -> dict[str, Any]:
    """``["num_envs=512", "mode=sync"]`` to a dictionary; a value that is not JSON is a string."""
    pairs = (item.partition("=") for item in given)
    return {key: _json_or_text(value) for key, _, value in pairs}


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def ours(epochs: int, args: argparse.Namespace) -> Contestant:
    return Contestant(
        "unilab-harness", "appo_driver.py", sys.executable, epochs, args.activation, OURS | settings(args.set)
    )


def matches(args: argparse.Namespace) -> list[list[Contestant]]:
    """Who is measured beside whom."""
    others = [
        Contestant(name, driver, python, epochs, args.activation, defaults | settings(args.set_other))
        for name, driver, python, epochs, defaults in (
            ("unilab-rl", "unilab_rl_driver.py", args.unilab_rl_python, 5, UNILAB_RL),
            ("Sample Factory", "sample_factory_driver.py", args.sample_factory_python, 2, SAMPLE_FACTORY),
        )
        if python
    ]
    return [[ours(other.epochs, args), other] for other in others] or [[ours(5, args)]]


def main() -> None:
    args = options()
    comparisons = [compare(match, args.rounds, args.warmup_seconds, args.seconds) for match in matches(args)]
    if args.json:
        print(json.dumps(comparisons))
        return
    for comparison in comparisons:
        print_table(comparison)


if __name__ == "__main__":
    main()
