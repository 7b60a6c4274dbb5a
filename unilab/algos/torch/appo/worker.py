"""The collector of asynchronous PPO: a policy acting in a batch of environments, filling rollouts."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unilab.algos.torch.appo.actor_critic import Actor, Critic, SamplingPolicy, build_networks
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.networks.sizes import pass_numbers, state_bytes
from unilab.envs import EnvDims, VecEnv, make
from unilab.ipc import RolloutRingBuffer, SharedFlag, SharedWeightSync
from unilab.ipc.memory_budget import BudgetItem, place_of
from unilab.machine.cores import keep_collector_to
from unilab.machine.devices import current_device, yield_to_learner
from unilab.run.acting import ActingLoop, ActingStopped, RolloutSink
from unilab.run.progress import put_latest_metrics
from unilab.run.seeding import derive_seed
from unilab.settings import parse
from unilab.tracing.spans import recording, span


@torch.no_grad()
def compute_timeout_bootstrap_correction(
    critic: Critic,
    collector_device: str | torch.device,
    gamma: float,
    timeout_mask: np.ndarray | Tensor,
    final_obs: np.ndarray | Tensor,
    final_critic: np.ndarray | Tensor | None,
) -> np.ndarray:
    """``gamma * V(final observation)`` for the rows that a time limit cut off, 0 for the others.

    Added to the reward of the truncated step, it stands for all the rewards behind it (Pardo et al. 2018,
    arXiv:1712.00378), so that the observation after the reset is never bootstrapped from.

    Args:
        critic: V, on ``collector_device``.
        collector_device: where the critic computes.
        gamma: discount a step.
        timeout_mask: [K] bool, truncated and not terminated. This and the next two are arrays or tensors.
        final_obs: [K, O] observations before the reset.
        final_critic: [K, C] privileged ones if the critic sees those, else None.

    Returns:
        [K] float32.
    """
    mask = torch.as_tensor(timeout_mask, device="cpu").numpy().astype(bool)
    correction = np.zeros(mask.shape, np.float32)
    if mask.any():
        seen = torch.as_tensor(final_obs if final_critic is None else final_critic)
        rows = seen[torch.from_numpy(mask).to(seen.device)]
        values = critic(rows.to(collector_device, torch.float32))
        correction[mask] = gamma * values.float().cpu().numpy()
    return correction


def acting_loop(
    config: APPOConfig,
    env: VecEnv,
    actor: Actor,
    critic: Critic,
    *,
    seed: int,
    faults: Path | None = None,
    renew: Callable[[], bool] = lambda: False,
) -> tuple[ActingLoop, RolloutSink]:
    """The acting loop that collects for ``config``, and its sink, which has the arrays to write into.

    Args:
        env: the environments; they stay the caller's to close.
        actor, critic: on the collector's device.
        seed: of environments and actions.
        faults: the file of simulation faults.
        renew: as ``SamplingPolicy`` has it.
    """
    device = config.collector_device
    sink = RolloutSink(partial(compute_timeout_bootstrap_correction, critic, device, config.algorithm.gamma))
    policy = SamplingPolicy(actor, env, device, renew)
    loop = ActingLoop(env, policy, sink, device=device, seed=seed, stagger=config.stagger_episodes, faults=faults)
    return loop, sink


def inference_items(config: APPOConfig, actor: Actor, critic: Critic, dims: EnvDims) -> list[BudgetItem]:
    """The memory of the policy that acts."""
    place, steps = place_of(config.collector_device), 1 if dims.num_actions else config.steps_per_env
    numbers = steps * dims.outputs + pass_numbers(actor.body, dims.obs)[1]
    return [
        BudgetItem("collector's models", place, state_bytes(actor) + state_bytes(critic), "actor and critic"),
        BudgetItem("inference", place, 2 * 4 * config.num_envs * numbers, "noise of a rollout, activations of a step"),
    ]


class NewestWeights:
    """Gives the networks of a collector the newest published weights, before each of its steps.

    Args:
        published, networks: of the actor and of the critic, by the same names.
    """

    def __init__(self, published: Mapping[str, SharedWeightSync], networks: Mapping[str, nn.Module]) -> None:
        self._published = published
        self._networks = networks
        self._version = -1
        self._acted: list[int] = []

    def renew(self) -> bool:
        """Take what is newer than what the networks have; whether there was any."""
        newer = self._published["actor"].version != self._version
        if newer:
            with span("weight_read"):
                self._published["critic"].read_weights_into(self._networks["critic"].state_dict())
                self._version = self._published["actor"].read_weights_into(self._networks["actor"].state_dict())
        self._acted.append(self._version)
        return newer

    def mean_version(self) -> int:
        """The mean version of the weights that acted since the last call, rounded."""
        acted, self._acted = self._acted, []
        return round(statistics.fmean(acted))


def appo_collector_fn(
    stop_event: SharedFlag,
    env_name: str,
    rl_cfg: Mapping[str, Any],
    num_envs: int,
    steps_per_env: int,
    shm_rollout_ring_buffer_name: str,
    sync_primitives: tuple[Any, Any],
    obs_dim: int,
    action_dim: int,
    critic_dim: int,
    actor_weight_sync_name: str,
    actor_weight_param_shapes: Mapping[str, Any],
    critic_weight_sync_name: str,
    critic_weight_param_shapes: Mapping[str, Any],
    metrics_queue: Any,
    collector_device: str = "cpu",
    sim_backend: str = "mujoco",
    env_cfg_override: Mapping[str, Any] | None = None,
    seed: int | None = None,
    *,
    faults: Path | None = None,
    env_steps_before: int = 0,
) -> None:
    """The collector process: attach to the shared memory, then collect with the newest weights until told to stop.

    Args:
        faults: the file of its simulation faults.
        env_steps_before: that the training made before it was resumed.
    """
    config = dataclasses.replace(parse(APPOConfig, rl_cfg), collector_device=collector_device)
    torch.set_num_threads(config.inference_threads or 1)
    keep_collector_to(config)
    yield_to_learner(config)
    ring = RolloutRingBuffer(
        num_envs,
        steps_per_env,
        obs_dim,
        action_dim,
        critic_dim=critic_dim,
        num_slots=config.num_slots,
        create=False,
        shm_name_prefix=shm_rollout_ring_buffer_name,
    )
    ring.attach_sync_primitives(*sync_primitives)
    actor_sync = SharedWeightSync(actor_weight_param_shapes, create=False, shm_name=actor_weight_sync_name)
    critic_sync = SharedWeightSync(critic_weight_param_shapes, create=False, shm_name=critic_weight_sync_name)
    seed = config.seed if seed is None else seed
    env = make(env_name, num_envs, sim_backend, env_cfg_override, derive_seed(seed, "environment"), config.env_threads)
    env.steps_before = env_steps_before / num_envs
    actor, critic = build_networks(config, env.dims)
    actor.to(collector_device)
    critic.to(collector_device)
    weights = NewestWeights({"actor": actor_sync, "critic": critic_sync}, {"actor": actor, "critic": critic})
    loop, sink = acting_loop(config, env, actor, critic, seed=seed, faults=faults, renew=weights.renew)
    busy_seconds = wait_seconds = 0.0
    with (
        closing(ring), closing(critic_sync), closing(actor_sync), env,
        current_device(collector_device), recording("collector", config),
    ):  # fmt: skip
        while not stop_event.is_set():
            waiting_since = time.monotonic()
            with span("wait"):
                has_space = config.when_full != "wait"
                while not has_space and not stop_event.is_set():
                    has_space = ring.wait_for_space(unless=stop_event)
            if not has_space:
                break
            busy_since = time.monotonic()
            wait_seconds += busy_since - waiting_since
            with span("collect"):
                sink.arrays = ring.write_buffer
                try:
                    loop.run(steps_per_env, stop_event.is_set)
                except ActingStopped:
                    break
            ring.policy_version = weights.mean_version()
            busy_seconds += time.monotonic() - busy_since
            message = loop.metrics() | {"busy_seconds": busy_seconds, "wait_seconds": wait_seconds}
            put_latest_metrics(metrics_queue, message, worker_name="collector")
            ring.signal_write_done()
