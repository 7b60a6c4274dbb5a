"""An environment whose every number is known beforehand."""

import time

import numpy as np

from unilab.envs import SimulationFault, StepResult, VecEnv


class CountingEnv(VecEnv):
    """The observation is the number of steps of the running episode, the reward is 1.

    Episodes are cut off after ``limit`` steps; those of odd rows terminate one step earlier. ``explode_at`` makes row 0
    report a fault at that env step; ``fail_at`` raises there; from ``bad_from`` on the reward is ``reward``; from
    ``all_fail_from`` on all rows report faults, with states of ``state_size`` numbers and long messages.
    """

    def __init__(
        self,
        num_envs,
        *,
        num_threads=None,
        seed=None,
        limit=4,
        explode_at=None,
        fail_at=None,
        bad_from=None,
        reward=1.0,
        critic_dim=0,
        all_fail_from=None,
        state_size=3,
    ):
        self.num_envs, self.obs_dim, self.action_dim, self.critic_dim = num_envs, 1, 1, critic_dim
        self.action_low, self.action_high = np.full(1, -1, np.float32), np.full(1, 1, np.float32)
        self.max_episode_steps, self.num_threads = limit, 1
        self.elapsed_steps = np.zeros(num_envs, np.int64)
        self.explode_at, self.fail_at, self.bad_from, self.reward = explode_at, fail_at, bad_from, reward
        self.all_fail_from, self.state = all_fail_from, np.arange(float(state_size))
        self.steps = 0
        self.seen_actions = []

    @property
    def obs(self):
        return self.elapsed_steps[:, None].astype(np.float32)

    @property
    def critic(self):
        return np.repeat(self.obs * 10, self.critic_dim, axis=1) if self.critic_dim else None

    def reset(self, seed=None):
        self.elapsed_steps[:] = 0
        return self.obs, self.critic

    def stagger(self):
        self.elapsed_steps[:] = np.arange(self.num_envs) % self.max_episode_steps

    def step(self, actions):
        self.steps += 1
        if self.steps == self.fail_at:
            raise ArithmeticError(f"planned failure at step {self.steps}")
        self.seen_actions.append(actions.copy())
        self.elapsed_steps += 1
        odd = np.arange(self.num_envs) % 2 == 1
        terminated = odd & (self.elapsed_steps >= self.max_episode_steps - 1)
        reward = np.ones(self.num_envs, np.float32)
        if self.bad_from is not None and self.steps >= self.bad_from:
            reward[:] = self.reward
        faults = ()
        if self.steps == self.explode_at:
            terminated[0], reward[0] = True, 0
            faults = (SimulationFault(0, self.steps, "qpos", f"environment 0, env step {self.steps}", self.state),)
        if self.all_fail_from is not None and self.steps >= self.all_fail_from:
            terminated[:], reward[:] = True, 0
            why = f"env step {self.steps}: reward: nan at index 0 " + "of many " * 500
            faults = tuple(
                SimulationFault(row, self.steps, "reward", f"environment {row}, {why}", self.state)
                for row in range(self.num_envs)
            )
        truncated = self.elapsed_steps >= self.max_episode_steps
        ids = (terminated | truncated).nonzero()[0]
        final_obs = self.obs[ids]
        final_critic = None if self.critic is None else self.critic[ids]
        self.elapsed_steps[ids] = 0
        return StepResult(self.obs, reward, terminated, truncated, ids, final_obs, self.critic, final_critic, faults)

    def state_dict(self):
        return {"elapsed": self.elapsed_steps.copy(), "steps": self.steps}

    def load_state_dict(self, state):
        self.elapsed_steps[:] = np.asarray(state["elapsed"])
        self.steps = int(state["steps"])

    def close(self):
        pass


class Remembering(CountingEnv):
    """Its metrics say what it knows of the training before it."""

    def metrics(self):
        return {"steps_before": self.steps_before}


class Tiring(CountingEnv):
    """From the ninth step on each takes two seconds."""

    def step(self, actions):
        if self.steps >= 8:
            time.sleep(2)
        return super().step(actions)
