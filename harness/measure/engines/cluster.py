"""A Ray cluster as a study sees it: reached within a bounded time, and which of its nodes may measure.

Numbers of one study must come from equal machines and the same code. So a node measures only if its hardware, packages
and code are those of the driver's own machine, for which the suite was planned: devices, threads, memory budgets and
ceilings are then those of every node. All others are left out, each with its reason.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.measure import host as machine
from harness.measure.engines.node import NodeFacts, facts
from unilab.errors import UserError
from unilab.ipc.memory_budget import MemoryAvailable

FACTS_SECONDS = 60.0
"""for a node to start a process that imports this project"""
NODE_LABEL = "ray.io/node-id"
"""which Ray gives every node"""


@dataclass(frozen=True)
class Node:
    """One that may measure. Sizes in bytes."""

    id: str
    name: str
    """host name and address"""
    cpus: int
    gpus: int
    memory: int
    """what Ray may give away there"""
    available: MemoryAvailable


@dataclass(frozen=True)
class Cluster:
    """The nodes that may measure, and why others may not."""

    nodes: tuple[Node, ...]
    left_out: tuple[str, ...]
    machine: str
    """what they all are, as records have it"""

    def available(self) -> MemoryAvailable:
        """What the largest of them has for a repeat that is alone there."""
        best = max(self.nodes, key=lambda node: min(node.memory, node.available.host_free))
        return replace(best.available, host_free=min(best.memory, best.available.host_free))

    def alive(self) -> list[Node]:
        """The nodes that have not been lost."""
        import ray

        living = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return [node for node in self.nodes if node.id in living]


@contextmanager
def connected(address: str | None, *, insecure: bool = False) -> Iterator[Cluster]:
    """The cluster at ``address``, ``host:port`` of its head; None: that of RAY_ADDRESS or that of this machine.

    ``insecure``: one on the network may let anybody in.

    Raises:
        UserError: Ray is not installed, nothing answers, or no node may measure.
    """
    from unilab.distributed.ray.connection import OpenClusterError, connect

    try:
        disconnect = connect(address or "auto", log_to_driver=False, refuse_open=not insecure)
    except OpenClusterError as error:
        raise UserError(
            f"--engine ray: {error}. Start it with RAY_AUTH_MODE=token, or add --insecure-cluster if nobody else is in "
            "that network"
        ) from error
    except (ModuleNotFoundError, ConnectionError, ValueError) as error:
        raise UserError(f"--engine ray: {error}") from error
    try:
        yield inspect()
    finally:
        disconnect()


def inspect() -> Cluster:
    """The connected cluster's nodes.

    Raises:
        UserError: none may measure.
    """
    import ray

    own = facts(str(Path.cwd()))
    rows = [row for row in ray.nodes() if row["Alive"]]
    asked = {}
    for row in rows:
        if row["Resources"].get("CPU"):
            there = ray.remote(facts).options(num_cpus=0, max_retries=0, label_selector={NODE_LABEL: row["NodeID"]})
            asked[row["NodeID"]] = there.remote(str(Path.cwd()))
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=FACTS_SECONDS)
    nodes, left_out = [], []
    for row in rows:
        resources, known = row["Resources"], None
        try:
            known = ray.get(asked[row["NodeID"]], timeout=0)
            problem = _problem(known, own, resources)
        except KeyError:
            problem = "offers Ray no CPU"
        except ray.exceptions.GetTimeoutError:
            problem = f"did not answer within {FACTS_SECONDS:.0f} s"
        except ray.exceptions.RayError as error:
            problem = f"cannot run this project: {last_line(error)}"
        name = f"{row['NodeManagerHostname']}/{row['NodeManagerAddress']}"
        if known is None or problem is not None:
            left_out.append(f"{name} {problem}")
            continue
        cpus, gpus, memory = (int(resources.get(kind, 0)) for kind in ("CPU", "GPU", "memory"))
        nodes.append(Node(row["NodeID"], name, cpus, gpus, memory, known.available))
    if not nodes:
        reasons = "".join(f"\n  {reason}" for reason in left_out)
        raise UserError(
            "no node of this cluster can measure this study. Nodes must be like the machine on which the study is "
            f"started, {machine.fingerprint(own.machine)}. Start it on one of the nodes that are to measure{reasons}"
        )
    return Cluster(tuple(nodes), tuple(left_out), f"cluster-{machine.hardware(own.machine)}")


def _problem(node: NodeFacts, own: NodeFacts, resources: dict[str, float]) -> str | None:
    """Why the node's numbers would not compare with those of the driver's machine; None where they do."""
    cores, gpus = node.machine["cores_usable"], len(node.machine["gpus"])
    if machine.hardware(node.machine) != machine.hardware(own.machine):
        return f"is another machine: {cores} cores, {gpus} GPUs, {node.machine['cpu']}"
    if node.machine["versions"] != own.machine["versions"]:
        return f"has other packages: {machine.versions_text(node.machine)}"
    if node.code != own.code:
        return "has other code of this project: install the same version there"
    if not node.has_folder:
        return f"has no folder {Path.cwd()}"
    for what, offered, there in (("CPU", resources["CPU"], cores), ("GPU", resources.get("GPU", 0), gpus)):
        if offered != there:
            return f"offers Ray {offered:g} {what}s and has {there}: start Ray there without --num-{what.lower()}s"
    return None


def last_line(error: BaseException) -> str:
    """The last line of Ray's message; the lines above it are the traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
