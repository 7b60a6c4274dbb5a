"""Which nodes of a cluster may measure, without one."""

import re
from dataclasses import replace

import pytest

from harness.measure.engines.cluster import Cluster, Node, _problem
from harness.measure.engines.node import NodeFacts, facts
from harness.measure.engines.ray_engine import _gpus_up_to
from unilab.ipc.memory_budget import MemoryAvailable
from unilab.machine.devices import usable_cores

OWN = facts(".")
RESOURCES = {"CPU": float(usable_cores()), "GPU": float(len(OWN.machine["gpus"]))}


def changed(**machine: object) -> NodeFacts:
    return replace(OWN, machine=OWN.machine | machine)


@pytest.mark.parametrize(
    ("node", "resources", "problem"),
    [
        (changed(name="another host"), {}, None),
        (changed(cpu="Z80"), {}, "is another machine: .* Z80"),
        (changed(versions={"torch": "1.0"}), {}, "has other packages: torch 1.0"),
        (replace(OWN, code="0123456789"), {}, "has other code of this project"),
        (replace(OWN, has_folder=False), {}, "has no folder /"),
        (OWN, {"CPU": 0.5}, r"offers Ray 0.5 CPUs and has \d+: start Ray there without --num-cpus"),
        (OWN, {"GPU": 9}, r"offers Ray 9 GPUs and has \d+: start Ray there without --num-gpus"),
    ],
)
def test_a_node_measures_if_its_numbers_go_with_the_others(
    node: NodeFacts, resources: dict, problem: str | None
) -> None:
    found = _problem(node, OWN, RESOURCES | resources)
    if problem is None:
        assert found is None
    else:
        assert found is not None and re.match(problem, found)


def test_a_budget_is_judged_by_the_largest_node() -> None:
    def node(name: str, memory: int, free: int) -> Node:
        return Node(name, name, 2, 0, memory, MemoryAvailable(100, free, 7))

    cluster = Cluster((node("a", 90, 20), node("b", 50, 60), node("c", 40, 90)), (), "cluster-1")
    assert cluster.available() == MemoryAvailable(100, 50, 7)


def test_a_trial_sees_as_many_gpus_as_its_device_s_number_needs() -> None:
    assert [_gpus_up_to(device) for device in ("cpu", "mps", "cuda", "cuda:0", "cuda:3")] == [0, 0, 1, 1, 4]
