"""One worker: an environment and a policy that acts in it; the same object in every kind of process."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from unilab.distributed.rollout import METRICS_BYTES, Rollout, RolloutLayout
from unilab.envs import StepResult, VecEnv
from unilab.envs.vec_env import FloatArray
from unilab.machine.thread_team import torch_threads_kept
from unilab.run.acting import ActingLoop, RolloutSink
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
class NumberedPolicy(Protocol):
    """What a WorkerPolicy adds in order to act differently in each worker."""

    def become_worker(self, worker: int) -> None:
        """Become the policy of this worker, 0 to n_workers - 1; called once, before it acts."""


class _Policy:
    """A ``WorkerPolicy`` as the acting loop asks for actions; they are recorded as they go to the environment."""

    def __init__(self, policy: WorkerPolicy, env: VecEnv) -> None:
        self._policy = policy
        self._shape = env.num_envs, env.action_dim

    def begin(self, steps: int, made: int, generator: torch.Generator) -> None:
        """Nothing is to be prepared."""

    def act(self, obs: FloatArray, generator: torch.Generator) -> tuple[FloatArray, dict[str, np.ndarray]]:
        actions = self._policy.compute_actions(torch.from_numpy(obs), generator)
        if actions.shape != self._shape:
            found, expected = list(actions.shape), list(self._shape)
            raise ValueError(f"compute_actions returned {found}; this environment takes {expected} (rows, action)")
        array = np.asarray(actions.numpy(), np.float32)
        return array, {"actions": array}


class _Sink(RolloutSink):
    """Writes arrays of ``RolloutLayout.fields``, all but their header."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self.ended = 0
        """episodes that have ended in this rollout"""
        self._worker = worker
        self._faults = 0

    def record(self, t: int, recorded: Mapping[str, np.ndarray], result: StepResult, episodes: np.ndarray) -> None:
        super().record(t, recorded, result, episodes)
        arrays, ended = self.arrays, result.final_ids
        arrays["next_obs"][t] = result.obs
        arrays["next_obs"][t, ended] = result.final_obs
        if result.critic is not None:
            arrays["next_critic"][t] = result.critic
            arrays["next_critic"][t, ended] = result.final_critic
        arrays["faulty"][t] = False
        for fault in result.faults:
            arrays["faulty"][t, fault.env_id] = True
            if self._faults < _LOGGED_FAULTS:
                logger.warning("worker %d: %s", self._worker, fault.message)
            self._faults += 1
        if len(ended):
            arrays["episodes"][self.ended : self.ended + len(ended)] = episodes
            self.ended += len(ended)

    def finish(self, env: VecEnv) -> None:
        """The observations that follow are in the last step already."""


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
        self.policy_version = 0
        """version of the weights that act"""
        self._env = env
        self._policy = policy
        if isinstance(policy, NumberedPolicy):
            policy.become_worker(worker)
        self._identity = worker, incarnation
        self._sequence = 0
        seed = seed if incarnation == 0 else derive_seed(seed, f"incarnation {incarnation}")
        self._sink = _Sink(worker)
        self._loop = ActingLoop(env, _Policy(policy, env), self._sink, seed=seed, env_seed=seed)

    @property
    def env_steps(self) -> int:
        """Env steps that were made, all rows together."""
        return self._loop.env_steps

    def take_policy(self, state_dict: Mapping[str, Tensor], version: int) -> None:
        """Act with these weights from the next rollout on."""
        self._policy.load_state_dict(state_dict)
        self.policy_version = version

    def rollout(
        self, out: Mapping[str, np.ndarray] | None = None, *, stopped: Callable[[], bool] | None = None
    ) -> Rollout:
        """Make the next T steps.

        Args:
            out: arrays of ``layout.fields()`` to write it into; None: new ones.
            stopped: asked before every step whether to give up.

        Raises:
            ActingStopped: it was given up; the worker is of no further use.
        """
        out = self.layout.allocate() if out is None else out
        began = time.monotonic_ns()
        self._sink.arrays, self._sink.ended = out, 0
        # One torch thread: several pools on the same cores stop each other, and results could depend on their number.
        with torch_threads_kept():
            torch.set_num_threads(1)
            self._loop.run(self.layout.num_steps, stopped)
        out["header"][:] = *self._identity, self._sequence, self._sink.ended, time.monotonic_ns() - began
        metrics = {name: float(value) for name, value in self._env.metrics().items()}  # numbers of numpy are no JSON
        while len(said := json.dumps(metrics).encode()) > METRICS_BYTES:
            metrics.popitem()
        out["metrics"][:] = np.frombuffer(said.ljust(METRICS_BYTES), np.uint8)
        self._sequence += 1
        return Rollout.of_arrays(out, self.policy_version)

    def close(self) -> None:
        """Close the environment (idempotent)."""
        self._env.close()
