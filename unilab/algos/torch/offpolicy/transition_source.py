"""Where the learner's transitions come from: what all sources promise, and a collector process."""

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from torch import Tensor

from unilab.algos.torch.networks.sizes import published_bytes, state_bytes
from unilab.algos.torch.offpolicy.config import OffPolicyConfig, compute_train_start_threshold
from unilab.algos.torch.offpolicy.networks.policies import BoundedActor
from unilab.algos.torch.offpolicy.worker import COLLECT, STATE, inference_bytes, off_policy_collector_fn
from unilab.envs import EnvDims
from unilab.ipc import AsyncRunner, LatestValue, ReplayBuffer, SharedFlag, SharedWeightSync
from unilab.ipc.memory_budget import HOST, SHM, BudgetItem, pages, place_of
from unilab.ipc.replay_buffer import replay_bytes
from unilab.ipc.replay_rows import RowLayout
from unilab.run.loop import Check
from unilab.run.progress import CollectorCounters
from unilab.run.seeding import derive_seed

logger = logging.getLogger(__name__)

WAIT_SECONDS = 60.0
"""between two checks of signals and workers while waiting"""
REPLY_SECONDS = 2.0
"""for a collector's reply once a signal has asked for the end"""


class TransitionSource(ABC):
    """The replay buffer and who fills it.

    In lock step (``sync_collection``) steps are made only after ``proceed``, so the learner trains on a buffer of known
    content meanwhile. Running freely nobody waits for the learner.

    Args:
        runner: supervises processes; its ``interrupt`` ends waits.
        state: what ``state_dict`` returned, to continue from.

    Attributes:
        acted_version: of the weights that acted in the newest transitions that were taken.
        bell: running freely, set when something was stored.
    """

    def __init__(
        self, runner: AsyncRunner, config: OffPolicyConfig, dims: EnvDims, state: Mapping[str, Any] | None
    ) -> None:
        self.replay = ReplayBuffer(
            config.replay_capacity,
            dims.obs,
            dims.action,
            config.learner_device,
            critic_dim=dims.critic,
            multi_step=config.algorithm.n_step > 1,
            seed=derive_seed(config.seed, "replay"),
        )
        self.acted_version = 0
        self.bell = SharedFlag()
        self._runner = runner
        self._lock_step = config.sync_collection
        self._fresh = state is not None and state["fresh"]
        self._before = CollectorCounters() if state is None else CollectorCounters.of(state["counters"])
        if state is not None:
            self.replay.load_state_dict(state["replay"])

    @abstractmethod
    def publish(self, weights: Mapping[str, Tensor]) -> int:
        """Hand over the actor's weights, which act in the next steps; their version."""

    @abstractmethod
    def proceed(self) -> None:
        """Order the next steps. The first call starts whoever makes them; running freely, it is the only one needed."""

    def take(self, check: Check, enough: Callable[[], bool]) -> bool:
        """Wait until the steps under way are made, or, running freely, until ``enough()``; whether there are steps that
        were not taken yet. ``check`` is called meanwhile and may raise."""
        if self._lock_step:
            self._finish(check)
            fresh, self._fresh = self._fresh, False
            return fresh
        self.proceed()
        while not enough():
            self.bell.wait(WAIT_SECONDS, self._runner.interrupt)
            self.bell.clear()
            self._catch_up()
            check()
        self._catch_up()
        return True

    @abstractmethod
    def counters(self) -> CollectorCounters:
        """Counters of the steps that were taken, or, running freely, of those that were made; those of a resumed run
        are included."""

    def state_dict(self, check: Check, *, with_rows: bool) -> dict[str, Any]:
        """What a resumed run needs; in lock step the steps under way are made first."""
        return {
            "collector": self._state(check),
            "fresh": self._fresh,
            "counters": dataclasses.asdict(self.counters()),
            "replay": self.replay.state_dict(with_rows),
        }

    @abstractmethod
    def close(self) -> None:
        """Stop everything and free the shared memory; idempotent."""

    @abstractmethod
    def _finish(self, check: Check) -> None:
        """Lock step: wait until the steps under way are made, and note that there are fresh ones."""

    @abstractmethod
    def _catch_up(self) -> None:
        """Running freely: take in what was made meanwhile, and raise the failure of whoever makes the steps."""

    @abstractmethod
    def _state(self, check: Check) -> dict[str, Any] | None:
        """The exact state of whoever makes the steps, where there is one; the steps under way are made first."""


class CollectorSource(TransitionSource):
    """A collector in a process of its own.

    Its output goes to the file ``log`` (None: to this process' output), the states of simulation faults to ``faults``.
    In lock step its exact state can be saved; a free-running one starts new episodes when resumed, and goes on
    counting.

    Args:
        weights: the actor's, for their shapes.
    """

    def __init__(
        self,
        runner: AsyncRunner,
        config: OffPolicyConfig,
        dims: EnvDims,
        weights: Mapping[str, Tensor],
        state: Mapping[str, Any] | None,
        log: Path | None,
        faults: Path | None,
    ) -> None:
        super().__init__(runner, config, dims, state)
        self._weights = SharedWeightSync.from_state_dict(weights)
        self._metrics = LatestValue()
        self._newest: dict[str, Any] = {}
        self._log = log
        self._started = self._collecting = False
        self._commands: Connection | None = None
        self._theirs: Connection | None = None
        if config.sync_collection:
            self._commands, self._theirs = runner.ctx.Pipe()
        self._resumed = None if state is None else state["collector"]
        seed = config.seed
        if state is not None and self._resumed is None:
            seed = derive_seed(seed, f"resumed at {self._before.env_steps}")
            config = dataclasses.replace(config, learning_starts=0)  # the policy has learned: no random actions
        self._arguments: dict[str, Any] = {
            "stop_event": runner.stop_event,
            "config": config,
            "replay": self.replay,
            "weight_sync_name": self._weights.name,
            "weight_param_shapes": self._weights.param_shapes,
            "metrics_queue": self._metrics,
            "commands": self._theirs,
            "bell": self.bell,
            "seed": seed,
            "state": self._resumed,
            "faults": faults,
            "env_steps_before": self._before.env_steps if self._resumed is None else 0,
        }

    def publish(self, weights: Mapping[str, Tensor]) -> int:
        return self._weights.write_weights(weights)

    def proceed(self) -> None:
        if not self._started:
            self._runner.start_collector(
                off_policy_collector_fn, kwargs=self._arguments, name="collector", log=self._log
            )
            self._started = True
            if self._theirs is not None:
                self._theirs.close()  # so that the end of the collector ends the pipe
        if self._commands is not None and not self._collecting:
            self._order(self._commands, COLLECT)
            self._collecting = True

    def counters(self) -> CollectorCounters:
        if self._commands is None:
            self._catch_up()
        now = CollectorCounters.of(self._newest)
        if self._resumed is None:
            return now.after(self._before)
        if not self._newest:
            return self._before
        # its own counters go on; those of its time begin anew
        busy, wait = (getattr(now, name) + getattr(self._before, name) for name in ("busy_seconds", "wait_seconds"))
        return dataclasses.replace(now, busy_seconds=busy, wait_seconds=wait)

    def close(self) -> None:
        self._runner.stop_collectors()
        for end in (self._commands, self._theirs):
            if end is not None:
                end.close()
        self._weights.cleanup()
        self._metrics.cleanup()
        self.replay.cleanup()

    def _finish(self, check: Check) -> None:
        if self._commands is not None and self._collecting:
            version = self._reply(self._commands, check)
            self._collecting, self._fresh = False, True
            self._catch_up()
            self.acted_version = version

    def _catch_up(self) -> None:
        self._newest = self._metrics.get() or self._newest
        self.acted_version = self._newest.get("policy_version", 0)

    def _state(self, check: Check) -> dict[str, Any] | None:
        """When a signal has asked for the end, a collector that hangs is not waited for, and there is no state."""
        if self._commands is None or not self._started:
            return self._resumed
        try:
            self._finish(check)
            self._order(self._commands, STATE)
            state: dict[str, Any] = self._reply(self._commands, check)
            return state
        except TimeoutError:
            logger.warning(
                "the collector does not reply, so its environments are not in the checkpoint: a run that is resumed "
                "from it begins new episodes"
            )
            return None

    def _order(self, commands: Connection, command: str) -> None:
        try:
            commands.send(command)
        except ConnectionError:
            self._raise_its_failure()
            raise

    def _reply(self, commands: Connection, check: Check) -> Any:
        """Its reply to a command.

        Raises:
            TimeoutError: a signal has asked for the end, ``check`` lets us go on nevertheless, and no reply came.
        """
        while not commands.poll():
            connection.wait([commands, self._runner.interrupt.fileno()], WAIT_SECONDS)
            check()
            if self._runner.interrupt.is_set() and not commands.poll(self._runner.seconds_to_end(REPLY_SECONDS)):
                raise TimeoutError
        try:
            return commands.recv()
        except (EOFError, OSError):  # one that dies in the middle of a reply leaves an OSError of no kind
            self._raise_its_failure()
            raise

    def _raise_its_failure(self) -> None:
        """Raise what ended the collector, as soon as that is known: the other end of the pipe is gone."""
        self._runner.interrupt.wait(5.0)
        self._runner.check_collectors()


def row_layout(config: OffPolicyConfig, dims: EnvDims) -> RowLayout:
    """The layout of the transitions in the replay buffer."""
    return RowLayout(dims.obs, dims.action, dims.critic, config.algorithm.n_step > 1)


def replay_items(config: OffPolicyConfig, dims: EnvDims) -> list[BudgetItem]:
    """The memory of the replay buffer, and of the copies of rows that a run makes."""
    capacity, layout = config.replay_capacity, row_layout(config, dims)
    replay = replay_bytes(capacity, dims.obs, dims.action, critic_dim=dims.critic, multi_step=layout.multi_step)
    items = [BudgetItem("replay buffer", SHM, pages(replay), f"{capacity:,} transitions of {layout.width} numbers")]
    if config.save_replay:
        size = 4 * capacity * layout.width
        items.append(BudgetItem("checkpoint", HOST, size, "a copy of the transitions while it is written"))
    if config.obs_normalization:
        start = compute_train_start_threshold(config.batch_size, config.learning_starts, config.num_envs)
        size = 2 * 4 * (config.lead_rows if config.sync_collection else start) * layout.width
        place = place_of(config.learner_device)
        items.append(BudgetItem("new transitions", place, size, "on their way to the running mean and variance"))
    return items


def collector_items(config: OffPolicyConfig, actor: BoundedActor, dims: EnvDims) -> list[BudgetItem]:
    """The memory of the policy that acts in a collector, and of transitions that are not in the replay buffer yet."""
    place, count, steps = place_of(config.collector_device), config.num_envs, config.algorithm.n_step
    width = row_layout(config, dims).width
    packed = (4 + 1) * count * steps * width  # with a flag for each number: is it finite?
    open_steps = 4 * count * (steps + 1 if steps > 1 else 1) * width
    return [
        BudgetItem("weight sync", SHM, pages(published_bytes(actor.state_dict())), "3 buffers of the actor"),
        BudgetItem("collector's model", place, state_bytes(actor), "actor"),
        BudgetItem("inference", place, inference_bytes(count, actor, dims), "noise and activations of a step"),
        BudgetItem("transitions", HOST, packed + open_steps, f"of the last {steps} steps" if steps > 1 else ""),
    ]
