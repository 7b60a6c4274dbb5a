"""Does `compare` see what it should, and nothing else? A planted loss of 8 %, and a version against itself 20 times.

    python benchmarks/planted_regression.py [--comparisons 20] [--loss 0.08] [--pairs 12] [--seconds 2] [--json]

Both sides train HalfCheetah with APPO in one process (``mode: sync``), with networks so small that nine tenths of the
time go into the collector. One side sleeps after each env step for as long as makes these lose ``--loss`` of their
speed, so that the throughput falls by a little less. Each comparison is the command that a user types, ``compare a.yaml
b.yaml --measure``, whose exit code must be 1 for the planted loss, and whose verdict on a version with itself must be
"same" but for as many as the level of its test allows. If not, this ends with exit code 1; with 2 if a comparison was
not carried out. One comparison is 2 * pairs fresh processes, four at a time in turns; the whole takes about 35 minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from harness.stats.inference import LEVEL
from unilab.envs.tasks.planar import HalfCheetah, PlanarSettings
from unilab.envs.vec_env import FloatArray, StepResult

SHORTEST_SLEEP = 0.002
"""seconds; what is owed adds up to it, since short sleeps take longer than they were asked to"""
CONFIGURATION: dict[str, Any] = {
    "trainer": "appo",
    "env": "planted_regression:SlowedHalfCheetah",
    "settings": {
        "mode": "sync", "num_envs": 256, "steps_per_env": 8, "env_threads": 1, "inference_threads": 1,
        "learner_threads": 1, "network.actor": [16], "network.critic": [16],
        "algorithm.num_learning_epochs": 1, "algorithm.num_mini_batches": 1,
    },
}  # fmt: skip


@dataclass(frozen=True)
class SlowedSettings(PlanarSettings):
    loss: float = 0.0
    """part of the env steps a second that sleeping costs"""


class SlowedHalfCheetah(HalfCheetah):
    """HalfCheetah that sleeps for a part of the time that its steps take."""

    settings_class = SlowedSettings
    settings: SlowedSettings
    _owed = 0.0

    def step(self, actions: FloatArray) -> StepResult:
        began = time.thread_time()  # stands still while the other side has its turn
        result = super().step(actions)
        self._owed += (time.thread_time() - began) * self.settings.loss / (1 - self.settings.loss)
        if self._owed >= SHORTEST_SLEEP:
            asleep = time.perf_counter()
            time.sleep(self._owed)
            # a pause that comes while it sleeps is no sleep
            self._owed -= min(time.perf_counter() - asleep, self._owed + SHORTEST_SLEEP)
        return result


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=20, help="of a version with itself; default: 20")
    parser.add_argument("--loss", type=float, default=0.08, help="planted, as a fraction; default: 0.08")
    parser.add_argument("--pairs", type=int, default=12, help="of each comparison; default: 12")
    parser.add_argument("--seconds", type=float, default=2.0, help="steady window; default: 2")
    parser.add_argument("--warmup", type=float, default=0.2, help="seconds before it; default: 0.2")
    parser.add_argument("--retries", type=int, default=2, help="of pairs that something disturbed; default: 2")
    parser.add_argument("--results", type=Path, help="keep the records of all repeats here")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args()


def configuration(folder: Path, loss: float) -> Path:
    """A configuration file whose environment loses ``loss``; JSON is YAML."""
    settings = CONFIGURATION["settings"] | {"env_cfg": {"loss": loss}}
    path = folder / f"loss_{loss:g}.yaml"
    path.write_text(json.dumps(CONFIGURATION | {"settings": settings}), encoding="utf-8")
    return path


def window(folder: Path, given: argparse.Namespace) -> Path:
    """A suite file that says how long each repeat is measured, and how often again."""
    measure = {"seconds": given.seconds, "warmup_seconds": given.warmup, "disturbed_retries": given.retries}
    content = {"trainer": CONFIGURATION["trainer"], "env": "HalfCheetah", "fixed": CONFIGURATION["settings"]}
    path = folder / "window.yaml"
    path.write_text(json.dumps({"name": "planted_regression", **content, "measure": measure}), encoding="utf-8")
    return path


def compare(base: Path, new: Path, suite: Path, pairs: int, results: Path) -> dict[str, Any]:
    """Run the command; its exit code, and what it says of the throughput.

    Raises:
        SystemExit: it ended with an error; 2.
    """
    here = Path(__file__).resolve().parent
    path = os.pathsep.join(filter(None, (str(here), str(here.parent), os.environ.get("PYTHONPATH"))))
    command = [
        sys.executable, "-m", "harness", "compare", str(base), str(new), "--measure", "--json",
        "--suite", str(suite), "--pairs", str(pairs), "--results", str(results),
    ]  # fmt: skip
    began = time.monotonic()
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    if ended.returncode not in (0, 1, 3):
        print(f"compare ended with exit code {ended.returncode}:\n{ended.stderr[-2000:]}", file=sys.stderr)
        sys.exit(2)
    content = json.loads(ended.stdout)
    throughput = next(one for one in content["metrics"] if one["metric"] == "env_steps_per_second")
    told = {name: throughput[name] for name in ("base", "new", "change", "p", "smallest_effect", "verdict")}
    doubts = {name: content[name] for name in ("unsteady", "disturbed")}
    return {"exit_code": ended.returncode, **told, **doubts, "seconds": time.monotonic() - began}


def show(what: str, told: dict[str, Any]) -> None:
    text = f"{what:<16} {told['base']:>8,.0f} -> {told['new']:>8,.0f} steps/s {told['change']:+7.2%}  p {told['p']:.3f}"
    text += f"  seen from {told['smallest_effect']:6.2%}  {told['verdict']:<9} exit code {told['exit_code']}"
    print(f"{text}  {told['unsteady']} unsteady, {told['disturbed']} disturbed", file=sys.stderr, flush=True)


def judged(planted: dict[str, Any], itself: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether the loss was found, and how often a version was not called the same as itself, or nothing was said.

    A test at a level of 5 % is wrong that often: it is wrong too often where so many errors would be rare.
    """
    decided = [told for told in itself if told["exit_code"] != 3]
    wrong = sum(told["verdict"] != "same" for told in decided)
    return {
        "found": planted["exit_code"] == 1,
        "wrong": wrong,
        "too_often": bool(decided) and binomtest(wrong, len(decided), LEVEL, alternative="greater").pvalue < LEVEL,
        "undecided": len(itself) - len(decided),
    }


def main() -> int:
    given = options()
    with tempfile.TemporaryDirectory() as temporary:
        folder, results = Path(temporary), given.results or Path(temporary)
        unchanged, slowed = configuration(folder, 0.0), configuration(folder, given.loss)
        suite = window(folder, given)
        planted = compare(unchanged, slowed, suite, given.pairs, results)
        show(f"planted {-given.loss:.1%}", planted)
        itself = []
        for number in range(given.comparisons):
            itself.append(compare(unchanged, unchanged, suite, given.pairs, results))
            show(f"itself {number + 1}", itself[-1])
    result = judged(planted, itself)
    if given.json:
        print(json.dumps({"planted": planted, "itself": itself} | result, indent=2))
    else:
        print(f"planted loss of {given.loss:.1%}: {'found' if result['found'] else 'NOT found'}")
        often = f"more than {LEVEL:.0%} explain" if result["too_often"] else f"as {LEVEL:.0%} allow"
        counts = f"{result['wrong']} wrong, {often}, {result['undecided']} undecided"
        print(f"of {len(itself)} comparisons of a version with itself: {counts}")
    return 0 if result["found"] and not result["too_often"] and not result["undecided"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
