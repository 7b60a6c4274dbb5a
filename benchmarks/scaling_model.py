"""How workers that fill a replay buffer scale with workers and nodes: on paper (``limits``), and by ``simulate``.

The model. A worker makes one rollout after another with the newest weights that were published when it began, and may
be ``queue_size`` finished rollouts ahead of the learner. The learner takes ``rollouts_per_iteration`` rollouts, inserts
them into the replay buffer, makes ``updates_per_iteration`` updates and publishes its weights, all in one thread.

On one machine (``nodes = 0``) workers and learner share its cores fairly, and everything passes through shared memory.
On a cluster the learner has a node of its own; each other node has ``workers_per_node`` workers with a core each. A
rollout goes over the learner's link into its node; weights go over it out of its node, once for each node and version
that a rollout there begins with. A link carries one transfer at a time in each direction, which is what fair sharing
gives on the average. Not in the model: the links of the other nodes and the switches between them, which carry less;
nodes that hand weights on to each other, which would relieve the learner's link; failures.
"""

import bisect
import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import simpy

QUANTUM = 0.002
"""seconds of a core between two looks at who else wants it"""
WARM_UP = 1 / 3
"""of the simulated rollouts, before the steady window"""


@dataclass(frozen=True)
class Costs:
    """What was measured for one kind of worker; seconds of one core."""

    env_steps: int
    """of one rollout, T times N"""
    rollout_seconds: float
    """a worker makes one rollout, its actions included"""
    send_seconds: float
    """a worker hands one over"""
    receive_seconds: float
    """the learner's thread gets one, and orders the next where it has to"""
    insert_seconds: float
    """the learner's thread puts one into the replay buffer"""
    publish_seconds: float
    """the learner's thread publishes its weights"""
    load_seconds: float
    """a worker takes new weights into its policy"""
    update_seconds: float
    rollout_bytes: int
    insert_bytes: int
    weight_bytes: int
    spread: float = 0.0
    """standard deviation of a rollout's duration over its mean"""

    @property
    def worker_seconds(self) -> float:
        """Of a worker for one rollout with the weights that it has."""
        return self.rollout_seconds + self.send_seconds


@dataclass(frozen=True)
class Cluster:
    """Machines, and how the work is set up on them."""

    nodes: int
    """that have workers, beside the learner's; 0: everything on one machine"""
    workers_per_node: int
    """on the one machine if ``nodes`` is 0"""
    cores: int
    """of the one machine"""
    bandwidth: float = 1.25e9
    """bytes a second of the learner's link in each direction"""
    latency: float = 1e-4
    """seconds"""
    rollouts_per_iteration: int = 1
    updates_per_iteration: int = 0
    queue_size: int = 2

    @property
    def workers(self) -> int:
        return max(1, self.nodes) * self.workers_per_node


@dataclass(frozen=True)
class Outcome:
    """Rates of the steady window, and the busy fraction of what can be the limit."""

    env_steps_per_second: float
    broadcasts_per_second: float
    rollout_bytes_per_second: float
    """into the learner's process"""
    weight_bytes_per_second: float
    """out of the learner's process: over the network, or one copy a broadcast into shared memory"""
    insert_bytes_per_second: float
    """into the replay buffer"""
    policy_lag: float
    """versions between the weights that acted and those of the insertion, mean"""
    busy: dict[str, float]


def learner_seconds(costs: Costs, cluster: Cluster) -> float:
    """Of the learner's thread for one iteration."""
    taken = cluster.rollouts_per_iteration * (costs.receive_seconds + costs.insert_seconds)
    return taken + cluster.updates_per_iteration * costs.update_seconds + costs.publish_seconds


def limits(costs: Costs, cluster: Cluster) -> dict[str, float]:
    """Env steps a second that each resource allows at most, were it the only one.

    With x rollouts a second, w workers, n nodes, R rollouts an iteration and a link of B bytes a second::

        workers          x <= w / worker seconds
        learner          x <= R / learner seconds
        cores            x <= cores / (worker seconds + learner seconds / R)       on one machine
        network, rollouts  x <= B / rollout bytes                                  on a cluster
        network, weights   x <= B / (weight bytes min(n / R, 1))                   on a cluster

    A node fetches a version at most once, of x / R versions a second, and only when a rollout begins there, x / n a
    second: hence the minimum.
    """
    rollouts = {
        "workers": cluster.workers / costs.worker_seconds,
        "learner": cluster.rollouts_per_iteration / learner_seconds(costs, cluster),
    }
    if cluster.nodes:
        fetched = min(cluster.nodes / cluster.rollouts_per_iteration, 1.0) * costs.weight_bytes
        rollouts["network, rollouts"] = cluster.bandwidth / costs.rollout_bytes
        rollouts["network, weights"] = cluster.bandwidth / fetched
    else:
        each = costs.worker_seconds + learner_seconds(costs, cluster) / cluster.rollouts_per_iteration
        rollouts["cores"] = cluster.cores / each
    return {name: rate * costs.env_steps for name, rate in rollouts.items()}


def first_limit(costs: Costs, cluster: Cluster) -> str:
    """What allows the least."""
    allowed = limits(costs, cluster)
    return min(allowed, key=lambda name: allowed[name])


def nodes_until(costs: Costs, cluster: Cluster, resource: str, most: int = 1_000_000) -> int | None:
    """The fewest nodes whose workers could make more than ``resource`` allows; None: not even ``most``.

    What a resource allows never grows with the nodes, so halving finds them.
    """

    def beyond(nodes: int) -> bool:
        allowed = limits(costs, replace(cluster, nodes=nodes))
        return allowed[resource] < allowed["workers"]

    if not beyond(most):
        return None
    return bisect.bisect_left(range(1, most), True, key=beyond) + 1


def simulate(costs: Costs, cluster: Cluster, *, rollouts: int | None = None, seed: int = 0) -> Outcome:
    """Play the model event by event.

    Args:
        rollouts: that the learner takes, the warm-up of a third included; None: three of every worker, 3,000 at least.
        seed: of the durations of rollouts, which are log-normal with ``costs.spread``.
    """
    return _Simulation(costs, cluster, seed).run(rollouts or max(3000, 3 * cluster.workers))


class _Simulation:
    """One simulation. Times are seconds."""

    def __init__(self, costs: Costs, cluster: Cluster, seed: int) -> None:
        self._costs, self._cluster = costs, cluster
        self._random = np.random.default_rng(seed)
        self._now = simpy.Environment()
        contended = not cluster.nodes and cluster.workers + 1 > cluster.cores
        self._cores = simpy.Resource(self._now, cluster.cores) if contended else None
        self._into, self._out = simpy.Resource(self._now), simpy.Resource(self._now)
        self._arrived = simpy.Store(self._now)
        self._version = 0
        self._fetched: list[dict[int, simpy.Event]] = [{} for _ in range(max(1, cluster.nodes))]
        self._totals = dict.fromkeys(
            ("rollouts", "versions", "into", "out", "lag", "workers", "learner", "link in", "link out"), 0.0
        )

    def run(self, rollouts: int) -> Outcome:
        for node in range(max(1, self._cluster.nodes)):
            for _ in range(self._cluster.workers_per_node):
                self._now.process(self._worker(node))
        self._now.process(self._learner())
        began = self._until(max(1, round(WARM_UP * rollouts)))
        before = dict(self._totals)
        seconds = self._until(rollouts) - began
        return self._outcome({name: total - before[name] for name, total in self._totals.items()}, seconds)

    def _until(self, rollouts: int) -> float:
        """Play until so many have been taken; the time."""
        while self._totals["rollouts"] < rollouts:
            self._now.step()
        return self._now.now

    def _outcome(self, steady: dict[str, float], seconds: float) -> Outcome:
        costs, cluster = self._costs, self._cluster
        rollouts = steady["rollouts"] / seconds
        busy = {"workers": steady["workers"] / seconds / cluster.workers, "learner": steady["learner"] / seconds}
        if cluster.nodes:
            busy |= {"network, rollouts": steady["link in"] / seconds, "network, weights": steady["link out"] / seconds}
        else:
            busy["cores"] = (steady["workers"] + steady["learner"]) / seconds / cluster.cores
        return Outcome(
            env_steps_per_second=rollouts * costs.env_steps,
            broadcasts_per_second=steady["versions"] / seconds,
            rollout_bytes_per_second=steady["into"] / seconds,
            weight_bytes_per_second=steady["out"] / seconds,
            insert_bytes_per_second=rollouts * costs.insert_bytes,
            policy_lag=steady["lag"] / steady["rollouts"],
            busy=busy,
        )

    def _worker(self, node: int) -> Generator[Any, Any, None]:
        ahead = simpy.Container(self._now, self._cluster.queue_size, init=self._cluster.queue_size)
        loaded = None
        while True:
            yield ahead.get(1)
            version = self._version
            yield from self._fetch(node, version)
            seconds = self._rollout_seconds() + self._costs.send_seconds
            if version != loaded:
                seconds, loaded = seconds + self._costs.load_seconds, version
            yield from self._compute(seconds, "workers")
            self._now.process(self._deliver(version, ahead))

    def _rollout_seconds(self) -> float:
        mean, spread = self._costs.rollout_seconds, self._costs.spread
        if not spread:
            return mean
        sigma = math.sqrt(math.log1p(spread**2))
        return mean * self._random.lognormal(-(sigma**2) / 2, sigma)

    def _fetch(self, node: int, version: int) -> Generator[Any, Any, None]:
        """Have the weights on the node; workers that want them meanwhile wait for the same transfer."""
        if not self._cluster.nodes:
            return
        known = self._fetched[node]
        if version not in known:
            known.clear()  # nobody begins with an older version any more; those that wait for it hold its event
            known[version] = self._now.process(self._transfer(self._out, "out", self._costs.weight_bytes))
        yield known[version]

    def _deliver(self, version: int, ahead: simpy.Container) -> Generator[Any, Any, None]:
        if self._cluster.nodes:
            yield from self._transfer(self._into, "in", self._costs.rollout_bytes)
        self._totals["into"] += self._costs.rollout_bytes
        yield self._arrived.put((version, ahead))

    def _transfer(self, link: simpy.Resource, direction: str, size: int) -> Generator[Any, Any, None]:
        with link.request() as turn:
            yield turn
            seconds = size / self._cluster.bandwidth
            yield self._now.timeout(seconds)
            self._totals[f"link {direction}"] += seconds
            if direction == "out":
                self._totals["out"] += size
        yield self._now.timeout(self._cluster.latency)

    def _learner(self) -> Generator[Any, Any, None]:
        costs, cluster = self._costs, self._cluster
        while True:
            for _ in range(cluster.rollouts_per_iteration):
                version, ahead = yield self._arrived.get()
                yield ahead.put(1)
                yield from self._compute(costs.receive_seconds + costs.insert_seconds, "learner")
                self._totals["rollouts"] += 1
                self._totals["lag"] += self._version - version
            updates = cluster.updates_per_iteration * costs.update_seconds
            yield from self._compute(updates + costs.publish_seconds, "learner")
            self._version += 1
            self._totals["versions"] += 1
            if not cluster.nodes:
                self._totals["out"] += costs.weight_bytes

    def _compute(self, seconds: float, who: str) -> Generator[Any, Any, None]:
        """Use a core for so long: one of one's own, or of those that all share, a quantum at a time."""
        if self._cores is None:
            yield self._now.timeout(seconds)
            self._totals[who] += seconds
            return
        while seconds > 0:
            with self._cores.request() as turn:
                yield turn
                part = min(QUANTUM, seconds)
                yield self._now.timeout(part)
                self._totals[who] += part
                seconds -= part
