"""Whether SAC and TD3 learn the same from workers as from the collector: returns after as many env steps and updates.

    python benchmarks/worker_learning.py [--kinds collector,sequential,processes,ray] [--seeds 3] [--json]

Each run trains in lock step, so its result depends on its seed and not on how fast the machine is, and then plays
episodes without noise. Kinds of workers that keep their promise learn the very same weights from a seed; the collector
draws other random numbers, so it is compared by the interquartile mean over seeds and their range.
"""

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.stats.inference import interquartile_mean
from unilab.algos.torch.evaluate import evaluate
from unilab.algos.torch.offpolicy.config import CONFIGS
from unilab.algos.torch.offpolicy.runner import OffPolicyRunner
from unilab.run.checkpoint import load_checkpoint
from unilab.settings import parse

SETTINGS: dict[str, Any] = {
    "env": "Hopper",
    "num_envs": 8,
    "learning_starts": 125,
    "updates_per_step": 8,
    "batch_size": 128,
    "replay_capacity": 100_000,
    "network": {"actor": [64, 64], "critic": [64, 64]},
    "algorithm": {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3},
    "learner_threads": 1,
}
"""small enough to learn to run within a minute"""


def train(kind: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run: its return without noise, what it took, and a fingerprint of the weights that it learned."""
    workers = {"kind": kind, "count": 1 if kind == "collector" else options.workers}
    config = parse(CONFIGS[options.algorithm], SETTINGS | {"seed": seed, "workers": workers})
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, OffPolicyRunner.from_config(config) as runner:
        progress = runner.learn(options.iterations, save_interval=options.iterations, log_dir=folder).progress
        seconds = time.monotonic() - began
        checkpoint = Path(folder) / "checkpoint.pt"
        played = evaluate(checkpoint, options.episodes, seed=1_000 + seed)
        weights = load_checkpoint(checkpoint)["learner"]["actor"]
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in weights.values())).hexdigest()[:12]
    return {"kind": kind, "seed": seed, "return": played["return_mean"], "env_steps": progress.env_steps,
            "updates": progress.updates, "seconds": seconds, "weights": digest}  # fmt: skip


def compare(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By kind: the interquartile mean and range of the returns, and whether they lie among those of the first kind."""
    kinds = {run["kind"]: [other for other in runs if other["kind"] == run["kind"]] for run in runs}
    first = [run["return"] for run in next(iter(kinds.values()))]
    told = {}
    for kind, own in kinds.items():
        returns = [run["return"] for run in own]
        middle = interquartile_mean(returns)
        told[kind] = {"interquartile_mean": middle, "low": min(returns), "high": max(returns),
                      "deviation": statistics.stdev(returns) if len(returns) > 1 else 0.0,
                      "within_spread": min(first) <= middle <= max(first)}  # fmt: skip
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default="collector,sequential,processes,ray", help="the first is compared with")
    parser.add_argument("--algorithm", choices=("sac", "td3"), default="sac")
    parser.add_argument("--workers", type=int, default=2, help="that share the 8 environments")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=1000, help="of 8 env steps and 8 updates")
    parser.add_argument("--episodes", type=int, default=16, help="that are played at the end of a run")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for kind in options.kinds.split(","):
            runs.append(train(kind, seed, options))
            if not options.json:
                print("{kind:<11} seed {seed}  return {return:>8,.0f}  {env_steps:,} env steps, {updates:,} updates, "
                      "{seconds:.0f} s  weights {weights}".format(**runs[-1]), flush=True)  # fmt: skip
    results = compare(runs)
    if options.json:
        print(json.dumps({"arguments": vars(options), "runs": runs, "results": results}))
        return
    print(f"\n{'':<11}{'IQM':>8}{'range':>18}{'deviation':>11}")
    for kind, told in results.items():
        span = f"{told['low']:,.0f} to {told['high']:,.0f}"
        beside = "" if told["within_spread"] else f"  outside the range of {options.kinds.split(',')[0]}"
        print(f"{kind:<11}{told['interquartile_mean']:>8,.0f}{span:>18}{told['deviation']:>11,.0f}{beside}")


if __name__ == "__main__":
    main()
