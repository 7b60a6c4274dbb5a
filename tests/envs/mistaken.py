"""Environments as one writes them at first: each with one mistake."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tests.envs.cart import Cart, Countdown


class WrongShape(Countdown):
    def step(self, action: Any) -> Any:
        return np.zeros(3, np.float32), 0.0, False, False, {}


class OldStep(Countdown):
    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, {}


class OldReset(Countdown):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32)


class NoSeed(Countdown):
    def reset(self) -> Any:  # type: ignore[override]
        return np.zeros(1, np.float32), {}


class NoSpaces(gymnasium.Env[Any, Any]):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {}


class ArrayReward(Countdown):
    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), np.zeros(1), False, False, {}


class NoReward(Countdown):
    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), None, False, False, {}


class NanReward(Countdown):
    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), float("nan"), False, False, {}


class NoEnd(Countdown):
    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, None, False, {}


class NoAttribute(Countdown):
    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), self.forgotten, False, False, {}


class DictObservation(Countdown):
    observation_space = spaces.Dict({"a": spaces.Box(0, 1, (1,))})  # type: ignore[assignment]


class Image(Countdown):
    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)  # type: ignore[assignment]


class Endless(Countdown):
    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {}


class NoObservation(Cart):
    def observe(self, state: Any) -> Any:
        state.qpos + 1


class RewardAlone(Cart):
    def evaluate(self, before: Any, actions: Any, state: Any) -> Any:
        return -np.abs(state.qpos[:, 0])


class RewardColumn(Cart):
    def evaluate(self, before: Any, actions: Any, state: Any) -> Any:
        return -np.abs(state.qpos), False


class NoTerminated(Cart):
    def evaluate(self, before: Any, actions: Any, state: Any) -> Any:
        return -np.abs(state.qpos[:, 0]), None


class AllRows(Cart):
    def observe(self, state: Any) -> Any:
        return self.qpos


class NoSuchField(Cart):
    def observe(self, state: Any) -> Any:
        return state.qacc


class OneState(Cart):
    def initial_state(self, count: int) -> Any:
        return self.init_qpos, self.init_qvel


def takes_nothing() -> None:
    raise AssertionError("this was called")


def no_environment(num_envs: int, *, num_threads: Any, seed: Any) -> str:
    return "three"
