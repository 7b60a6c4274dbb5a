"""How far workers that fill a replay buffer scale: measured on this machine, simulated for a cluster.

    python benchmarks/worker_scaling.py [--kinds processes,ray] [--nodes 10,100,1000] [--json]

First it measures what a rollout, its way to the learner, its insertion, a broadcast of the weights and an update cost
here (``scaling_costs.py``). Then it measures the throughput of 1 to 4 workers on this machine and puts beside it what
the model (``scaling_model.py``) makes of these costs: their ratio says how far the model can be believed. Last it
simulates clusters, with the costs of the last of the kinds, and names what is the limit: without any learning, so that
only the way of the data counts, and with ``--updates`` updates an iteration.

Takes about two minutes. The machine should do nothing else meanwhile: the costs are processor time, which that hardly
changes, but the throughput of the workers suffers.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from scaling_costs import Setting, costs_of, throughput
from scaling_model import Cluster, Costs, first_limit, limits, nodes_until, simulate

from unilab.machine.devices import usable_cores


def check_here(costs: Costs, kind: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measured and simulated throughput of some workers on this machine."""
    rows = []
    for count in options.workers:
        measured = throughput(options.setting, kind, count, options.rollouts, options.seconds)
        cluster = Cluster(0, count, usable_cores(), rollouts_per_iteration=options.rollouts)
        simulated = simulate(costs, cluster).env_steps_per_second
        rows.append(
            {"kind": kind, "workers": count, "measured": measured, "simulated": simulated,
             "ratio": simulated / measured, "limit": first_limit(costs, cluster)}
        )  # fmt: skip
    return rows


def look_abroad(costs: Costs, updates: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Clusters of several sizes, simulated; their first limit, on paper, and how busy it is in the simulation."""
    rows = []
    for nodes in options.nodes:
        cluster = cluster_of(nodes, updates, options)
        outcome = simulate(costs, cluster)
        limit = first_limit(costs, cluster)
        rows.append(
            {"nodes": nodes, "updates": updates, "limit": limit, "limit_busy": outcome.busy[limit],
             "paper": limits(costs, cluster), "supply": limits(costs, cluster)["workers"]}
            | dataclasses.asdict(outcome)
        )  # fmt: skip
    return rows


def cluster_of(nodes: int, updates: int, options: argparse.Namespace) -> Cluster:
    return Cluster(
        nodes,
        options.workers_per_node,
        usable_cores(),
        bandwidth=options.bandwidth,
        latency=options.latency,
        rollouts_per_iteration=options.rollouts,
        updates_per_iteration=updates,
    )


def beginnings(costs: Costs, updates: int, options: argparse.Namespace) -> dict[str, int | None]:
    """From how many nodes on each resource allows less than the workers could make."""
    cluster = cluster_of(1, updates, options)
    return {name: nodes_until(costs, cluster, name) for name in limits(costs, cluster) if name != "workers"}


def print_costs(costs: dict[str, Costs], setting: Setting) -> None:
    print(
        f"{setting.env}, {setting.algorithm}: rollouts of {setting.steps} steps of {setting.rows} environments, "
        f"updates with batch {setting.batch_size}; times are those of one core"
    )
    print(f"{'':<34}" + "".join(f"{kind:>14}" for kind in costs))
    for label, name, factor, unit in (
        ("a worker makes a rollout", "rollout_seconds", 1e3, "ms"),
        ("a worker hands it over", "send_seconds", 1e3, "ms"),
        ("the learner gets it", "receive_seconds", 1e3, "ms"),
        ("the learner inserts it", "insert_seconds", 1e3, "ms"),
        ("the learner broadcasts weights", "publish_seconds", 1e3, "ms"),
        ("a worker takes weights", "load_seconds", 1e3, "ms"),
        ("an update", "update_seconds", 1e3, "ms"),
        ("bytes of a rollout", "rollout_bytes", 1e-3, "kB"),
        ("bytes of its transitions", "insert_bytes", 1e-3, "kB"),
        ("bytes of the weights", "weight_bytes", 1e-3, "kB"),
    ):
        print(f"  {label:<32}" + "".join(f"{factor * getattr(one, name):>11,.3f} {unit}" for one in costs.values()))


def print_here(rows: Sequence[dict[str, Any]]) -> None:
    print(f"\nOn this machine, {usable_cores()} cores, env steps a second:")
    print(f"  {'':<11}{'workers':>8}{'measured':>11}{'simulated':>11}{'ratio':>7}  limit on paper")
    for row in rows:
        print(
            f"  {row['kind']:<11}{row['workers']:>8}{row['measured']:>11,.0f}{row['simulated']:>11,.0f}"
            f"{row['ratio']:>7.2f}  {row['limit']}"
        )


def print_abroad(rows: Sequence[dict[str, Any]], since: dict[str, int | None], options: argparse.Namespace) -> None:
    updates = rows[0]["updates"]
    what = f"{updates} updates an iteration" if updates else "without learning"
    print(
        f"\nOn a cluster, simulated, {what}: {options.workers_per_node} workers a node, "
        f"{options.bandwidth * 8e-9:g} Gbit/s, {options.rollouts} rollouts an iteration"
    )
    print(
        f"  {'nodes':>6}{'env steps/s':>13}{'of supply':>10}{'rollouts in':>13}{'weights out':>13}{'replay':>11}"
        f"{'lag':>7}  first limit"
    )
    for row in rows:
        print(
            f"  {row['nodes']:>6,}{row['env_steps_per_second']:>13,.0f}"
            f"{row['env_steps_per_second'] / row['supply']:>10.1%}"
            f"{row['rollout_bytes_per_second'] / 1e6:>8,.1f} MB/s{row['weight_bytes_per_second'] / 1e6:>8,.1f} MB/s"
            f"{row['insert_bytes_per_second'] / 1e6:>6,.1f} MB/s{row['policy_lag']:>7.1f}"
            f"  {row['limit']} ({row['limit_busy']:.0%} busy)"
        )
    told = (f"{name} from {nodes:,} nodes" for name, nodes in sorted(since.items(), key=str) if nodes is not None)
    print("  allows less than the workers could make: " + "; ".join(told))


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--kinds", default="processes,ray", help="of workers that are measured; the cluster has the last one's costs")
    add("--algorithm", choices=("sac", "td3"), default="sac")
    add("--env", default="HalfCheetah")
    add("--rows", type=int, default=16, help="environments of a worker")
    add("--steps", type=int, default=32, help="of a rollout")
    add("--batch-size", type=int, default=256, help="transitions of an update")
    add("--workers", type=numbers, default=[1, 2, 3, 4], help="on this machine")
    add("--seconds", type=float, default=5.0, help="that each number of workers is measured for")
    add("--nodes", type=numbers, default=[10, 100, 1000], help="of the clusters, beside the learner's")
    add("--workers-per-node", type=int, default=8)
    add("--bandwidth", type=float, default=1.25e9, help="bytes a second of the learner's link, in each direction")
    add("--latency", type=float, default=1e-4, help="seconds")
    add("--rollouts", type=int, default=8, help="of an iteration")
    add("--updates", type=int, default=32, help="of an iteration, where there is learning")
    add("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args()
    options.setting = Setting(options.algorithm, options.env, options.rows, options.steps, options.batch_size)
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)  # a thread that spins for another one would count as work
    os.environ.setdefault("RAY_worker_niceness", "0")  # workers and learner share the cores as the model has it
    costs = {kind: costs_of(options.setting, kind) for kind in options.kinds.split(",")}
    here = [row for kind, one in costs.items() for row in check_here(one, kind, options)]
    far = list(costs.values())[-1]
    abroad = {updates: look_abroad(far, updates, options) for updates in (0, options.updates)}
    since = {updates: beginnings(far, updates, options) for updates in abroad}
    if options.json:
        settings = vars(options) | {"setting": dataclasses.asdict(options.setting)}
        told: dict[str, Any] = {
            "arguments": settings,
            "costs": {kind: dataclasses.asdict(one) for kind, one in costs.items()},
        }
        print(json.dumps(told | {"here": here, "clusters": abroad, "limits_begin": since}))
        return
    print_costs(costs, options.setting)
    print_here(here)
    for updates, rows in abroad.items():
        print_abroad(rows, since[updates], options)


if __name__ == "__main__":
    main()
