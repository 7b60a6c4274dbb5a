"""Repeats on the nodes of a Ray cluster.

A repeat gets a *place*: an actor that takes all CPUs and GPUs of a node, so that nothing else that Ray starts measures
beside it, or, where nodes are shared, as much as the repeat needs; and always the memory of its budget. The search asks
for the next work when the one before has got its place. A repeat whose node is lost begins again on another node, once.
"""

import os
import queue
import selectors
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from harness.measure.engines.blocks import Engine
from harness.measure.engines.cluster import NODE_LABEL, Cluster, Node, last_line
from harness.measure.engines.node import Ended, Place
from harness.measure.process import Job, Outcome
from harness.measure.record import inside
from harness.measure.stop import StopSignal
from harness.trainers import trainer as trainers
from unilab.errors import UserError
from unilab.ipc.memory_budget import MemoryAvailable

END_SECONDS = 4.5
"""for all nodes to end their repeats"""
CHANCES = 2
"""times that a repeat is begun, when nodes are lost under it"""
SHARED_MARGIN = 1.25
"""what a repeat may take of its budget where nodes are shared: predictions are not exact"""
NO_WORK = -1
PASSED_ON = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONPATH")


@dataclass
class _Running:
    """A job and the place that it has, or waits for."""

    job: Job
    place: Any
    losses: int
    """of nodes, under this job"""
    node: Node | None = None
    """None until the place has been granted"""


class RayEngine(Engine):
    """Use as a context manager: its end ends what runs.

    Args:
        share_nodes: repeats share nodes, as their CPUs, GPUs and memory allow.
        say: is told of lost nodes.
    """

    def __init__(
        self, cluster: Cluster, stop: StopSignal, *, share_nodes: bool = False, say: Callable[[str], None] = print
    ) -> None:
        self._cluster, self._stop, self._say = cluster, stop, say
        self.machine, self.alone = cluster.machine, not share_nodes
        self._running: dict[int, _Running] = {}
        self._homes: dict[int, Node] = {}
        """where each work had its latest place: its next job goes there too"""
        self._replies: queue.SimpleQueue[tuple[int, Any, Any]] = queue.SimpleQueue()
        """work, the place that was asked (a lost one may answer late) and its answer"""
        self._wake_reader, self._wake_writer = os.pipe()  # never closed: Ray's threads may answer late
        self._nodes = list(cluster.nodes)
        """those that are alive, as far as is known"""
        # Ray reports lost nodes on stdout, where a program may be reading.
        self._elsewhere = redirect_stdout(sys.stderr)

    def __enter__(self) -> "RayEngine":
        self._elsewhere.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        ending = [one.place.end.remote() for one in self._running.values() if one.node is not None]
        if ending:
            ray.wait(ending, num_returns=len(ending), timeout=END_SECONDS)
        for one in self._running.values():
            ray.kill(one.place)
        self._elsewhere.__exit__(*error)

    @property
    def places(self) -> int:
        return len(self._nodes)

    def available(self) -> MemoryAvailable:
        return self._cluster.available()

    @contextmanager
    def alone_here(self) -> Iterator[None]:
        here = ray.get_runtime_context().get_node_id()
        own = [node for node in self._nodes if node.id == here]
        if not own:  # no repeat runs on this machine
            yield
            return
        place = self._place(own, own[0].cpus, own[0].gpus, 0)
        try:
            self._listen(NO_WORK, place, place.end.remote())
            while self._next_reply()[1] is not place:
                pass
            yield
        finally:
            ray.kill(place)

    def has_room(self) -> bool:
        waiting = any(one.node is None for one in self._running.values())
        return not waiting and not (self.alone and len(self._running) >= self.places)

    def start(self, work: int, jobs: Sequence[Job]) -> None:
        (job,) = jobs
        self._nodes = self._cluster.alive() or self._nodes
        home = [node for node in self._nodes if node is self._homes.get(work)]
        self._begin(work, job, home or self._nodes)

    def wait(self) -> tuple[int, list[Outcome]] | None:
        while True:
            work, place, answer = self._next_reply()
            running = self._running.get(work)
            if running is None or running.place is not place:
                continue
            if isinstance(answer, str):  # the node that the place was granted on
                running.node = self._homes[work] = next(node for node in self._cluster.nodes if node.id == answer)
                self._listen(work, place, place.reports.remote(None))
                return None
            outcome: Outcome | None = None
            if isinstance(answer, ray.exceptions.RayTaskError):
                outcome = Outcome("failed", error=f"{answer.cause or answer}")
            elif isinstance(answer, BaseException):
                outcome = self._lost(work, running, answer)
            else:
                lines, ended = answer
                if ended is not None:
                    _write(ended, Path(running.job.spec.folder))
                    outcome = ended.outcome
                reason = None
                for progress in lines:
                    reason = reason or running.job.on_progress(progress)
                if ended is None:
                    self._listen(work, place, place.reports.remote(reason))
            if outcome is not None:
                outcome.result["node"] = "" if running.node is None else running.node.name
                del self._running[work]
                ray.kill(place)
                return work, [outcome]

    # -- one job

    def _begin(self, work: int, job: Job, nodes: list[Node], losses: int = 0) -> None:
        limits, node = job.limits, max(self._nodes, key=lambda node: node.memory)
        needs = node.cpus, node.gpus, job.host_bytes  # all nodes have equally many CPUs and GPUs
        if not self.alone:
            trainer, settings = trainers.get(job.spec.trainer), job.spec.settings
            threads = sum(trainer.threads(settings).values()) or node.cpus
            devices = [(trainer.defaults() | settings)[name] for name in trainer.device_settings]
            most = int(SHARED_MARGIN * job.host_bytes)
            needs = min(threads, node.cpus), max(map(_gpus_up_to, devices), default=0), min(most, node.memory)
            if most:
                limits = replace(limits, host_bytes=min(most, limits.host_bytes or most))
        place = self._place(nodes, *needs)
        self._running[work] = _Running(job, place, losses)
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self._listen(work, place, place.begin.remote(job.spec, limits, str(Path.cwd()), environment))

    def _lost(self, work: int, running: _Running, error: BaseException) -> Outcome | None:
        """Begin again elsewhere; or give up, and say so.

        Raises:
            UserError: there is no node any more.
        """
        where = "a node" if running.node is None else f"node {running.node.name}"
        self._nodes = self._cluster.alive()
        if not self._nodes:
            raise UserError("all nodes are lost; start the cluster and run the same command again to go on")
        if running.losses + 1 >= CHANCES:
            return Outcome("failed", error=f"its node was lost {CHANCES} times: {where}, {last_line(error)}")
        self._say(f"{where} is lost; what it measured begins again on another one")
        ray.kill(running.place)
        # It may still be listed for some seconds; and one that lost no more than the place is better than none.
        others = [node for node in self._nodes if node is not running.node]
        self._begin(work, running.job, others or self._nodes, running.losses + 1)
        return None

    # -- Ray

    def _place(self, nodes: list[Node], cpus: int, gpus: int, memory: int) -> Any:
        actor: Any = ray.remote(Place)
        where = {NODE_LABEL: f"in({','.join(node.id for node in nodes)})"}
        return actor.options(
            num_cpus=cpus, num_gpus=gpus, memory=memory, label_selector=where, max_concurrency=2
        ).remote()  # fmt: skip

    def _listen(self, work: int, place: Any, ref: Any) -> None:
        """Wake whoever waits as soon as the place answers."""

        def answered(future: Any) -> None:
            error = future.exception()
            self._replies.put((work, place, future.result() if error is None else error))
            os.write(self._wake_writer, b"x")

        ref.future().add_done_callback(answered)

    def _next_reply(self) -> tuple[int, Any, Any]:
        """Wait for one.

        Raises:
            Stopped: a signal came.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._stop.fd, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while True:
                self._stop.check()
                if self._wake_reader in {key.fd for key, _ in selector.select()}:
                    os.read(self._wake_reader, 1)
                    return self._replies.get()


def _gpus_up_to(device: str) -> int:
    """GPUs that Ray has to give so that a trial finds this one: it sees those from 0 on."""
    kind, _, index = device.partition(":")
    return 1 + int(index or 0) if kind == "cuda" else 0


def _write(ended: Ended, folder: Path) -> None:
    """What the repeat left, where the study keeps it."""
    for name, content in ended.files.items():
        path = folder / name
        if not inside(name) or not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"a node sent a file that would lie outside of its repeat's folder: {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
