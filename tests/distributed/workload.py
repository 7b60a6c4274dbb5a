"""The environment and the policy that the workers of these tests run; importable by spawned processes."""

import copy
import functools
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.envs.cart import Cart, CartSettings
from unilab.distributed import Rollout, RolloutBuffer
from unilab.envs import StepResult, VecEnv
from unilab.envs.vec_env import FloatArray
from unilab.ipc import RolloutRingBuffer

STEPS = 12
SEEDS = (3, 1_000_007, 5)


class UnpicklableError(Exception):
    """An exception that fails on its way to another process."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@dataclass(frozen=True)
class FailingSettings(CartSettings):
    frame_skip: int = 50
    max_episode_steps: int | None = 15
    sour_above: float = 4.0
    fail_seed: int = -1
    """the environment that is reset with it fails"""
    fail_at: int = 7
    """in this env step"""
    failure: str = "raise"
    """or kill, or stop, as a process that hangs stands"""


class FailingCart(Cart):
    """The cart, which moves far enough to terminate and to fail numerically, and fails otherwise if it is told to."""

    settings_class = FailingSettings
    settings: FailingSettings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._seed: int | None = None
        self._steps = 0
        super().__init__(*args, **kwargs)

    def reset(self, seed: int | None = None) -> tuple[FloatArray, FloatArray | None]:
        self._seed = seed
        return super().reset(seed)

    def step(self, actions: FloatArray) -> StepResult:
        self._steps += 1
        if self._seed == self.settings.fail_seed and self._steps == self.settings.fail_at:
            if self.settings.failure == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.settings.failure == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            raise UnpicklableError(1, 2)
        return super().step(actions)


def make_cart(**settings: Any) -> VecEnv:
    return FailingCart(2, num_threads=1, seed=None, **settings)


def carts(**settings: Any) -> Callable[[], VecEnv]:
    """A factory of carts with these settings."""
    return functools.partial(make_cart, **settings)


class NoisyPolicy(nn.Module):
    """A linear policy with noise."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def compute_actions(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        return self.layer(obs) + torch.randn(len(obs), 1, generator=generator)


class RecordingBuffer(RolloutBuffer):
    """A buffer that keeps each rollout as it came."""

    def __init__(self, capacity: int = 1000) -> None:
        super().__init__(capacity, seed=1)
        self.rollouts: list[Rollout] = []

    def add_rollout(self, rollout: Rollout) -> None:
        super().add_rollout(rollout)
        self.rollouts.append(copy.deepcopy(rollout))


def stamps(rollouts: Sequence[Rollout]) -> list[tuple[int, int, int, int]]:
    """Of each rollout: worker, incarnation, sequence, policy version."""
    return [(one.worker, one.incarnation, one.sequence, one.policy_version) for one in rollouts]


def assert_same(first: Sequence[Rollout], second: Sequence[Rollout]) -> None:
    """Both are the same rollouts, bit for bit."""
    assert stamps(first) == stamps(second)
    for one, other in zip(first, second, strict=True):
        assert one.steps.keys() == other.steps.keys()
        for name, array in one.steps.items():
            assert array.dtype == other.steps[name].dtype, name
            assert array.tobytes() == other.steps[name].tobytes(), f"{name} of rollout {stamps([one])} differs"
        assert one.episodes.tobytes() == other.episodes.tobytes()


def dies_in_the_ring(marker: Path) -> Callable[[], VecEnv]:
    """A factory of carts; the first worker that announces its second rollout is killed in the middle of that."""
    return functools.partial(_make_cart_that_dies_in_the_ring, marker)


def _make_cart_that_dies_in_the_ring(marker: Path) -> VecEnv:
    announce, calls = RolloutRingBuffer.signal_write_done, itertools.count(1)

    class MortalWords:
        """Of a ring; the process is killed with the lock held, after the last store of the announcement."""

        def __init__(self, words: memoryview) -> None:
            self._words, self._stores = words, itertools.count(1)

        def __getitem__(self, index: Any) -> Any:
            return self._words[index]

        def __setitem__(self, index: int, value: int) -> None:
            self._words[index] = value
            if next(self._stores) == 3:
                with suppress(FileExistsError):
                    marker.touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)

    def killed(ring: RolloutRingBuffer) -> None:
        words = ring._words
        if next(calls) == 2:
            ring._words = MortalWords(words)  # type: ignore[assignment]
        announce(ring)
        ring._words = words

    if multiprocessing.parent_process() is not None:
        setattr(RolloutRingBuffer, "signal_write_done", killed)  # noqa: B010 - mypy knows no other way
    return make_cart()
