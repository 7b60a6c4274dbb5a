"""Does a trainer learn as well with other placement settings? The evidence that the harness quotes beside a gain.

    python benchmarks/learns_as_well.py learner_dtype=bfloat16 when_full=drop_oldest --minutes 60

Each argument is one configuration beside the baseline, which is the trainer as it comes; several settings that are to
be shown together are joined by commas. Without arguments these are all values of placement settings that make sense
here, each by itself: `search: {placement: auto}` chooses those that are shown to learn as well. Devices are left out,
and so are threads and cores, which change rounding and policy lag alone.

Every configuration in every task is a suite of its own that `python -m harness run` measures: 20 seeds, 500,000 env
steps each, on one core, as many side by side as there are cores. Then the policy plays 64 whole episodes without noise.
`--minutes` ends it in time, and the same command goes on where it ended. The baseline is measured once for all; that of
the kept table counts as long as the code that learns is the same.

Such a run takes APPO 75 to 100 seconds on one core, evaluation included: the 60 runs of the baseline took 50 minutes on
2 cores, those in bfloat16 36. A second setting costs its own alone.

A setting learns as well where it has at most 20 % less than the baseline, by a test of non-inferiority over the returns
of all tasks, each divided by the baseline's mean there (`harness.stats.inference.non_inferiority`). The margin was
settled by the baseline alone, whose seeds spread by 17 % of their mean on HalfCheetah and by 40 % on Hopper and
Walker2d. Of 200 settings that change nothing, 20 seeds a side drawn from those of the baseline, 95 % are then shown to
learn as well; at a margin of 15 % it would be 71 %, at 10 % 37 %. A repeat that failed leaves its setting without an
entry. `--keep` writes the table into the package, as harness/trainers/learns_as_well.json: there it holds until the
code that learns changes.

Not each change of that code changes what it computes. `--carry` trains with the code of an entry's commit and with that
of now, some iterations in lock step, with and without the setting. Where all numbers of the learner are the same bits,
the entry holds for the code of now as well. What shows in asynchronous runs alone, such as a longer lag, it cannot see:
look at the change before. It takes two minutes.
"""

import argparse
import hashlib
import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from harness.cli import main as harness
from harness.compare.sides import checkouts
from harness.files.yaml_file import to_yaml
from harness.measure import host
from harness.measure.provenance import commit
from harness.measure.record import Record, attempts_that_count, read_records, write_atomic
from harness.predict import plan
from harness.stats.inference import non_inferiority
from harness.suite.sources import learning_digest
from harness.suite.text import settings_text
from harness.trainers import evidence
from harness.trainers import trainer as trainers
from harness.trainers.evidence import Evidence

TASKS = ("HalfCheetah", "Hopper", "Walker2d")
MARGIN = 0.2
HERE = Path(__file__).resolve().parents[1]
ITERATIONS = 12
"""of a training that is compared bit for bit"""
ONE_THREAD = {"env_threads": 1, "learner_threads": 1}
LOCK_STEP: dict[str, dict[str, Any]] = {"appo": ONE_THREAD | {"mode": "sync"}, "sac": ONE_THREAD, "td3": ONE_THREAD}
"""settings with which a trainer repeats itself bit for bit"""
Settings = dict[str, Any]
Returns = dict[str, list[float]]
"""of the seeds, by environment"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if arguments.carry:
        return carry(arguments)
    end = time.monotonic() + 60 * arguments.minutes
    asked = arguments.settings or [{name: value} for name, value in choices(arguments.trainer)]
    baseline = kept_baseline(arguments) or returns_of(arguments, measured(arguments, {}, end))
    entries, missing = [], 0
    for settings in asked:
        returns = returns_of(arguments, measured(arguments, settings, end))
        if baseline is None or returns is None:
            missing += 1
            continue
        entry = entry_of(arguments, settings, baseline, returns)
        entries.append(entry)
        print(f"{settings_text(settings)}: {entry.verdict}")
        low, high = entry.interval
        print(f"  {entry.difference:+.1%}, 95 % interval {low:+.1%} to {high:+.1%}, margin {entry.margin:.0%}")
        for env, sides in entry.returns.items():
            both = ", ".join(f"{side} {statistics.fmean(seeds):,.0f}" for side, seeds in sides.items())
            print(f"  {env}: mean return {both}; {entry.seeds} seeds each")
    if missing:
        print(f"{missing} of {len(asked)} settings are not measured to the end; the same command goes on")
    if arguments.keep and entries:
        keep(entries, arguments.file)
        print(f"written: {arguments.file}")
    return 1 if missing else 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("settings", nargs="*", type=parsed, metavar="SETTING=VALUE", help="such as learner_dtype=bfloat16")
    top.add_argument("--trainer", default="appo", choices=list(trainers.REGISTRY))
    top.add_argument("--minutes", type=float, default=1e6, metavar="M", help="wall time of this call; default: no end")
    top.add_argument("--seeds", type=int, default=20, metavar="N", help="of each, in each task; default: 20")
    top.add_argument("--env-steps", type=int, default=500_000, metavar="N", help="of training; default: 500,000")
    top.add_argument("--episodes", type=int, default=64, metavar="N", help="of the final policy; default: 64")
    top.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="ENV", help=f"default: {' '.join(TASKS)}")
    top.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    top.add_argument("--keep", action="store_true", help="write the table into the package")
    top.add_argument("--carry", action="store_true", help="let entries hold that train to the same bits as before")
    top.add_argument("--file", type=Path, default=evidence.FILE, help=argparse.SUPPRESS)
    return top


def parsed(text: str) -> Settings:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and equals for name, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"expected SETTING=VALUE, got {text}")
    return {name.strip(): yaml.safe_load(value) for name, _, value in pairs}


def choices(trainer: str) -> list[tuple[str, Any]]:
    """What makes sense here beside the trainer's defaults, without devices and what needs no evidence."""
    found = trainers.get(trainer)
    placements = evidence.needing(dict(found.placements({"env": TASKS[0]})))
    return [
        (name, value)
        for name, values in placements.items()
        if name not in found.device_settings
        for value in values[1:]
    ]


def write_suite(arguments: argparse.Namespace, settings: Settings, env: str) -> Path:
    """The suite of one configuration in one task; its studies know each other by nothing but the folder."""
    suite = {
        "name": f"learns_as_well_{arguments.trainer}", "trainer": arguments.trainer, "env": env, "fixed": settings,
        "objectives": ["evaluated_return"],
        "measure": {
            "warmup_seconds": 0, "return_at": {"env_steps": arguments.env_steps}, "repeats": arguments.seeds,
            "cores": 1, "evaluate": arguments.episodes, "disturbed_retries": 0,
        },
        "sampler": {"name": "grid"},
        "limits": {"trials": 1, "trial_timeout_seconds": 3600, "progress_timeout_seconds": 600},
    }  # fmt: skip
    folder = arguments.results / suite["name"]
    folder.mkdir(parents=True, exist_ok=True)
    name = settings_text(settings).replace(" ", "_") if settings else "baseline"
    path: Path = folder / f"{name}_{env}.yaml"
    write_atomic(path, to_yaml(suite))
    return path


def measured(arguments: argparse.Namespace, settings: Settings, end: float) -> dict[str, list[Record]]:
    """Go on with the suites of this configuration until ``end``; all that there is of them, by their tasks."""
    found = {}
    for env in arguments.tasks:
        path = write_suite(arguments, settings, env)
        if time.monotonic() < end:
            minutes = (end - time.monotonic()) / 60
            code = harness(["run", str(path), "--results", str(arguments.results), "--minutes", f"{minutes:.3f}"])
            if code > 1:  # stopped
                raise SystemExit(code)
        found[env] = read_records(plan.make(path).folder(arguments.results) / "trials.jsonl")
    return found


def returns_of(arguments: argparse.Namespace, records: Mapping[str, list[Record]]) -> Returns | None:
    """None as long as a seed is missing."""
    found: Returns = {}
    for env in arguments.tasks:
        seeds = sorted(attempts_that_count(records[env]), key=lambda record: record.seed)
        values = [r.evaluated_return for r in seeds if r.state == "complete"]
        if len(values) < arguments.seeds:
            return None
        found[env] = values
    return found


def kept_baseline(arguments: argparse.Namespace) -> Returns | None:
    """That of an entry which was measured in the same way on a machine like this one, if the table has one."""
    wanted = arguments.trainer, arguments.env_steps, arguments.episodes, machine(), versions()
    for one in evidence.shipped():
        returns = {env: sides["baseline"] for env, sides in one.returns.items()}
        alike = (one.trainer, one.env_steps, one.episodes, one.machine, one.versions) == wanted and one.current
        if alike and all(len(returns.get(env, ())) == arguments.seeds for env in arguments.tasks):
            print(f"the baseline is that of {settings_text(one.settings)} in the table, of {one.measured}")
            return {env: returns[env] for env in arguments.tasks}
    return None


def entry_of(arguments: argparse.Namespace, settings: Settings, baseline: Returns, own: Returns) -> Evidence:
    """One line of the table."""
    returns = {env: {"baseline": baseline[env], "setting": own[env]} for env in arguments.tasks}
    seen = non_inferiority([(sides["baseline"], sides["setting"]) for sides in returns.values()], MARGIN)
    code = commit()
    return Evidence(
        trainer=arguments.trainer, settings=settings, env_steps=arguments.env_steps, episodes=arguments.episodes,
        margin=MARGIN, returns=returns, difference=seen.value, interval=tuple(seen.interval), verdict=seen.verdict,
        code=learning_digest(*trainers.get(arguments.trainer).learning_code), machine=machine(), versions=versions(),
        commit=code.commit + " and changes" * code.dirty,
        command=shlex.join(["python", "benchmarks/learns_as_well.py", *sys.argv[1:]]),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def machine() -> str:
    described = host.describe()
    return f"{described['cpu']}, one of {described['cores_usable']} cores for each seed"


def versions() -> str:
    return host.versions_text(host.describe())


def carry(arguments: argparse.Namespace) -> int:
    """Let entries of the table that have expired hold again, where both codes train to the same bits."""
    expired = [one for one in evidence.shipped() if one.trainer == arguments.trainer and not one.current]
    held = []
    for one in expired:
        with checkouts([one.commit]) as folders:
            before, now = (bits(arguments, code, one.settings) for code in (folders[one.commit], HERE))
        print(f"{settings_text(one.settings)}: {'the same bits' if before == now else 'other bits'}, {before}, {now}")
        if before == now:
            code = learning_digest(*trainers.get(one.trainer).learning_code)
            held.append(replace(one, same_bits=(*one.same_bits, code)))
    if held:
        keep(held, arguments.file)
    return 0 if len(held) == len(expired) else 1


def bits(arguments: argparse.Namespace, code: Path, settings: Settings) -> str:
    """Digest of all numbers of the learners that short trainings with the code in a folder leave."""
    found = hashlib.sha256()
    environment = os.environ | {"PYTHONPATH": str(code)}
    for env in arguments.tasks:
        for given in (LOCK_STEP[arguments.trainer], settings | LOCK_STEP[arguments.trainer]):
            with tempfile.TemporaryDirectory() as folder:
                command = [
                    sys.executable,
                    "-m",
                    "harness",
                    "train",
                    env,
                    "--trainer",
                    arguments.trainer,
                    "--out",
                    "run",
                ]
                stated = [f"--set=settings.{name}={json.dumps(value)}" for name, value in given.items()]
                command += [f"--iterations={ITERATIONS}", *stated]
                subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
                state = torch.load(Path(folder) / "run" / "checkpoint.pt", weights_only=True)["learner"]
            for value in numbers(state):
                found.update(value)
    return found.hexdigest()[:16]


def numbers(state: Any) -> Iterator[bytes]:
    """Everything in a nested state, in its order."""
    if isinstance(state, torch.Tensor):
        yield state.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(state, Mapping):
        yield from itertools.chain.from_iterable(map(numbers, state.values()))
    elif isinstance(state, list | tuple):
        yield from itertools.chain.from_iterable(map(numbers, state))
    else:
        yield repr(state).encode()


def keep(entries: Sequence[Evidence], file: Path) -> None:
    """Put them into the table, in place of what it has of the same settings."""
    table = {(one["trainer"], settings_text(one["settings"])): one for one in json.loads(file.read_text("utf-8"))}
    table |= {(entry.trainer, settings_text(entry.settings)): asdict(entry) for entry in entries}
    write_atomic(file, json.dumps(list(table.values()), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
