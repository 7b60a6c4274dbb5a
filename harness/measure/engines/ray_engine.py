"""Repeats on the nodes of a Ray cluster.

A work gets a *place*: an actor that takes all CPUs and GPUs of a node, so that nothing else that Ray starts measures
beside it, or, where nodes are shared, as much as its repeats need; and always the memory of its budget. The search asks
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
from types import TracebackType
from typing import Any

import ray

from harness.measure.engines.blocks import Job
from harness.measure.engines.cluster import NODE_LABEL, Cluster, ClusterError, Node, last_line
from harness.measure.engines.node import Assignment, Ended, Place, Reports
from harness.measure.process import Outcome
from harness.measure.record import inside
from harness.measure.stop import StopSignal
from harness.trainers import trainer as trainers
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
class _Seat:
    """A work and its place."""

    job: Job
    place: Any = None
    needs: tuple[int, int, int] = (0, 0, 0)
    """CPUs, GPUs and bytes that the place has"""
    node: Node | None = None
    """None until the place has been granted"""
    losses: int = 0
    """of the job that runs"""


Reply = tuple[int, Any, Any]
"""work, the place that was asked (a lost one may answer late) and its answer"""


class RayEngine:
    """See ``harness.measure.engines.blocks.Engine``. Use as a context manager: its end ends what runs.

    Args:
        cluster: connected.
        stop: is heard while waiting.
        share_nodes: repeats share nodes, as their CPUs, GPUs and memory allow.
        say: is told of lost nodes.
    """

    in_turns = False

    def __init__(
        self, cluster: Cluster, stop: StopSignal, *, share_nodes: bool = False, say: Callable[[str], None] = print
    ) -> None:
        self._cluster = cluster
        self._stop = stop
        self._say = say
        self.alone = not share_nodes
        self._seats: dict[int, _Seat] = {}
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._wake_reader, self._wake_writer = os.pipe()  # never closed: Ray's threads may answer late
        self._nodes = list(cluster.nodes)
        """those that are alive, as far as is known"""
        # Ray reports lost nodes on stdout, where a program may be reading.
        self._elsewhere = redirect_stdout(sys.stderr)

    def __enter__(self) -> "RayEngine":
        self._elsewhere.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        ending = [seat.place.end.remote() for seat in self._seats.values() if seat.node is not None]
        if ending:
            ray.wait(ending, num_returns=len(ending), timeout=END_SECONDS)
        for work in list(self._seats):
            self.leave(work)
        self._elsewhere.__exit__(kind, error, tb)

    @property
    def places(self) -> int:
        return len(self._nodes)

    @property
    def machine(self) -> str:
        return self._cluster.machine

    def available(self) -> MemoryAvailable:
        return self._cluster.available()

    @contextmanager
    def alone_here(self) -> Iterator[None]:
        here = ray.get_runtime_context().get_node_id()
        own = [node for node in self._nodes if node.id == here]
        if not own:  # no repeat runs on this machine
            yield
            return
        place = self._actor(own, own[0].cpus, own[0].gpus, 0)
        try:
            self._listen(NO_WORK, place, place.end.remote())
            while self._next_reply()[1] is not place:
                pass
            yield
        finally:
            ray.kill(place)

    def has_room(self) -> bool:
        waiting = any(seat.node is None for seat in self._seats.values())
        return not waiting and not (self.alone and len(self._seats) >= self.places)

    def start(self, work: int, jobs: Sequence[Job]) -> None:
        (job,) = jobs
        seat = self._seats.get(work)
        if seat is None:
            self._nodes = self._cluster.alive() or self._nodes
            self._seats[work] = seat = _Seat(job)
            self._take_place(seat, self._nodes)
        seat.job, seat.losses = job, 0
        if seat.node and any(need > has for need, has in zip(self._needs(job), seat.needs, strict=True)):
            ray.kill(seat.place)  # the next configuration of a block needs more, of the same node
            self._take_place(seat, [seat.node])
        self._begin(work, seat)

    def leave(self, work: int) -> None:
        seat = self._seats.pop(work, None)
        if seat is not None:
            ray.kill(seat.place)

    def wait(self) -> tuple[int, list[Outcome]] | None:
        while True:
            work, place, answer = self._next_reply()
            seat = self._seats.get(work)
            if seat is None or seat.place is not place:
                continue
            if isinstance(answer, str):  # the node that the place was granted on
                seat.node = next(node for node in self._cluster.nodes if node.id == answer)
                self._listen(work, place, place.reports.remote(None))
                return None
            if isinstance(answer, ray.exceptions.RayTaskError):
                outcome: Outcome | None = self._failed(seat, f"{answer.cause or answer}")
            elif isinstance(answer, BaseException):
                outcome = self._lost(work, seat, answer)
            else:
                outcome = self._heard(work, seat, answer)
            if outcome is not None:
                return work, [outcome]

    # -- one work

    def _begin(self, work: int, seat: _Seat) -> None:
        job, limits = seat.job, seat.job.limits
        if not self.alone and job.host_bytes:
            most = int(SHARED_MARGIN * job.host_bytes)
            limits = replace(limits, host_bytes=min(most, limits.host_bytes or most))
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        assignment = Assignment(job.spec, limits, str(Path.cwd()), environment)
        self._listen(work, seat.place, seat.place.begin.remote(assignment))

    def _heard(self, work: int, seat: _Seat, reports: Reports) -> Outcome | None:
        """Show progress, and ask for more or take the end in."""
        lines, ended = reports
        reason = None
        for progress in lines:
            reason = reason or seat.job.on_progress(progress)
        if ended is None:
            self._listen(work, seat.place, seat.place.reports.remote(reason))
            return None
        assert seat.node is not None
        _write(ended, Path(seat.job.spec.folder))
        ended.outcome.node = seat.node.name
        return ended.outcome

    def _lost(self, work: int, seat: _Seat, error: BaseException) -> Outcome | None:
        """Begin again elsewhere; or give up, and say so.

        Raises:
            ClusterError: there is no node any more.
        """
        seat.losses += 1
        where = "a node" if seat.node is None else f"node {seat.node.name}"
        ray.kill(seat.place)
        self._nodes = self._cluster.alive()
        if not self._nodes:
            raise ClusterError("all nodes are lost; start the cluster and run the same command again to go on")
        if seat.losses >= CHANCES:
            del self._seats[work]  # the next job of the work, if it has one, takes a place anew
            return self._failed(seat, f"its node was lost {CHANCES} times: {where}, {last_line(error)}")
        self._say(f"{where} is lost; what it measured begins again on another one")
        # It may still be listed for some seconds; and one that lost no more than the place is better than none.
        others = [node for node in self._nodes if node is not seat.node]
        self._take_place(seat, others or self._nodes)
        self._begin(work, seat)
        return None

    def _failed(self, seat: _Seat, error: str) -> Outcome:
        return Outcome("failed", error=error, node="" if seat.node is None else seat.node.name)

    # -- Ray

    def _take_place(self, seat: _Seat, nodes: list[Node]) -> None:
        seat.needs, seat.node = self._needs(seat.job), None
        seat.place = self._actor(nodes, *seat.needs)

    def _actor(self, nodes: list[Node], cpus: int, gpus: int, memory: int) -> Any:
        actor: Any = ray.remote(Place)
        where = {NODE_LABEL: f"in({','.join(node.id for node in nodes)})"}
        return actor.options(
            num_cpus=cpus, num_gpus=gpus, memory=memory, label_selector=where, max_concurrency=2
        ).remote()  # fmt: skip

    def _needs(self, job: Job) -> tuple[int, int, int]:
        """CPUs, GPUs and bytes; all nodes have equally many CPUs and GPUs."""
        node = max(self._nodes, key=lambda node: node.memory)
        if self.alone:
            return node.cpus, node.gpus, job.host_bytes
        trainer, settings = trainers.get(job.spec.trainer), job.spec.settings
        threads = sum(trainer.threads(settings).values())
        devices = [(trainer.defaults() | settings)[name] for name in trainer.device_settings]
        gpus = max((_gpus_up_to(device) for device in devices), default=0)
        memory = min(int(SHARED_MARGIN * job.host_bytes), node.memory)
        return min(threads or node.cpus, node.cpus), gpus, memory

    def _listen(self, work: int, place: Any, ref: Any) -> None:
        """Let the answer of a place wake whoever waits."""

        def answered(future: Any) -> None:
            error = future.exception()
            self._replies.put((work, place, future.result() if error is None else error))
            os.write(self._wake_writer, b"x")

        ref.future().add_done_callback(answered)

    def _next_reply(self) -> Reply:
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
            raise ClusterError(f"a node sent a file that would lie outside of its repeat's folder: {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
