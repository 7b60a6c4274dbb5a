"""The environments: one env step of the whole batch, and one partial reset, for asv."""

import numpy as np
import psutil

from unilab.envs import make
from unilab.envs.mujoco_env import MujocoVecEnv

ACTIONS = 16


class Step:
    """``step`` with observations, rewards and resets; the episodes are staggered."""

    param_names = ("task", "num_envs", "num_threads")
    params = (["HalfCheetah", "Hopper", "Walker2d", "Ant"], [64, 1024], [1, 2])
    timeout = 120

    def setup(self, task: str, num_envs: int, num_threads: int) -> None:
        self.env = make(task, num_envs, seed=0, num_threads=num_threads)
        self.env.reset()
        self.env.stagger()
        shape = (ACTIONS, num_envs, self.env.action_dim)
        self.actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        self.calls = 0
        for _ in range(10):
            self.env.step(self.actions[0])

    def teardown(self, task: str, num_envs: int, num_threads: int) -> None:
        self.env.close()

    def time_step(self, task: str, num_envs: int, num_threads: int) -> None:
        self.env.step(self.actions[self.calls % ACTIONS])
        self.calls += 1


class Reset:
    """``set_state`` of a few rows among many: what an episode's end costs."""

    param_names = ("task", "rows")
    params = (["HalfCheetah", "Ant"], [1, 64])

    def setup(self, task: str, rows: int) -> None:
        env = make(task, 1024, seed=0, num_threads=2)
        assert isinstance(env, MujocoVecEnv)
        env.reset()
        self.env = env
        self.ids = np.arange(rows) * (1024 // rows)
        self.state = np.tile(env.init_qpos, (rows, 1)), np.tile(env.init_qvel, (rows, 1))

    def teardown(self, task: str, rows: int) -> None:
        self.env.close()

    def time_set_state(self, task: str, rows: int) -> None:
        self.env.set_state(self.ids, *self.state)


class Memory:
    """Resident memory that the environments add to a process."""

    param_names = ("task", "num_envs")
    params = (["HalfCheetah", "Ant"], [1024])
    unit = "bytes"

    def track_resident_bytes(self, task: str, num_envs: int) -> int:
        process = psutil.Process()
        with make(task, 1, seed=0, num_threads=1) as small:
            small.reset()
            before = process.memory_info().rss
        with make(task, num_envs, seed=0, num_threads=2) as env:
            env.reset()
            return process.memory_info().rss - before
