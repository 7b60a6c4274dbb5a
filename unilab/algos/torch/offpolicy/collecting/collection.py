"""Where the learner's transitions come from: a collector process that fills the replay buffer."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from torch import Tensor

from unilab.algos.torch.offpolicy.config import OffPolicyConfig
from unilab.algos.torch.offpolicy.worker import off_policy_collector_fn
from unilab.envs import EnvDims
from unilab.ipc import AsyncRunner, LatestValue, ReplayBuffer, SharedFlag, SharedWeightSync
from unilab.run.loop import Check
from unilab.run.progress import CollectorCounters
from unilab.run.seeding import derive_seed

logger = logging.getLogger(__name__)

WAIT_SECONDS = 60.0
"""between two looks at what else may have happened, while a collector works"""
ANSWER_SECONDS = 2.0
"""for a collector's answer once a signal has asked for the end"""


class TransitionCollection:
    """The replay buffer and the collector process that fills it.

    In lock step (``sync_collection``) the collector makes its next steps only after ``proceed``, so the learner trains
    on a buffer of known content while they are made. Running freely it never waits.

    Its output goes to the file ``log`` (None: to this process' output), the states of simulation faults to ``faults``.
    In lock step its exact state can be saved; a free-running one starts new episodes when resumed, and goes on
    counting.

    Args:
        runner: supervises the collector.
        algo_type: sac or td3.
        weights: the actor's, for their shapes.
        state: what ``state_dict`` returned, to continue from.
    """

    def __init__(
        self,
        runner: AsyncRunner,
        config: OffPolicyConfig,
        algo_type: str,
        dims: EnvDims,
        weights: Mapping[str, Tensor],
        state: Mapping[str, Any] | None = None,
        log: Path | None = None,
        faults: Path | None = None,
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
        self._runner = runner
        self._weights = SharedWeightSync.from_state_dict(weights)
        self._metrics = LatestValue()
        self._bell = SharedFlag(runner.ctx)
        self._newest: dict[str, Any] = {}
        self._log = log
        self._started = self._collecting = False
        self._fresh = state is not None and state["fresh"]
        self._commands: Connection | None = None
        self._theirs: Connection | None = None
        if config.sync_collection:
            self._commands, self._theirs = runner.ctx.Pipe()
        self.acted_version = 0
        """version of the weights that acted in the newest transitions"""
        resumed = None if state is None else state["collector"]
        self._before = CollectorCounters() if state is None else CollectorCounters.of(state["counters"])
        self._exact = resumed is not None
        seed = config.seed
        if state is not None:
            self.replay.load_state_dict(state["replay"])
            if not self._exact:
                seed = derive_seed(seed, f"resumed at {self._before.env_steps}")
                config = dataclasses.replace(config, learning_starts=0)  # the policy has learned: no random actions
        self._arguments: dict[str, Any] = {
            "stop_event": runner.stop_event,
            "config": dataclasses.asdict(config),
            "algo_type": algo_type,
            "replay": self.replay,
            "dims": (dims.obs, dims.action, dims.critic),
            "weight_sync_name": self._weights.name,
            "weight_param_shapes": self._weights.param_shapes,
            "metrics_queue": self._metrics,
            "commands": self._theirs,
            "bell": self._bell,
            "seed": seed,
            "state": resumed,
            "faults": faults,
        }

    def publish(self, weights: Mapping[str, Tensor]) -> int:
        """Write the weights to shared memory, where the collector takes them before its next steps; their version."""
        return self._weights.write_weights(weights)

    def proceed(self) -> None:
        """Let the collector make its next steps; the first call starts it. Running freely it needs no more."""
        if not self._started:
            self._runner.start_collector(
                off_policy_collector_fn, kwargs=self._arguments, name="collector", log=self._log
            )
            self._started = True
            if self._theirs is not None:
                self._theirs.close()  # so that the end of the collector ends the pipe
        if self._commands is not None and not self._collecting:
            self._command(("collect",))
            self._collecting = True

    def take(self, check: Check) -> bool:
        """Wait until the steps under way are made; whether there are steps that were not taken yet.

        ``check`` is called meanwhile and may raise.
        """
        self._finish(check)
        fresh, self._fresh = self._fresh, False
        return fresh

    def _finish(self, check: Check) -> None:
        if self._collecting:
            _, self.acted_version = self._answer(check)
            self._collecting, self._fresh = False, True
            self._look()

    def wait_until(self, ready: Callable[[], bool], check: Check) -> None:
        """Running freely: wait until ``ready()``, asked whenever something was stored."""
        while not ready():
            self._bell.wait(WAIT_SECONDS, self._runner.interrupt)
            self._bell.clear()
            check()
        self._look()
        self.acted_version = self._newest.get("policy_version", 0)

    def counters(self) -> CollectorCounters:
        """The collector's counters, in lock step those of the steps that were taken; they go on from those of the run
        that was resumed."""
        if self._commands is None:
            self._look()
        now = CollectorCounters.of(self._newest)
        if not self._exact:
            return now.after(self._before)
        busy, wait = (getattr(now, name) + getattr(self._before, name) for name in ("busy_seconds", "wait_seconds"))
        if not self._newest:
            return self._before
        return dataclasses.replace(now, busy_seconds=busy, wait_seconds=wait)

    def state_dict(self, check: Check, *, with_rows: bool) -> dict[str, Any]:
        """What a resumed run needs; in lock step the collector first makes the steps under way.

        When a signal has asked for the end, a collector that hangs is not waited for, and its part is missing.
        """
        state: dict[str, Any] = {"collector": None}
        if self._commands is not None and self._started:
            try:
                self._finish(check)
                self._command(("state",))
                _, state["collector"] = self._answer(check)
            except TimeoutError:
                logger.warning(
                    "the collector does not answer, so its environments are not in the checkpoint: a run that is "
                    "resumed from it begins new episodes"
                )
        elif self._exact:
            state["collector"] = self._arguments["state"]
        return state | {
            "fresh": self._fresh,
            "counters": self.counters().plain(),
            "replay": self.replay.state_dict(with_rows),
        }

    def close(self) -> None:
        """Stop the collector and free the shared memory; idempotent."""
        self._runner.stop_collectors()
        for end in (self._commands, self._theirs):
            if end is not None:
                end.close()
        self._weights.cleanup()
        self._metrics.cleanup()
        self.replay.cleanup()

    def _look(self) -> None:
        """Take the collector's newest message."""
        self._newest = self._metrics.get() or self._newest

    def _command(self, command: tuple[str, ...]) -> None:
        assert self._commands is not None
        self._until_it_fails(lambda commands: commands.send(command))

    def _answer(self, check: Check) -> tuple[str, Any]:
        """Its answer to a command.

        Raises:
            TimeoutError: a signal has asked for the end, ``check`` lets us go on nevertheless, and no answer came.
        """
        assert self._commands is not None
        while not self._commands.poll():
            connection.wait([self._commands, self._runner.interrupt.fileno()], WAIT_SECONDS)
            check()
            if self._runner.interrupt.is_set() and not self._commands.poll(self._runner.seconds_to_end(ANSWER_SECONDS)):
                raise TimeoutError
        return self._until_it_fails(lambda commands: commands.recv())

    def _until_it_fails(self, act: Callable[[Connection], Any]) -> Any:
        """Use the pipe; when its other end is gone, raise what ended the collector."""
        assert self._commands is not None
        try:
            return act(self._commands)
        except (EOFError, ConnectionError):
            self._runner.interrupt.wait(5.0)
            self._runner.check_collectors()
            raise
