"""The collector of asynchronous PPO: a policy acting in a batch of environments, filling rollouts."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.collector import Collector, LatestQueue, put_latest_metrics, yield_to_learner
from unilab.algos.torch.networks.actor_critic import Actor, Critic
from unilab.algos.torch.networks.distributions import LOG_SQRT_2PI
from unilab.envs import StepResult, VecEnv, make
from unilab.ipc import RolloutRingBuffer, SharedFlag, SharedWeightSync
from unilab.ipc.process.child import report_step
from unilab.machine.devices import current_device
from unilab.run.fault_log import FaultStates
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


class RolloutCollector(Collector):
    """Fills rollouts ``[T, N, ...]`` in place; the same object serves a process of its own and the synchronous mode.

    Args:
        env: the environments; stays the caller's to close.
        actor: the policy, on ``device``.
        critic: V for the time-out bootstrap, on ``device``.
        steps: T.
        gamma: discount a step.
        device: where the policy computes.
        seed: of environments and actions.
        stagger: spread the first episodes over the time limit.
    """

    def __init__(
        self,
        env: VecEnv,
        actor: Actor,
        critic: Critic,
        *,
        steps: int,
        gamma: float,
        device: str = "cpu",
        seed: int = 0,
        stagger: bool = True,
    ) -> None:
        super().__init__(env, device=device, seed=seed, stagger=stagger)
        self.actor = actor
        self.critic = critic
        self.steps = steps
        self.gamma = gamma
        self._clipped = np.empty((env.num_envs, env.action_dim), np.float32)

    @torch.no_grad()
    def collect(self, rollout: Mapping[str, np.ndarray]) -> None:
        """Act for T steps and write every field of ``rollout`` (those of ``RolloutRingBuffer``)."""
        env = self.env
        log_std = self.actor.log_std
        std = log_std.exp()
        noise = torch.randn(self.steps, env.num_envs, env.action_dim, generator=self._generator, device=self.device)
        log_probs = -0.5 * noise.square().sum(-1) - (log_std.sum() + LOG_SQRT_2PI * env.action_dim)
        rollout["log_probs"][:] = log_probs.cpu().numpy()
        for t in range(self.steps):
            with span("rollout_write"):
                rollout["obs"][t] = env.obs
                if env.critic is not None:
                    rollout["critic"][t] = env.critic
            with span("inference"):
                mean = self.actor(torch.from_numpy(rollout["obs"][t]).to(self.device))
                actions = torch.addcmul(mean, noise[t], std).cpu().numpy()
            rollout["actions"][t] = actions
            np.clip(actions, env.action_low, env.action_high, out=self._clipped)
            with span("env_step"):
                result = env.step(self._clipped)
            with span("rollout_write"):
                self._record(rollout, t, result)
        rollout["last_obs"][:] = env.obs
        if env.critic is not None:
            rollout["last_critic"][:] = env.critic

    def _record(self, rollout: Mapping[str, np.ndarray], t: int, result: StepResult) -> None:
        """Write what the environments answered at step ``t``."""
        rewards = rollout["rewards"][t]
        rewards[:] = result.reward
        np.logical_or(result.terminated, result.truncated, out=rollout["dones"][t], casting="unsafe")
        rollout["truncated"][t] = result.truncated
        self.count(result)
        if len(result.final_ids):
            ended = result.final_ids
            timeouts = result.truncated[ended] & ~result.terminated[ended]
            rewards[ended] += compute_timeout_bootstrap_correction(
                self.critic, self.device, self.gamma, timeouts, result.final_obs, result.final_critic
            )


def build_networks(config: APPOConfig, obs_dim: int, action_dim: int, critic_dim: int) -> tuple[Actor, Critic]:
    """The actor and critic that ``config`` describes, on the CPU; the critic sees the privileged observation if any."""
    policy = config.policy
    actor = Actor(
        obs_dim,
        action_dim,
        hidden_dims=policy.hidden_dims,
        activation=policy.activation,
        init_noise_std=policy.init_noise_std,
        obs_normalization=config.obs_normalization,
    )
    critic = Critic(
        critic_dim or obs_dim,
        hidden_dims=policy.critic_hidden_dims,
        activation=policy.activation,
        obs_normalization=config.obs_normalization,
    )
    return actor, critic


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
    metrics_queue: LatestQueue,
    collector_device: str = "cpu",
    sim_backend: str = "mujoco",
    env_cfg_override: Mapping[str, Any] | None = None,
    seed: int | None = None,
    *,
    faults: Path | None = None,
) -> None:
    """The collector process: attach to the shared memory, then collect with the newest weights until told to stop.

    ``faults``: the file of its simulation faults.
    """
    config = parse(APPOConfig, rl_cfg)
    torch.set_num_threads(config.inference_threads or 1)
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
    actor, critic = build_networks(config, obs_dim, action_dim, critic_dim)
    actor_sync = SharedWeightSync(actor_weight_param_shapes, create=False, shm_name=actor_weight_sync_name)
    critic_sync = SharedWeightSync(critic_weight_param_shapes, create=False, shm_name=critic_weight_sync_name)
    seed = config.seed if seed is None else seed
    env = make(env_name, num_envs, sim_backend, env_cfg_override, derive_seed(seed, "environment"), config.env_threads)
    collector = RolloutCollector(
        env,
        actor.to(collector_device),
        critic.to(collector_device),
        steps=steps_per_env,
        gamma=config.algorithm.gamma,
        device=collector_device,
        seed=seed,
        stagger=config.stagger_episodes,
    )
    collector.fault_states = FaultStates(faults)
    try:
        with current_device(collector_device), recording("collector", config):
            _collect_until_stopped(stop_event, collector, ring, actor_sync, critic_sync, metrics_queue)
    finally:
        env.close()
        actor_sync.close()
        critic_sync.close()
        ring.close()


def _collect_until_stopped(
    stop_event: SharedFlag,
    collector: RolloutCollector,
    ring: RolloutRingBuffer,
    actor_sync: SharedWeightSync,
    critic_sync: SharedWeightSync,
    metrics_queue: LatestQueue,
) -> None:
    version = -1
    busy_seconds = wait_seconds = 0.0
    while not stop_event.is_set():
        waiting_since = time.monotonic()
        with span("wait"):
            space = ring.when_full != "wait" or ring.wait_for_space(unless=stop_event)
        if not space:
            continue
        busy_since = time.monotonic()
        wait_seconds += busy_since - waiting_since
        if actor_sync.version != version:
            with span("weight_read"):
                critic_sync.read_weights_into(collector.critic.state_dict())
                version = actor_sync.read_weights_into(collector.actor.state_dict())
        with span("collect"):
            collector.collect(ring.write_buffer)
        ring.policy_version = version
        report_step(collector.env_steps)
        busy_seconds += time.monotonic() - busy_since
        message = collector.metrics() | {"busy_seconds": busy_seconds, "wait_seconds": wait_seconds}
        put_latest_metrics(metrics_queue, message, worker_name="collector")
        ring.signal_write_done()
