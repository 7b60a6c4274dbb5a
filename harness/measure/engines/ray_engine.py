"""Repeats on the nodes of a Ray cluster.

A repeat gets an *actor* that takes all CPUs and GPUs of a node, so that nothing else that Ray starts measures
beside it, or, where nodes are shared, as much as the repeat needs; and always the memory of its budget. The search asks
for the next work when the one before has got its actor. A repeat whose node is lost begins again on another node, once.

Each job is a coroutine (``RayEngine._run``); they run while the engine waits.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from harness.files.writing import writing
from harness.measure.engines.blocks import Engine
from harness.measure.engines.cluster import NODE_LABEL, Cluster, Node, last_line
from harness.measure.engines.node import Ended, RepeatActor
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
PASSED_ON = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONPATH")


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
        self.machine, self.exclusive = cluster.machine, not share_nodes
        self._loop = asyncio.new_event_loop()
        self._running: dict[int, asyncio.Task[Outcome]] = {}
        self._waiting: set[int] = set()
        """works whose job has no actor yet"""
        self._granted = self._loop.create_future()
        """cancelled, which wakes ``wait``, when a job has got its actor"""
        self._homes: dict[int, Node] = {}
        """where each work had its latest actor: its next job goes there too"""
        self._nodes = list(cluster.nodes)
        """those that are alive, as far as is known"""
        # Ray reports lost nodes on stdout, where a program may be reading.
        self._elsewhere = redirect_stdout(sys.stderr)

    def __enter__(self) -> "RayEngine":
        self._elsewhere.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for task in self._running.values():
            task.cancel()
        if self._running:
            self._loop.run_until_complete(asyncio.wait(self._running.values()))
        self._loop.close()
        self._elsewhere.__exit__(*error)

    @property
    def concurrency(self) -> int:
        return len(self._nodes)

    def available(self) -> MemoryAvailable:
        return self._cluster.available()

    @contextmanager
    def reserved_here(self) -> Iterator[None]:
        here = ray.get_runtime_context().get_node_id()
        own = [node for node in self._nodes if node.id == here]
        if not own:  # no repeat runs on this machine
            yield
            return
        actor = self._actor(own, own[0].cpus, own[0].gpus, 0)
        try:
            self._until_one_of(asyncio.wrap_future(actor.end.remote().future(), loop=self._loop))
            yield
        finally:
            ray.kill(actor)

    def has_room(self) -> bool:
        return not self._waiting and not (self.exclusive and len(self._running) >= self.concurrency)

    def start(self, work: int, jobs: Sequence[Job]) -> None:
        (job,) = jobs
        self._waiting.add(work)
        self._running[work] = self._loop.create_task(self._run(work, job))

    def wait(self) -> tuple[int, list[Outcome]] | None:
        self._granted = self._loop.create_future()
        self._until_one_of(self._granted, *self._running.values())
        for work, task in self._running.items():
            if task.done():
                del self._running[work]
                return work, [task.result()]
        return None

    def _until_one_of(self, *futures: "asyncio.Future[Any]") -> None:
        """Let the jobs go on until one of these is done.

        Raises:
            Stopped: a signal came.
        """
        stopped = self._loop.create_future()
        self._loop.add_reader(self._stop.fd, stopped.cancel)
        self._loop.run_until_complete(asyncio.wait([stopped, *futures], return_when=asyncio.FIRST_COMPLETED))
        self._loop.remove_reader(self._stop.fd)
        self._stop.check()

    async def _run(self, work: int, job: Job) -> Outcome:
        """Run a job on a node, that of its work if it can be.

        Raises:
            UserError: there is no node any more.
            whatever ``on_progress`` of the job raises.
        """
        self._nodes = self._cluster.alive() or self._nodes
        limits, largest = job.limits, max(self._nodes, key=lambda node: node.memory)
        needs = largest.cpus, largest.gpus, job.host_bytes  # all nodes have equally many CPUs and GPUs
        if not self.exclusive:
            trainer, settings = trainers.get(job.spec.trainer), job.spec.settings
            threads = sum(trainer.threads(settings).values()) or largest.cpus
            devices = [(trainer.defaults() | settings)[name] for name in trainer.device_settings]
            most = int(SHARED_MARGIN * job.host_bytes)
            needs = min(threads, largest.cpus), max(map(_gpus_up_to, devices), default=0), min(most, largest.memory)
            if most:
                limits = replace(limits, host_bytes=min(most, limits.host_bytes or most))
        home = self._homes.get(work)
        nodes = [node for node in self._nodes if node is home and node.memory >= needs[2]] or self._nodes
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        outcome: Outcome | None = None
        chances = CHANCES
        while outcome is None:
            chances -= 1
            self._waiting.add(work)
            node: Node | None = None
            actor, runs = self._actor(nodes, *needs), False
            try:
                async for reply in actor.run.remote(job.spec, limits, str(Path.cwd()), environment):
                    news = await reply
                    if isinstance(news, str):  # the id of the node that the actor was granted on
                        self._homes[work] = node = next(one for one in self._cluster.nodes if one.id == news)
                        runs = True
                        self._waiting.discard(work)
                        self._granted.cancel()
                    elif isinstance(news, Ended):
                        outcome, runs = news.outcome, False
                        _write(news, Path(job.spec.folder))
                        break  # a node that is lost from now on has lost nothing
                    elif (reason := job.on_progress(news)) is not None:
                        actor.prune.remote(reason)
            except ray.exceptions.RayTaskError as error:
                outcome, runs = Outcome("failed", error=f"{error.cause or error}"), False
            except ray.exceptions.RayError as error:
                runs = False
                where = "a node" if node is None else f"node {node.name}"
                self._nodes = self._cluster.alive()
                if not self._nodes:
                    raise UserError(
                        "all nodes are lost; start the cluster and run the same command again to go on"
                    ) from None
                # It may still be listed for some seconds; and one that lost no more than the actor is better than none.
                nodes = [one for one in self._nodes if one is not node] or self._nodes
                if chances:
                    self._say(f"{where} is lost; what it measured begins again on another one")
                else:
                    text = f"its node was lost {CHANCES} times: {where}, {last_line(error)}"
                    outcome = Outcome("failed", error=text)
            finally:
                self._waiting.discard(work)
                if runs:  # the engine ends
                    with suppress(TimeoutError, ray.exceptions.RayError):
                        await asyncio.wait_for(asyncio.wrap_future(actor.end.remote().future()), END_SECONDS)
                ray.kill(actor)
        outcome.result["node"] = "" if node is None else node.name
        return outcome

    def _actor(self, nodes: list[Node], cpus: int, gpus: int, memory: int) -> Any:
        kind: Any = ray.remote(RepeatActor)
        where = {NODE_LABEL: f"in({','.join(node.id for node in nodes)})"}
        return kind.options(
            num_cpus=cpus, num_gpus=gpus, memory=memory, label_selector=where, max_concurrency=2
        ).remote()  # fmt: skip


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
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
