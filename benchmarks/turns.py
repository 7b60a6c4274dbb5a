"""Do turns of a fraction of a second pay? The width of a comparison's interval with them and without, at equal time.

    python benchmarks/turns.py [--rounds 4] [--loss 0.05] [--pairs 8] [--seconds 1.5] [--json]

Each round compares HalfCheetah with a copy that sleeps away ``--loss`` of its speed (``planted_regression.py``), once
with the repeats of a block alive together and taking turns, once with the same repeats one after the other. Both
schedules have the same number of pairs and of seconds; where one takes longer than the other, its width is scaled to
equal wall time by the square root of the times' ratio. The width is that of Student's 95 % interval of the mean log
ratio of the pairs. The whole takes about 12 minutes; nothing else should run meanwhile.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from planted_regression import configuration
from scipy import stats

from harness.compare.measured import Measuring
from harness.compare.sides import Side, Version, version_of
from harness.measure.stop import StopSignal
from harness.suite.schema import Limits, Measure


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="comparisons of each kind; default: 4")
    parser.add_argument("--loss", type=float, default=0.05, help="planted, as a fraction; default: 0.05")
    parser.add_argument("--pairs", type=int, default=8, help="of each comparison; default: 8")
    parser.add_argument("--seconds", type=float, default=1.5, help="steady window; default: 1.5")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args()


def version(folder: Path, loss: float) -> Version:
    limits = Limits(trial_timeout_seconds=120.0, progress_timeout_seconds=60.0)
    return version_of(Side("", configuration=configuration(folder, loss)), None, None, folder, limits)


def compare(given: argparse.Namespace, one_by_one: str) -> dict[str, Any]:
    """One comparison: mean log ratio, half width of its interval and wall time."""
    measure = Measure(warmup_seconds=0.2, seconds=given.seconds, disturbed_retries=0)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, StopSignal() as stop:
        sides = version(Path(folder), 0.0), version(Path(folder), given.loss)
        pairs = Measuring(sides, measure, given.pairs, one_by_one).run(Path(folder), stop, lambda text: None)
    wall = time.monotonic() - began
    logs = np.array([math.log(new.env_steps_per_second / base.env_steps_per_second) for ((base, new),) in pairs.across])
    half = float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    return {"change": math.expm1(float(logs.mean())), "half_width": half, "wall_seconds": wall}


def main() -> int:
    given = options()
    here = Path(__file__).resolve().parent  # where the processes of a repeat find the environment
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(here), os.environ.get("PYTHONPATH"))))
    rounds = []
    for number in range(given.rounds):
        kinds = {"turns": "", "one_by_one": "measured without turns"}
        order = list(kinds) if number % 2 == 0 else list(reversed(kinds))
        found = {kind: compare(given, kinds[kind]) for kind in order}
        turns, single = found["turns"], found["one_by_one"]
        scale = math.sqrt(turns["wall_seconds"] / single["wall_seconds"])
        found["ratio"] = turns["half_width"] * scale / single["half_width"]
        rounds.append(found)
        print(json.dumps(found), file=sys.stderr, flush=True)
    ratios = [found["ratio"] for found in rounds]
    result = {
        "rounds": rounds,
        "median_ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }
    if given.json:
        print(json.dumps(result, indent=2))
    else:
        print(
            f"interval with turns over without: median {result['median_ratio']:.2f} "
            f"({result['lowest']:.2f} to {result['highest']:.2f}), {given.rounds} rounds"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
