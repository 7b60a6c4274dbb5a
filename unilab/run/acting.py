"""The acting loop of all trainers: a policy acts in a batch of environments; its steps are recorded and counted."""

import dataclasses
import json
import textwrap
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from unilab.envs import SimulationFault, StepResult, VecEnv
from unilab.envs.vec_env import FloatArray
from unilab.ipc.process.child import report_step
from unilab.run.checkpoint import continue_generator
from unilab.run.fault_log import KEPT_FAULTS
from unilab.run.progress import WINDOW
from unilab.run.seeding import derive_seed
from unilab.tracing.spans import span

REPORTED_FAULTS = 8
"""number of the latest simulation faults that a message has; all are counted"""
MOST_TEXT = 500
"""most characters of a fault's message that are sent, so that it has room in a mailbox whatever the model's size"""

NO_EPISODES = np.empty((0, 2))

Bootstrap = Callable[[NDArray[np.bool_], FloatArray, FloatArray | None], np.ndarray]
"""What is added to the rewards [K] of rows that ended, given whether a time limit cut the episode off [K], the final
observations [K, O] and the final privileged observations [K, C] or None"""


class ActingPolicy(Protocol):
    """What an algorithm acts with, without gradients. All its random numbers come from ``generator``."""

    def begin(self, steps: int, made: int, generator: torch.Generator) -> None:
        """Prepare for the next ``steps`` calls of ``act``; ``made`` env steps were made before, all rows together."""

    def act(self, obs: FloatArray, generator: torch.Generator) -> tuple[FloatArray, Mapping[str, np.ndarray]]:
        """Actions for observations [N, O], which it must not keep.

        Returns:
            actions [N, A] for the environments, and by name what is recorded of the step: ``actions`` [N, A] as the
            learner wants them, and perhaps more [N, ...].
        """


class Sink(ABC):
    """Where the steps of all N rows go, one after the other."""

    span_name: ClassVar[str]
    """of its work in a timeline"""

    @abstractmethod
    def observe(self, t: int, env: VecEnv) -> FloatArray:
        """Keep what step ``t`` of this run starts from; the observations [N, O], valid until it is recorded."""

    @abstractmethod
    def record(self, t: int, recorded: Mapping[str, np.ndarray], result: StepResult, episodes: np.ndarray) -> None:
        """Take step ``t``: what the policy said of it, what the environments answered, and [K, 2] returns and lengths
        of the whole episodes that ended with it."""

    def finish(self, env: VecEnv) -> None:  # noqa: B027 - most need nothing more
        """The run has ended; ``env`` holds the observations that follow its last step."""

    def state_dict(self) -> dict[str, Any]:
        """What is incomplete between two runs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], *, same_episodes: bool) -> None:  # noqa: B027
        """Go on from ``state_dict``; without ``same_episodes`` all rows have begun new ones."""


class RolloutSink(Sink):
    """Writes a rollout ``[T, N, ...]`` into ``arrays``, which have the names of ``rollout_ring_buffer.slot_fields``.

    Args:
        bootstrap: what is added to the rewards of rows that end, for time limits; None: nothing.

    Attributes:
        arrays: to write into; to be set before each run.
    """

    span_name = "rollout_write"

    def __init__(self, bootstrap: Bootstrap | None = None) -> None:
        self.arrays: Mapping[str, np.ndarray] = {}
        self._bootstrap = bootstrap

    def observe(self, t: int, env: VecEnv) -> FloatArray:
        self.arrays["obs"][t] = env.obs
        if env.critic is not None:
            self.arrays["critic"][t] = env.critic
        return self.arrays["obs"][t]

    def record(self, t: int, recorded: Mapping[str, np.ndarray], result: StepResult, episodes: np.ndarray) -> None:
        for name, values in recorded.items():
            self.arrays[name][t] = values
        rewards, truncated = self.arrays["rewards"][t], self.arrays["truncated"][t]
        rewards[:] = result.reward
        np.logical_or(result.terminated, result.truncated, out=self.arrays["dones"][t], casting="unsafe")
        # An end that is both is a termination: nothing follows, so nothing is to be bootstrapped.
        np.greater(result.truncated, result.terminated, out=truncated, casting="unsafe")
        if self._bootstrap is not None and len(result.final_ids):
            ended = result.final_ids
            rewards[ended] += self._bootstrap(truncated[ended].astype(bool), result.final_obs, result.final_critic)

    def finish(self, env: VecEnv) -> None:
        self.arrays["last_obs"][:] = env.obs
        if env.critic is not None:
            self.arrays["last_critic"][:] = env.critic


class ActingStopped(Exception):
    """A run was given up between two steps, because the loop was told to stop."""


class ActingLoop:
    """Acts, steps, counts and records; the same object serves a process of its own and the learner's process.

    Args:
        env: the environments, which it resets; they stay the caller's to close.
        device: of the policy's random numbers.
        seed: of actions, and of the environments unless ``env_seed`` says.
        env_seed: of the environments.
        stagger: spread the first episodes over the time limit.
        faults: JSON-lines file that the first ``KEPT_FAULTS`` simulation faults are appended to, with their states
            (env_id, step, field, message, state), which may be too large to travel; None: they are kept nowhere.

    Attributes:
        env_steps: made so far, all rows together.
        fault_count: steps that failed numerically.
    """

    def __init__(
        self,
        env: VecEnv,
        policy: ActingPolicy,
        sink: Sink,
        *,
        device: str = "cpu",
        seed: int = 0,
        env_seed: int | None = None,
        stagger: bool = False,
        faults: Path | None = None,
    ) -> None:
        self.env = env
        self.policy = policy
        self.sink = sink
        self.episodes = EpisodeCounter(env.num_envs)
        self.env_steps = 0
        self.fault_count = 0
        self._latest_faults: deque[dict[str, Any]] = deque(maxlen=REPORTED_FAULTS)
        self._faults, self._kept_faults = faults, 0
        self._seed = seed
        self._generator = torch.Generator(device).manual_seed(derive_seed(seed, "actions"))
        env.reset(derive_seed(seed, "environment") if env_seed is None else env_seed)
        if stagger and env.max_episode_steps is not None:
            env.stagger()
            self.episodes.discard_running()

    @torch.no_grad()
    def run(self, steps: int, stopped: Callable[[], bool] | None = None) -> None:
        """Make so many steps of all environments; raises ActingStopped when ``stopped``, asked before each, says so."""
        env, policy, sink = self.env, self.policy, self.sink
        policy.begin(steps, self.env_steps, self._generator)
        for t in range(steps):
            if stopped is not None and stopped():
                raise ActingStopped
            with span(sink.span_name):
                obs = sink.observe(t, env)
            with span("inference"):
                actions, recorded = policy.act(obs, self._generator)
            with span("env_step"):
                result = env.step(actions)
            self.env_steps += env.num_envs
            report_step(self.env_steps)
            episodes = self.episodes.step(result.reward, result.final_ids)
            if result.faults:
                self._keep(result.faults)
            with span(sink.span_name):
                sink.record(t, recorded, result, episodes)
        sink.finish(env)

    def _keep(self, faults: Sequence[SimulationFault]) -> None:
        self.fault_count += len(faults)
        first = faults[: KEPT_FAULTS - self._kept_faults]
        if self._faults is not None and first:
            self._kept_faults += len(first)
            with self._faults.open("a", encoding="utf-8") as file:
                for fault in first:
                    file.write(json.dumps(dataclasses.asdict(fault) | {"state": fault.state.tolist()}) + "\n")
        for fault in faults[-REPORTED_FAULTS:]:
            text = textwrap.shorten(fault.message, MOST_TEXT, placeholder=" ...")
            told = {"env_id": fault.env_id, "step": fault.step, "field": fault.field, "message": text}
            self._latest_faults.append(told)

    def metrics(self) -> dict[str, Any]:
        """Counters since the start, means of recent episodes, the latest faults, and the environment's own numbers."""
        return {
            "env_steps": self.env_steps,
            "episodes": self.episodes.finished,
            "episode_return": self.episodes.mean_return,
            "episode_length": self.episodes.mean_length,
            "faults": list(self._latest_faults),
            "fault_count": self.fault_count,
            "environment": {name: float(value) for name, value in self.env.metrics().items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything but the policy's weights that a resumed loop needs to go on bit for bit."""
        return {
            "env": self.env.state_dict(),
            "episodes": self.episodes.state_dict(),
            "env_steps": self.env_steps,
            # an array: between processes a tensor would travel as shared memory that ends with its sender
            "generator": self._generator.get_state().numpy(),
            "fault_count": self.fault_count,
            **self.sink.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``; its arrays may come back as CPU tensors."""
        self.env.load_state_dict(state["env"])
        self.episodes.load_state_dict(state["episodes"])
        if not self.env.exact_resume:  # the episodes that were under way have begun anew
            self.episodes.discard_running()
        self.env_steps = state["env_steps"]
        seed = derive_seed(self._seed, f"actions resumed at {self.env_steps}")
        continue_generator(self._generator, state["generator"], seed)
        self.fault_count = state["fault_count"]
        self.sink.load_state_dict(state, same_episodes=self.env.exact_resume)


class EpisodeCounter:
    """Returns and lengths of episodes: of those under way in N rows, and of the last ``WINDOW`` that have finished.

    Rewards are the environment's own. Episodes under way when ``discard_running`` is called (a staggered start) do not
    count when they end: part of them is missing.

    Args:
        num_envs: N; 0 where episodes are only added that were counted elsewhere.

    Attributes:
        finished: episodes since the start.
        mean_return, mean_length: of the recent episodes; nan before the first one ended.
    """

    def __init__(self, num_envs: int = 0) -> None:
        self.finished = 0
        self.mean_return = self.mean_length = float("nan")
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self._partial = np.zeros(num_envs, dtype=bool)
        self._recent: deque[Sequence[float]] = deque(maxlen=WINDOW)

    def discard_running(self) -> None:
        """Do not count the episodes that are under way now."""
        self._partial[:] = True

    def step(self, rewards: np.ndarray, ended: NDArray[np.int64]) -> NDArray[np.float64]:
        """Add one step.

        Args:
            rewards: [N].
            ended: [K] rows whose episode ended with it, ascending.

        Returns:
            [K, 2] returns and lengths of these episodes, without those that do not count.
        """
        self._returns += rewards
        self._lengths += 1
        if len(ended) == 0:
            return NO_EPISODES
        whole = ended[~self._partial[ended]]
        episodes = np.empty((len(whole), 2))
        episodes[:, 0], episodes[:, 1] = self._returns[whole], self._lengths[whole]
        self.add(episodes.tolist())
        self._returns[ended] = 0
        self._lengths[ended] = 0
        self._partial[ended] = False
        return episodes

    def add(self, episodes: Sequence[Sequence[float]]) -> None:
        """Count finished episodes, (return, length) each, in the order of their ends."""
        if episodes:
            self._recent.extend(episodes)
            self.finished += len(episodes)
            self.mean_return, self.mean_length = (
                sum(column) / len(column) for column in zip(*self._recent, strict=True)
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything, in types that a checkpoint can hold."""
        return {
            "finished": self.finished,
            "returns": self._returns.tolist(),
            "lengths": self._lengths.tolist(),
            "partial": self._partial.tolist(),
            "recent": [list(episode) for episode in self._recent],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``, before the first step."""
        self._returns[:] = state["returns"]
        self._lengths[:] = state["lengths"]
        self._partial[:] = state["partial"]
        self.add(state["recent"])
        self.finished = state["finished"]
