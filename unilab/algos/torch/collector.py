"""What the collectors of all algorithms have in common: environments, counters, faults, exact state, their process."""

import textwrap
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch

from unilab.envs import SimulationFault, StepResult, VecEnv
from unilab.run.acting import EpisodeCounter
from unilab.run.fault_log import FaultStates
from unilab.run.resume import continue_generator
from unilab.run.seeding import derive_seed

REPORTED_FAULTS = 8
"""latest simulation faults that a message tells of; all are counted"""
MOST_TEXT = 500
"""characters of a fault's message that travel, so that a message has room in its mailbox whatever the model's size"""


class Collector:
    """Environments that a policy acts in, with what is counted of them.

    Args:
        env: the environments; stays the caller's to close.
        device: of the policy and of the random numbers that its actions are drawn with.
        seed: of environments and actions.
        stagger: spread the first episodes over the time limit.

    Attributes:
        fault_states: where the states of simulation faults are kept; nowhere by default.
    """

    def __init__(self, env: VecEnv, *, device: str = "cpu", seed: int = 0, stagger: bool = True) -> None:
        self.env = env
        self.device = torch.device(device)
        self.episodes = EpisodeCounter(env.num_envs)
        self.env_steps = 0
        self.fault_count = 0
        self.fault_states = FaultStates(None)
        self._latest_faults: deque[dict[str, Any]] = deque(maxlen=REPORTED_FAULTS)
        self._seed = seed
        self._generator = torch.Generator(self.device).manual_seed(derive_seed(seed, "actions"))
        env.reset(derive_seed(seed, "environment"))
        if stagger and env.max_episode_steps is not None:
            env.stagger()
            self.episodes.discard_running()

    def count(self, result: StepResult) -> None:
        """Take a step of all environments into the counters."""
        self.env_steps += self.env.num_envs
        self.episodes.step(result.reward, result.final_ids)
        if result.faults:
            self.fault_count += len(result.faults)
            self._latest_faults.extend(_summary(fault) for fault in result.faults[-REPORTED_FAULTS:])
            self.fault_states.keep(result.faults)

    def metrics(self) -> dict[str, Any]:
        """Counters since the start, the mean of recent episodes and the latest simulation faults, without states."""
        return {
            "env_steps": self.env_steps,
            "episodes": self.episodes.finished,
            "episode_return": self.episodes.mean_return,
            "episode_length": self.episodes.mean_length,
            "faults": list(self._latest_faults),
            "fault_count": self.fault_count,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed collector needs to go on bit for bit."""
        return {
            "env": self.env.state_dict(),
            "episodes": self.episodes.state_dict(),
            "env_steps": self.env_steps,
            # an array: between processes a tensor would travel as shared memory that ends with its sender
            "generator": self._generator.get_state().numpy(),
            "fault_count": self.fault_count,
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


def _summary(fault: SimulationFault) -> dict[str, Any]:
    """What fits into a message."""
    message = textwrap.shorten(fault.message, MOST_TEXT, placeholder=" ...")
    return {"env_id": fault.env_id, "step": fault.step, "field": fault.field, "message": message}
