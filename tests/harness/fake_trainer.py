"""A deterministic trainer for harness tests: real processes, made-up physics, a clock that counts iterations.

``speed`` decides the throughput exactly, ``behaviour`` how a repeat ends. Clocks are counted, not read, so that
measured values do not depend on the machine.
"""

import functools
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field

from harness.trainers.trainer import KeptPolicy, Trainer
from unilab.run.progress import Progress, Summary
from unilab.settings import flatten, parse
from unilab.tracing.spans import span, timeline

if TYPE_CHECKING:  # the harness process asks for budgets, the trials have no use for torch
    from unilab.ipc.memory_budget import MemoryBudget

ITERATION_SECONDS = 0.01


@dataclass(frozen=True)
class Inner:
    __pydantic_config__ = ConfigDict(extra="forbid")

    rate: Annotated[float, Field(gt=0)] = 1.0


@dataclass(frozen=True)
class FakeConfig:
    __pydantic_config__ = ConfigDict(extra="forbid")

    env: str = "Fake"
    speed: Annotated[int, Field(ge=1)] = 100
    seed: int = 0
    mode: Literal["async", "sync"] = "async"
    device: str = "cpu"
    host_bytes: int = 1000
    slots: int = 0
    iteration_seconds: Annotated[float, Field(gt=0)] = ITERATION_SECONDS
    """on its clock; below any pause of trials that take turns, its clock stands still with it, as real ones do"""
    real_clock: bool = False
    """iterations take the time that they say"""
    layers: tuple[int, ...] = (1,)
    behaviour: Literal[
        "good", "fail", "die", "hang", "hold_gil", "deaf", "eat", "exit", "endless", "share_and_die", "session"
    ] = "good"
    threads: Annotated[int, Field(ge=1)] = 3
    marker: str = ""
    trace_enabled: bool = False
    trace_output_dir: str | None = None
    trace_thread_time: bool = False
    trace_cuda_events: bool = False
    inner: Inner = Inner()


class FakeTrainer(Trainer):
    device_settings = ("device",)

    def defaults(self) -> dict[str, Any]:
        return flatten(FakeConfig())

    def check(self, settings: Mapping[str, Any]) -> None:
        parse(FakeConfig, settings)

    def check_together(self, settings: Mapping[str, Any]) -> None:
        """Any settings go together."""

    def idle(self, settings: Mapping[str, Any]) -> frozenset[str]:
        return frozenset({"slots"} if parse(FakeConfig, settings).mode == "sync" else ())

    def budget(self, settings: Mapping[str, Any]) -> "MemoryBudget":
        from unilab.ipc.memory_budget import BudgetItem, MemoryBudget

        config = parse(FakeConfig, settings)
        return MemoryBudget((BudgetItem("ring", "host", config.host_bytes),))

    def warmup_iterations(self, settings: Mapping[str, Any]) -> int:
        return parse(FakeConfig, settings).slots

    def threads(self, settings: Mapping[str, Any]) -> dict[str, int]:
        threads = parse(FakeConfig, settings).threads
        return {"env": threads - 1, "learner": 1}

    def pausable(self, settings: Mapping[str, Any]) -> bool:
        return parse(FakeConfig, settings).device == "cpu"

    def run(
        self,
        settings: Mapping[str, Any],
        on_progress: Callable[[Progress], bool],
        *,
        log_dir: Path,
        max_iterations: int,
        max_seconds: float | None = None,
        save_interval: int = 50,
        resume: Path | None = None,
        keep_seconds: float | None = None,
    ) -> Summary:
        config = parse(FakeConfig, settings)
        if config.marker:  # shows that a repeat was started, by whom, and that it is alive
            with Path(config.marker).open("a") as file:
                file.write(f"{os.getpid()} {config.speed}\n")
        with timeline("trainer", config), session(config):
            return Summary(iterate(config, on_progress, max_iterations, max_seconds), "callback", None)

    def evaluate(self, settings: Mapping[str, Any], log_dir: Path, episodes: int) -> float:
        """As the return of the training, and so much more that tells how many episodes there were."""
        config = parse(FakeConfig, settings)
        return 10.0 * config.speed + config.seed + episodes / 100

    def kept(self, settings: Mapping[str, Any], log_dir: Path) -> list[KeptPolicy]:
        """Five policies, the faster the sooner they succeed: 80 with the second, 40 with the fourth, others never."""
        speed = parse(FakeConfig, settings).speed

        def judge(number: int, episodes: int) -> tuple[float, dict[str, float]]:
            return number / 10, {"error": episodes / (speed * number), "success": speed * number >= 160}

        return [functools.partial(judge, number) for number in range(1, 6)]


@contextmanager
def session(config: FakeConfig) -> Iterator[None]:
    """With that behaviour, a process in a session of its own, as servers are."""
    if config.behaviour != "session":
        yield
        return
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        Path(f"{config.marker}.session").write_text(str(other.pid))
        yield
        other.kill()


def iterate(
    config: FakeConfig, on_progress: Callable[[Progress], bool], max_iterations: int, max_seconds: float | None
) -> Progress:
    progress = Progress()
    for iteration in range(1, max_iterations + 1):
        with span("iteration"):
            if config.real_clock:
                time.sleep(config.iteration_seconds)
            progress = progress_after(iteration, config)
            more = on_progress(progress)
        if iteration == 2:
            misbehave(config.behaviour)
        if config.behaviour == "endless":
            time.sleep(0.01)
            continue
        if not more or (max_seconds is not None and progress.wall_seconds >= max_seconds):
            break
    return progress


def progress_after(iteration: int, config: FakeConfig) -> Progress:
    seconds = iteration * config.iteration_seconds
    return Progress(
        iteration=iteration, updates=20 * iteration, env_steps=config.speed * iteration,
        collected_env_steps=config.speed * iteration, wall_seconds=seconds, learner_busy_seconds=0.75 * seconds,
        learner_wait_seconds=0.25 * seconds, collector_busy_seconds=0.5 * seconds, episodes=iteration,
        episode_return=10.0 * config.speed + config.seed, policy_lag_mean=config.speed / 100, metrics={"loss": 1.0},
    )  # fmt: skip


def misbehave(behaviour: str) -> None:
    if behaviour == "fail":
        raise ValueError("the physics exploded in environment 3")
    if behaviour == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "exit":
        os._exit(7)
    if behaviour == "hang":
        signal.pause()
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pause()
    if behaviour == "hold_gil":
        pow(3, 10**9)  # minutes inside one C call
    if behaviour == "share_and_die":
        share_and_die()
    if behaviour == "eat":
        eaten = bytearray(400 * 2**20)
        eaten[::4096] = b"x" * len(eaten[::4096])
        signal.pause()


def share_and_die() -> None:
    """As a package does that knows nothing of this project: shared memory, and a child that has it open."""
    memory, spawned = SharedMemory(create=True, size=4096), multiprocessing.get_context("spawn")
    ready = spawned.Event()
    spawned.Process(target=hold, args=(memory.name, ready)).start()
    ready.wait()
    print(memory.name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def hold(name: str, ready: Any) -> None:
    held = SharedMemory(name)
    ready.set()
    signal.pause()
    held.close()
