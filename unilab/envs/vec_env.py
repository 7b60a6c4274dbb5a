"""The contract of a batched environment.

The loop that every implementation serves::

    with make("HalfCheetah", num_envs=256, seed=0) as env:
        obs, critic = env.reset()
        while True:
            result = env.step(policy(obs))      # rows that ended are already reset
            obs = result.obs                    # valid until the next step

Shapes: N environments, O observation, A action, C privileged (critic) observation, K rows that ended in a step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from unilab.errors import UserError

FloatArray = NDArray[np.float32]


class EnvironmentMistake(UserError, ValueError):
    """A mistake in an environment's own code: which method returned what, and what was expected."""


def describe(value: Any) -> str:
    """A value in few words."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and type {value.dtype}"
    if isinstance(value, tuple | list):
        shown = ", ".join("an array" if isinstance(part, np.ndarray) else f"{part!r:.30}" for part in value[:6])
        return f"a {type(value).__name__} of {len(value)}: ({shown})"
    return f"{value!r:.80}"


@dataclass(frozen=True)
class EnvDims:
    """Sizes that networks and buffers need to know of an environment."""

    obs: int
    action: int
    critic: int
    """0: no privileged observation"""
    num_actions: int = 0
    """see ``VecEnv.num_actions``"""

    @property
    def outputs(self) -> int:
        """Numbers that a policy's network gives: a logit for each discrete action, or a mean for each column."""
        return self.num_actions or self.action


@dataclass(frozen=True, eq=False)
class SimulationFault:
    """A numerical failure that ended one environment's episode."""

    env_id: int
    """row of the environment, 0 to N - 1"""
    step: int
    """env steps this environment had made since its creation, the failed one included"""
    field: str
    """what was bad: action, qpos, qvel, qacc, simulation, observation, critic or reward"""
    message: str
    """one sentence for a person; names environment and step"""
    state: np.ndarray
    """[S] float64, the state before the failed step with its action, for replay; empty where there is none"""


class StepResult(NamedTuple):
    """One env step of all rows. The arrays are the environment's own buffers, valid until the next step."""

    obs: FloatArray
    """[N, O]; of the next episode for a row that ended"""
    reward: FloatArray
    """[N]"""
    terminated: NDArray[np.bool_]
    """[N]; the episode is over, nothing follows its final observation"""
    truncated: NDArray[np.bool_]
    """[N]; the episode was cut by its time limit, bootstrap from its final observation"""
    final_ids: NDArray[np.int64]
    """[K] rows that ended in this step, ascending"""
    final_obs: FloatArray
    """[K, O] their observation before the reset"""
    critic: FloatArray | None
    """[N, C], None without a privileged observation"""
    final_critic: FloatArray | None
    """[K, C]"""
    faults: tuple[SimulationFault, ...]
    """rows that failed in this step; usually empty"""


class VecEnv(ABC):
    """N environments that step together.

    A row that terminates or reaches the time limit is reset in the same step. A row whose simulation fails ends
    with reward 0, terminated, its last finite observation as the final one, and a ``SimulationFault``; the other
    rows do not notice. NaN never leaves the environment. Actions reach the simulation as they are given.
    """

    exact_resume: bool = True
    """whether ``load_state_dict`` continues bit for bit"""
    simulates_here: ClassVar[bool] = False
    """whether all of its work is known to be done on the CPUs of this machine, by processes that descend from the one
    that steps it: then it stands still when these are stopped"""

    num_actions: int = 0
    """K discrete actions: ``step`` takes the index, 0 to K - 1, of each row's; 0: actions are continuous"""
    num_envs: int
    obs_dim: int
    action_dim: int
    critic_dim: int
    """0: no privileged observation"""
    action_low: FloatArray
    """[A]"""
    action_high: FloatArray
    """[A]"""
    max_episode_steps: int | None
    num_threads: int
    """threads that step the physics, the caller's included"""
    elapsed_steps: NDArray[np.int64]
    """[N] env steps of the running episodes"""
    steps_before: float = 0
    """env steps of each row that training made before it made these environments; infinity: training is over"""

    @property
    def dims(self) -> EnvDims:
        """What networks and buffers need to know."""
        return EnvDims(self.obs_dim, self.action_dim, self.critic_dim, self.num_actions)

    @property
    @abstractmethod
    def obs(self) -> FloatArray:
        """[N, O] the current observation: what the last ``reset``, ``step`` or ``load_state_dict`` left."""

    @property
    @abstractmethod
    def critic(self) -> FloatArray | None:
        """[N, C] the current privileged observation, None without one."""

    @abstractmethod
    def reset(self, seed: int | None = None) -> tuple[FloatArray, FloatArray | None]:
        """Start new episodes in all rows.

        Args:
            seed: restarts the random stream; None continues it.

        Returns:
            obs [N, O] and critic [N, C] or None.
        """

    @abstractmethod
    def step(self, actions: FloatArray) -> StepResult:
        """Advance every row by one env step.

        Args:
            actions: [N, A]; [N, 1] indices where actions are discrete.

        Raises:
            ValueError: actions of another shape.
            RuntimeError: closed, or not reset yet.
        """

    @abstractmethod
    def stagger(self) -> None:
        """Spread the rows' elapsed steps over the time limit, so that not all episodes end together.

        Call it after ``reset``. The episodes then running are cut short: their returns are not to be counted.
        """

    def metrics(self) -> dict[str, float]:
        """Numbers by name, for the metrics of training; means over the steps since this was asked last."""
        return {}

    def judge(self, policy: Callable[[FloatArray], FloatArray], episodes: int, seed: int) -> dict[str, float]:
        """What the task itself says of a policy beside returns, by name; it steps environments of its own.

        ``success`` among the names is whether the policy solves the task. A task that says so can be trained for the
        time until it is solved.

        Args:
            policy: actions [N, A] for observations [N, O], without noise.
            episodes: that are to be played.
            seed: of the environments.
        """
        return {}

    def deployment(self) -> dict[str, Any]:
        """What a program needs to know that runs a policy elsewhere, such as on a robot, by name; for JSON.

        Names that several tasks have: ``step_seconds`` between two actions, ``joint_names`` in the order of the
        actions, ``observation_names``.
        """
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Copies of all that the next steps depend on: arrays, int, str and nested dicts of them."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a ``state_dict`` of an environment made with the same arguments.

        Arrays may come back as CPU tensors.

        Raises:
            ValueError: the state is of another environment.
        """

    @abstractmethod
    def close(self) -> None:
        """Release all resources; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Factory(Protocol):
    """Makes an environment; a ``VecEnv`` class with this constructor is one."""

    def __call__(self, num_envs: int, *, num_threads: int | None, seed: int | None, **cfg: Any) -> VecEnv: ...
