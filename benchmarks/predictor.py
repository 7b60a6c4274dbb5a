"""Does prediction find good configurations with fewer trials, and how right is it?

Measure every configuration of a grid once, some six minutes, then replay the search against what was measured:

    python -m harness run suites/appo_grid.yaml
    python benchmarks/predictor.py results/appo_grid/*

The predicted throughput of each trial is compared with the measured one (Spearman's rank correlation), and predicted
memory with measured peaks, as itemised and as calibrated when the trial began. If the study has measured its whole
search space, the search is replayed with and without prediction: the baseline, then what the search proposes, each
trial answered by the median that the grid has for it, until one is within 5 % of the grid's best. Nothing is measured
again, so a replay takes seconds, and is repeated with several seeds of the sampler.

The exit code is 1, and the bounds are named, if the first objective is predicted with a correlation below 0.85, if
memory differs by more than 8 % from what was expected, or if the search with prediction needs more than a quarter of
the grid.

Any other study works as well, without the replay, in as many as are named:

    python -m harness run suites/appo_throughput.yaml
    python -m harness run suites/offpolicy_throughput.yaml
    python benchmarks/predictor.py results/appo_throughput/* results/offpolicy_throughput/*

One sample of each trial, one after the other, says as much about a shared host, whose speed changes, as about the
trials. If the confirmation has measured all of them, its values count: its repeats take turns. A study of ten trials:

    python -m harness run suites/appo_throughput.yaml --set "confirm={top: 9, repeats: 1}" --minutes 15
"""

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna

from harness.measure.record import Phase, Record, read_records, typical
from harness.predict import ceilings, ranking
from harness.predict import plan as plans
from harness.predict import throughput as predict
from harness.predict.plan import Plan
from harness.predict.ranking import SEEDED
from harness.predict.throughput import RATES
from harness.stats.inference import spearman
from harness.study.best_trials import judged_by
from harness.suite.space import Params, in_memory, propose

NEAR = 0.05
"""of the grid's best"""
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
        values = measured(plan, records)
        if len(values) == plan.space.size:
            found += show_replays(plan, folder, values, arguments.seeds)
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
    predictor = predict.predictor(plan, kept)
    if predictor is None or kept is None:
        print("  nothing was predicted in this study")
        return []
    print(
        f"  ceilings: {len(kept.measured)} costs, measured in {kept.seconds:.0f} s; {kept.disturbed or 'undisturbed'}"
    )
    missed = []
    for metric in RATES:
        pairs = [(predicted(plan, predictor, own, metric), typical(own, metric)) for own in by_trial(records).values()]
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


def predicted(plan: Plan, predictor: predict.Predictor, own: Sequence[Record], metric: str) -> float:
    """A rate of one trial; NaN where it has no prediction."""
    if metric == RECORDED:
        return typical(own, "predicted_env_steps_per_second")
    rates = predictor.rates(plan.settings(own[0].params))
    return math.nan if rates is None else float(getattr(rates, metric))


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


def measured(plan: Plan, records: Sequence[Record]) -> dict[str, float]:
    """The first objective of each configuration that was measured."""
    metric = plan.suite.objectives[0].metric
    return {key(plan, own[0].params): typical(own, metric) for own in by_trial(records).values()}


def key(plan: Plan, params: Params) -> str:
    return repr(sorted((name, repr(value)) for name, value in params.items() if name in plan.space.dimensions))


def show_replays(plan: Plan, folder: Path, values: Mapping[str, float], seeds: int) -> list[str]:
    """Trials until the search is near the grid's best, with prediction and without; the bounds that were missed."""
    predictor = predict.predictor(plan, ceilings.load(folder / ceilings.FILE))
    seeded = [] if predictor is None else ranking.seeds(plan, ranking.rank(plan, ranking.candidates(plan), predictor))
    quarter, missed = math.floor(plan.space.size / 4), []
    print(f"  trials until within {NEAR:.0%} of the best of {len(values)} configurations, over {seeds} seeds:")
    for name, first in ((f"with prediction ({SEEDED} seeds of it)", seeded), ("without", [])):
        counts = [replay(plan, values, first, seed) for seed in range(seeds)]
        enough = sum(count <= quarter for count in counts) / len(counts)
        text = f"median {statistics.median(counts):4.0f}, {min(counts)} to {max(counts)}"
        print(f"    {name:<32} {text}; within a quarter of the grid ({quarter}) in {enough:.0%}")
        if first and enough < 1:
            missed.append(f"search {name}: {text} trials, bound {quarter}, a quarter of the grid")
    return missed


def replay(plan: Plan, values: Mapping[str, float], seeded: Sequence[Params], seed: int) -> int:
    """The number of trials that the search needs, the baseline among them."""
    objective = plan.suite.objectives[0]
    best = max(values.values()) if objective.direction == "maximize" else min(values.values())
    study = in_memory([objective.direction])
    waiting = [{name: plan.baseline[name] for name in plan.space.dimensions}, *seeded]
    for count in range(1, len(values) + 1):
        encoded = plan.space.encode(waiting.pop(0)) if waiting else None
        encoded = encoded or propose(study, plan.space, "tpe", seed)
        assert encoded is not None, "a grid that is measured as a whole has a trial left until the best is found"
        value = values[key(plan, plan.space.decode(encoded))]
        if abs(value / best - 1) <= NEAR:
            return count
        made = optuna.trial.create_trial(params=encoded, distributions=dict(plan.space.dimensions), values=[value])
        study.add_trial(made)
    raise AssertionError("the best configuration is in the grid")


if __name__ == "__main__":
    raise SystemExit(main())
