"""Does the search find what is best, and how right are its predictions?

Measure every configuration of a grid, the best quarter of them four times, and search it again on paper:

    python -m harness run suites/appo_grid.yaml
    python benchmarks/predictor.py results/appo_grid/*

The predicted throughput of each trial is compared with the measured one (Spearman's rank correlation), and predicted
memory with measured peaks, as itemised and as calibrated when the trial began. If the study has measured its whole
search space, the search is replayed with and without prediction: the baseline, then what it expects the most of, until
it ends by itself or has no time left, and a second look at the best. Each look is answered by one of the repeats that
the grid has. A search has an eighth of the time that it took to measure the grid once, ceilings, second look and starts
of processes included. Nothing is measured again, so a replay takes seconds, and is repeated with several seeds.

The exit code is 1, and the bounds are named, if the first objective is predicted with a correlation below 0.85, if
memory differs by more than 8 % from what was expected, or if the median search with prediction finds something that is
more than 5 % below the best. In a replay a first look is as exact as the grid's longer ones.

Three grids, 40 to 50 minutes each on 2 cores:

    python -m harness run suites/appo_grid.yaml
    python -m harness run suites/appo_grid.yaml --set env=Ant
    python -m harness run suites/sac_grid.yaml
    python benchmarks/predictor.py results/appo_grid/* results/sac_grid/*

Any other study works as well, without the replay, in as many as are named:

    python -m harness run suites/appo_throughput.yaml
    python -m harness run suites/offpolicy_throughput.yaml
    python benchmarks/predictor.py results/appo_throughput/* results/offpolicy_throughput/*

One sample of each trial, one after the other, says as much about a shared host, whose speed changes, as about the
trials. If the confirmation has measured all of them, its values count: its repeats take turns. A study of ten trials:

    python -m harness run suites/appo_throughput.yaml --set "confirm={top: 9, repeats: 1}" --minutes 15
"""

import argparse
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.measure.record import Phase, Record, read_records, typical
from harness.predict import ceilings, ranking
from harness.predict import plan as plans
from harness.predict.next_trial import next_trial
from harness.predict.plan import Plan
from harness.predict.ranking import Candidate, Prediction
from harness.stats.inference import spearman
from harness.study.best_trials import judged_by
from harness.suite.metrics import RATES
from harness.suite.schema import Confirm, Sampler
from harness.suite.space import Params

NEAR = 0.05
"""below the grid's best"""
PART = 1 / 8
"""of the grid's time that a search has"""
CORRELATION = 0.85
"""Spearman's, of the first objective: the least there should be"""
MEMORY = 0.08
"""the most that a peak should differ from what was expected of it when the trial began"""
RECORDED = "env_steps_per_second"
"""the rate whose prediction each record has"""


def main() -> int:
    arguments = parser().parse_args()
    missed: list[str] = []
    for folder in arguments.studies:
        records = [record for record in read_records(folder / "trials.jsonl") if record.state == "complete"]
        plan = plans.make(folder / "suite.yaml")
        print(f"{folder}: {len(records)} measured repeats of {len(by_trial(records))} trials")
        found = [*show_prediction(plan, folder, records), *show_memory(records)]
        grid = measured(plan, records)
        if plan.suite.sampler.name == "grid" and len(grid) == len(plan.configurations):
            found += show_replays(plan, folder, grid, arguments.seeds)
        missed += [f"{folder}: {what}" for what in found]
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("studies", nargs="+", type=Path, metavar="STUDY", help="folders of studies")
    top.add_argument("--seeds", type=int, default=20, metavar="N", help="of the sampler, for the replay; default: 20")
    return top


def by_trial(records: Sequence[Record]) -> dict[int, list[Record]]:
    """The repeats that count, by trial: of the confirmation if it has all trials, otherwise of the search."""
    confirmed, searched = (
        {record.trial for record in records if record.phase == phase} for phase in ("confirm", "search")
    )
    trials = sorted(confirmed | searched)
    phase: Phase = "confirm" if confirmed >= searched else "search"
    own = {trial: judged_by([r for r in records if r.trial == trial], phase) for trial in trials}
    return {trial: counted for trial, counted in own.items() if counted}


def show_prediction(plan: Plan, folder: Path, records: Sequence[Record]) -> list[str]:
    """Rank correlation of each predicted rate with the measured one, across trials; the bounds that were missed.

    Env steps as the study predicted them before it measured, by its records; the other rates, which no record has, with
    today's code.
    """
    kept = ceilings.load(folder / ceilings.FILE)
    if kept is None:
        print("  nothing was predicted in this study")
        return []
    print(
        f"  ceilings: {len(kept.measured)} costs, measured in {kept.seconds:.0f} s; {kept.disturbed or 'undisturbed'}"
    )
    known, missed = Prediction(plan, kept), []
    for metric in RATES:
        pairs = [(predicted(known, own, metric), typical(own, metric)) for own in by_trial(records).values()]
        pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
        ratios = sorted(measured / predicted for predicted, measured in pairs)
        correlation = spearman(*zip(*pairs, strict=True)) if len(pairs) > 2 else math.nan
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}, median {statistics.median(ratios):.2f}" if ratios else "-"
        how = "as recorded" if metric == RECORDED else "recomputed"
        text = f"Spearman {correlation:5.2f} over {len(pairs)} trials"
        print(f"  {metric:<21} {how:<11} {text}; measured / predicted {spread}")
        if metric == plan.suite.objectives[0].metric and not correlation >= CORRELATION:
            missed.append(f"{metric}: {text}, bound {CORRELATION}")
    return missed


def predicted(known: Prediction, own: Sequence[Record], metric: str) -> float:
    """A rate of one trial; NaN where it has no prediction."""
    if metric == RECORDED:
        return typical(own, "predicted_env_steps_per_second")
    workload = known.workload(known.plan.settings(own[0].params))
    return float(getattr(known.rates(workload), metric))


def show_memory(records: Sequence[Record]) -> list[str]:
    """Measured peaks over what was predicted and over what was expected from past runs; the bounds that were missed."""
    missed = []
    for name, field in (("itemised", "budget_host_bytes"), ("calibrated", "calibrated_host_bytes")):
        ratios = sorted(r.peak_host_bytes / getattr(r, field) for r in records if getattr(r, field))
        if ratios:
            worst = max(abs(ratio - 1) for ratio in ratios)
            text = f"measured / predicted {ratios[0]:.3f} to {ratios[-1]:.3f}, {worst:.1%} at most"
            print(f"  memory, {name:<10} {text}")
            if name == "calibrated" and worst > MEMORY:
                missed.append(f"memory, {name}: {text}, bound {MEMORY:.0%}")
    return missed


@dataclass(frozen=True)
class Configuration:
    """One of a grid, as it was measured: the first objective of each repeat, and what a repeat took."""

    values: tuple[float, ...]
    seconds: float

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)


def measured(plan: Plan, records: Sequence[Record]) -> dict[str, Configuration]:
    """The configurations that were measured, by what they change; of all repeats that did not take turns."""
    metric, found = plan.suite.objectives[0].metric, dict[str, list[Record]]()
    for record in records:
        if not record.in_turns and math.isfinite(record.metric(metric)):
            found.setdefault(key(plan, record.params), []).append(record)
    return {
        which: Configuration(tuple(r.metric(metric) for r in own), statistics.fmean(r.wall_seconds for r in own))
        for which, own in found.items()
    }


def key(plan: Plan, params: Params) -> str:
    searched = {name: value for name, value in params.items() if name in plan.space.dimensions}
    return plan.space.identity(plan.effective(searched))


def show_replays(plan: Plan, folder: Path, grid: Mapping[str, Configuration], seeds: int) -> list[str]:
    """How near to the best a search comes in its part of the grid's time; the bounds that were missed."""
    kept = ceilings.load(folder / ceilings.FILE)
    ranked = [] if kept is None else Prediction(plan, kept, ranking.candidates(plan, kept.cores)).ranking
    whole, missed = sum(one.seconds for one in grid.values()), []
    print(f"  a search of these {len(grid)} configurations, measured in {whole / 60:.0f} minutes, over {seeds} seeds:")
    for name, known in (("with prediction", ranked), ("without", [])):
        before = kept.seconds if kept is not None and known else 0.0
        found = [replay(plan, grid, known, before, PART * whole, seed) for seed in range(seeds)]
        short, trials, seconds = (statistics.median(column) for column in zip(*found, strict=True))
        near = sum(one[0] <= NEAR for one in found)
        text = f"{short:.1%} below the best (median; {max(found)[0]:.1%} at most; {NEAR:.0%} or less in {near} of them)"
        print(f"    {name:<16} {text}, {trials:.0f} trials, {seconds / whole:.0%} of the grid's time")
        if known and not short <= NEAR:
            missed.append(f"search {name}: {short:.1%} below the best, bound {NEAR:.0%}")
    return missed


def replay(
    plan: Plan, grid: Mapping[str, Configuration], known: Sequence[Candidate], before: float, most: float, seed: int
) -> tuple[float, int, float]:
    """How far below the best what a search found is, as a part; its trials, and its seconds.

    Args:
        plan: of the grid.
        grid: what is answered: of a configuration's repeats one that is drawn, for a second look another one.
        known: what is predicted.
        before: seconds that the ceilings took.
        most: seconds that the search has.
        seed: of the search, and of the answers.
    """
    suite = dataclasses.replace(plan.suite, sampler=Sampler("auto", seed), confirm=Confirm(top=1))
    plan, random = dataclasses.replace(plan, suite=suite), np.random.default_rng(seed)
    answers = {which: random.permutation(one.values) for which, one in grid.items()}
    tried: list[tuple[Params, float | None]] = []
    params, seconds = plan.configurations[0], before
    looks = plan.again().second_look * statistics.fmean(one.seconds for one in grid.values())
    while True:
        one = grid[key(plan, params)]
        tried.append((params, answers[key(plan, params)][0]))
        seconds += one.seconds - plan.saved_seconds
        following = next_trial(plan, known, tried)
        if following is None or following.ends or seconds + one.seconds - plan.saved_seconds + looks > most:
            break
        params = following.params
    sign = 1 if plan.suite.objectives[0].direction == "maximize" else -1
    best = sorted(tried, key=lambda pair: -sign * (pair[1] or 0.0))[: max(1, plan.again().second_look)]
    chosen = max((key(plan, params) for params, _ in best), key=lambda which: sign * answers[which][:2].mean())
    often = max(len(one.values) for one in grid.values())
    top = max(sign * one.mean for one in grid.values() if len(one.values) == often)
    return 1 - sign * grid[chosen].mean / abs(top), len(tried), seconds + looks


if __name__ == "__main__":
    raise SystemExit(main())
