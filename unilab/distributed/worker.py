"""One worker: an environment and a policy that acts in it; the same object in every kind of process."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from unilab.distributed.rollout import Rollout, RolloutLayout
from unilab.distributed.statistics import EmitsEvents, RunningEpisodes
from unilab.envs import StepResult, VecEnv
from unilab.ipc.process.child import report_step
from unilab.machine.thread_team import torch_threads_kept
from unilab.run.seeding import derive_seed

logger = logging.getLogger(__name__)

_LOGGED_FAULTS = 8
"""numerical failures of a worker that are logged; all of them are marked in its rollouts"""


class WorkerPolicy(Protocol):
    """A policy on the CPU, picklable; usually a torch.nn.Module with a method compute_actions."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Its weights; at least one."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor], /) -> object:
        """Take other weights."""

    def compute_actions(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """Actions [N, A] for observations [N, O], which it must not keep; random numbers come from ``generator``."""


@runtime_checkable
class PlacedPolicy(Protocol):
    """What a WorkerPolicy adds to act differently in each worker."""

    def place(self, worker: int) -> None:
        """Be the policy of this worker, 0 to n_workers - 1; called once, before it acts."""


class RolloutStoppedError(Exception):
    """A rollout was given up because the worker is to stop."""


class RolloutWorker:
    """Makes rollouts of one environment, each going on where the last one ended.

    Args:
        env: the environment; the worker closes it.
        policy: the worker's own copy.
        num_steps: T, steps of a rollout.
        seed: of environment and actions; a restarted worker derives another one from it and its incarnation.
        worker, incarnation: which worker this is, and how often it was restarted.
    """

    def __init__(
        self, env: VecEnv, policy: WorkerPolicy, num_steps: int, seed: int, *, worker: int = 0, incarnation: int = 0
    ) -> None:
        self.layout = RolloutLayout.of(env, num_steps)
        self._step_fields = tuple(self.layout.step_fields())
        self.policy_version = 0
        """version of the weights that act"""
        self._env = env
        self._policy = policy
        if isinstance(policy, PlacedPolicy):
            policy.place(worker)
        self._worker = worker
        self._incarnation = incarnation
        self._sequence = 0
        self.env_steps = 0
        """env steps that were made, all rows together"""
        self._faults = 0
        self._emitter = env if isinstance(env, EmitsEvents) else None
        self._episodes = RunningEpisodes(env.num_envs, len(self.layout.event_names))
        seed = seed if incarnation == 0 else derive_seed(seed, f"incarnation {incarnation}")
        self._generator = torch.Generator().manual_seed(derive_seed(seed, "actions"))
        env.reset(seed)

    def take_policy(self, state_dict: Mapping[str, Tensor], version: int) -> None:
        """Act with these weights from the next rollout on."""
        self._policy.load_state_dict(state_dict)
        self.policy_version = version

    def rollout(
        self, out: Mapping[str, np.ndarray] | None = None, *, stopped: Callable[[], bool] = lambda: False
    ) -> Rollout:
        """Make the next T steps.

        Args:
            out: arrays of ``layout.fields()`` to write it into; None: new ones.
            stopped: asked before every step whether to give up.

        Raises:
            RolloutStoppedError: it was given up; the worker is of no further use.
        """
        out = self.layout.allocate() if out is None else out
        began, ended = time.monotonic_ns(), 0
        with torch.inference_mode(), one_thread():
            for step in range(self.layout.num_steps):
                if stopped():
                    raise RolloutStoppedError
                ended = self._step({name: out[name][step] for name in self._step_fields}, out, ended)
                self.env_steps += self._env.num_envs
                report_step(self.env_steps)
        out["header"][:] = self._worker, self._incarnation, self._sequence, ended, time.monotonic_ns() - began
        self._sequence += 1
        return Rollout.of_arrays(out, self.layout.event_names, self.policy_version)

    def _step(self, row: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray], ended: int) -> int:
        """Make one step and write it; how many episodes have ended in this rollout."""
        env = self._env
        row["obs"][:] = env.obs
        if env.critic is not None:
            row["critic"][:] = env.critic
        actions = self._policy.compute_actions(torch.from_numpy(row["obs"]), self._generator)
        if actions.shape != row["actions"].shape:
            expected, found = list(row["actions"].shape), list(actions.shape)
            raise ValueError(f"compute_actions returned {found}; this environment takes {expected} (rows, action)")
        row["actions"][:] = actions.numpy()
        result = env.step(row["actions"])
        self._write(row, result)
        events = None if self._emitter is None else self._emitter.events
        episodes, moments = self._episodes.step(result.reward, result.final_ids, events)
        if len(episodes) == 0:
            return ended
        until = ended + len(episodes)
        out["episodes"][ended:until] = episodes
        if events is not None:
            out["events"][ended:until] = moments
        return until

    def _write(self, row: Mapping[str, np.ndarray], result: StepResult) -> None:
        row["rewards"][:] = result.reward
        row["next_obs"][:] = result.obs
        row["next_obs"][result.final_ids] = result.final_obs
        if result.critic is not None:
            row["next_critic"][:] = result.critic
            row["next_critic"][result.final_ids] = result.final_critic
        np.logical_or(result.terminated, result.truncated, out=row["dones"])
        # An end that is both is a termination: nothing follows, so nothing is to be bootstrapped.
        np.greater(result.truncated, result.terminated, out=row["truncated"])
        row["faulty"].fill(False)
        for fault in result.faults:
            row["faulty"][fault.env_id] = True
            if self._faults < _LOGGED_FAULTS:
                logger.warning("worker %d: %s", self._worker, fault.message)
            self._faults += 1

    def close(self) -> None:
        """Close the environment (idempotent)."""
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: several pools on the same cores stop each other, and results could depend on their number."""
    with torch_threads_kept():
        torch.set_num_threads(1)
        yield
