"""From the steps of a batch of environments to the transitions, over one step or several, that a critic learns from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unilab.envs import StepResult, VecEnv
from unilab.envs.vec_env import FloatArray
from unilab.ipc import ReplayBuffer
from unilab.run.acting import Sink

BoolArray = NDArray[np.bool_]


class Transitions(NamedTuple):
    """B transitions, valid until the next step: they may be views of the arrays that the step was given."""

    obs: FloatArray
    """[B, O] where the transition starts"""
    actions: FloatArray
    """[B, A] the first action"""
    rewards: FloatArray
    """[B] discounted sum over the steps"""
    next_obs: FloatArray
    """[B, O] after the last step; the final observation where the episode ended with it"""
    dones: BoolArray
    """[B] the episode ended with the last step"""
    truncated: BoolArray
    """[B] it was cut there: nothing is known of what follows, so bootstrap from ``next_obs``"""
    critic: FloatArray | None = None
    """[B, C] privileged observation at the start; None without one"""
    next_critic: FloatArray | None = None
    """[B, C]"""
    steps: NDArray[np.int64] | None = None
    """[B] env steps from ``obs`` to ``next_obs``, the exponent of the discount; None where each is one step"""


class NStepReturns:
    """Sums rewards over up to n steps (Sutton 1988; for replay: Hessel et al. 2018, arXiv:1710.02298).

    A start of row i at step t becomes the transition over m steps with reward::

        R = sum over k < m of gamma^k r_{t+k}

    m is n in the middle of an episode. Where the episode ends, all starts that are still open become transitions
    over the fewer steps that there were, so no step is lost and none reaches into the next episode.

    A step that failed (``failed``, a numerical fault of the simulation) is no observation of what the action does:
    it is left out, and what was open in its row ends before it, as if cut by a time limit. Its action may be the value
    that is not finite. To call the failure a termination would teach that it is worth 0, which is a reward where
    returns are negative. With n = 1 steps pass through untouched.

    ``gamma`` is the discount an env step; with ``critic_dim`` 0 there is no privileged observation.
    """

    def __init__(self, n: int, gamma: float, num_envs: int, obs_dim: int, action_dim: int, critic_dim: int = 0) -> None:
        self.n = n
        self._slot = 0
        self._arrays: dict[str, np.ndarray] = {}
        """what outlives a step, by its name in a checkpoint"""
        if n == 1:
            return
        # The last n steps; step t of a row is in slot t % n.
        self._obs = np.zeros((n, num_envs, obs_dim), np.float32)
        self._actions = np.zeros((n, num_envs, action_dim), np.float32)
        self._critic = np.zeros((n, num_envs, critic_dim), np.float32)
        self._sums = np.zeros((n, num_envs), np.float32)
        self._open = np.zeros(num_envs, np.int64)  # starts of each row that are not complete, at most n
        self._arrays |= {"obs": self._obs, "actions": self._actions, "sums": self._sums, "open": self._open}
        if critic_dim:
            self._arrays["critic"] = self._critic
        ages = np.arange(n - 1, -1, -1)  # oldest start first
        self._ages = ages[:, None]
        self._slots = (np.arange(n)[:, None] - ages) % n  # [newest slot, order of age]
        self._discounts = np.zeros((n, n, 1), np.float32)  # [newest slot, slot]: of the newest reward in its sum
        np.put_along_axis(self._discounts[..., 0], self._slots, (np.float64(gamma) ** ages)[None], axis=1)
        self._weighted = np.empty_like(self._sums)
        self._all_n = np.full(num_envs, n)

    def step(self, step: Transitions, failed: BoolArray | None = None) -> Transitions:
        """Take one step of all rows and give the transitions that it completes, those of older starts first.

        Args:
            step: the N rows' own transitions over one step.
            failed: [N] rows whose step is not to be learned from; the next one begins an episode. None: no row.
        """
        if self.n == 1:
            if failed is None:
                return step
            return Transitions._make(None if column is None else column[~failed] for column in step)
        # Open a start in each row, and add the rewards to the sums of all open ones.
        slot, self._slot = self._slot, (self._slot + 1) % self.n
        self._obs[slot], self._actions[slot], self._sums[slot] = step.obs, step.actions, 0
        if step.critic is not None:
            self._critic[slot] = step.critic
        rewards = step.rewards if failed is None else np.where(failed, np.float32(0), step.rewards)
        self._sums += np.multiply(self._discounts[slot], rewards, out=self._weighted)
        np.minimum(self._open + 1, self.n, out=self._open)
        if failed is None and self._open.min() == self.n and not step.dones.any():
            # Every row's oldest start spans n steps now: nothing to pick, nothing to copy.
            oldest = self._slot
            return step._replace(
                obs=self._obs[oldest],
                actions=self._actions[oldest],
                rewards=self._sums[oldest],
                critic=None if step.critic is None else self._critic[oldest],
                steps=self._all_n,
            )
        ends = step.dones if failed is None else step.dones | failed
        complete = (self._ages < self._open) & (ends | (self._ages == self.n - 1))
        if failed is not None:  # what is open ends where the failed step began, which is itself left out
            complete[-1] &= ~failed
            step = step._replace(
                next_obs=np.where(failed[:, None], step.obs, step.next_obs), truncated=step.truncated | failed
            )
            if step.critic is not None and step.next_critic is not None:
                step = step._replace(next_critic=np.where(failed[:, None], step.critic, step.next_critic))
        order, rows = complete.nonzero()
        slots, spans = self._slots[slot, order], self.n - order
        if failed is not None:
            spans -= failed[rows]
        self._open[ends] = 0
        return Transitions(
            obs=self._obs[slots, rows],
            actions=self._actions[slots, rows],
            rewards=self._sums[slots, rows],
            next_obs=step.next_obs[rows],
            dones=ends[rows],
            truncated=step.truncated[rows],
            critic=None if step.critic is None else self._critic[slots, rows],
            next_critic=None if step.next_critic is None else step.next_critic[rows],
            steps=spans,
        )

    def forget(self) -> None:
        """Drop every open start: the next step begins an episode in all rows."""
        if self.n > 1:
            self._open[:] = 0

    def state_dict(self) -> dict[str, Any]:
        """All open starts."""
        return {"slot": self._slot, **{name: array.copy() for name, array in self._arrays.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict`` of the same n, N and sizes; arrays may come back as CPU tensors."""
        self._slot = state["slot"]
        for name, array in self._arrays.items():
            array[...] = np.asarray(state[name])


class TransitionSink(Sink):
    """Adds what the steps complete to a replay buffer.

    A step that failed numerically (``StepResult.faults``) is left out; see ``NStepReturns``. ``replay`` has a column
    ``steps`` when ``n_step`` is above 1.
    """

    span_name = "replay_add"

    def __init__(self, replay: ReplayBuffer, env: VecEnv, *, gamma: float, n_step: int = 1) -> None:
        rows, obs_dim, critic_dim = env.num_envs, env.obs_dim, env.critic_dim
        self._replay = replay
        self._returns = NStepReturns(n_step, gamma, rows, obs_dim, env.action_dim, critic_dim)
        # The environment reuses its arrays: what a transition starts from is kept here.
        self._obs, self._next_obs = np.zeros((2, rows, obs_dim), np.float32)
        self._critic, self._next_critic = np.zeros((2, rows, critic_dim), np.float32)
        self._dones, self._truncated = np.zeros((2, rows), bool)

    def observe(self, t: int, env: VecEnv) -> FloatArray:
        self._obs[:] = env.obs
        if env.critic is not None:
            self._critic[:] = env.critic
        return self._obs

    def record(self, t: int, recorded: Mapping[str, np.ndarray], result: StepResult, episodes: np.ndarray) -> None:
        next_obs, next_critic, failed = result.obs, result.critic, None
        if len(result.final_ids):  # a transition ends at the true final observation
            self._next_obs[:] = next_obs
            self._next_obs[result.final_ids] = result.final_obs
            next_obs = self._next_obs
            if next_critic is not None:
                self._next_critic[:] = next_critic
                self._next_critic[result.final_ids] = result.final_critic
                next_critic = self._next_critic
        if result.faults:
            failed = np.zeros(len(self._dones), bool)
            failed[[fault.env_id for fault in result.faults]] = True
        step = Transitions(
            self._obs,
            recorded["actions"],
            result.reward,
            next_obs,
            np.logical_or(result.terminated, result.truncated, out=self._dones),
            # An end that is both is a termination: nothing follows, so nothing is to be bootstrapped.
            np.greater(result.truncated, result.terminated, out=self._truncated),
            None if next_critic is None else self._critic,
            next_critic,
        )
        self._replay.add(**self._returns.step(step, failed)._asdict())

    def state_dict(self) -> dict[str, Any]:
        """Open starts; the replay buffer is not part of it."""
        return {"returns": self._returns.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], *, same_episodes: bool) -> None:
        if same_episodes:
            self._returns.load_state_dict(state["returns"])
        else:  # what was open is lost
            self._returns.forget()
