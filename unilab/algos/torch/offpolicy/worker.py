"""The collector of SAC and TD3: a policy acting in a batch of environments, filling a replay buffer."""

import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unilab.algos.torch.collector import Collector
from unilab.algos.torch.offpolicy.collecting.exploring import noise_scale
from unilab.algos.torch.offpolicy.collecting.n_step import NStepReturns, Transitions
from unilab.algos.torch.offpolicy.config import CONFIGS, OffPolicyConfig
from unilab.algos.torch.offpolicy.networks.policies import Actor, build_actor
from unilab.envs import StepResult, VecEnv, make
from unilab.envs.unit_actions import action_scale
from unilab.ipc import ReplayBuffer, SharedFlag, SharedWeightSync
from unilab.ipc.process.child import report_step
from unilab.machine.devices import current_device, yield_to_learner
from unilab.run.fault_log import FaultStates
from unilab.run.progress import LatestQueue, put_latest_metrics
from unilab.run.seeding import derive_seed
from unilab.settings import parse
from unilab.tracing.spans import recording, span


class TransitionCollector(Collector):
    """Adds transitions to a replay buffer; the same object serves a process of its own and tests.

    Actions are in [-1, 1] for the policy and in the replay buffer; the environments get them scaled to their bounds.

    A step that failed numerically (``StepResult.faults``) is left out, and open n-step returns of its row end before
    it as if cut off; see ``NStepReturns``.

    Args:
        env: the environments; stays the caller's to close.
        actor: the policy, on ``device``.
        replay: where the transitions go; with a column ``steps`` when ``n_step`` is above 1.
        gamma: discount a step.
        n_step: env steps that a transition spans at most.
        random_steps: so many first steps of all environments are made with uniformly random actions.
        noise_scale: standard deviation of the noise that the policy gets: one number, or [N, 1].
        reward_scale: factor of the rewards in the replay buffer; those of the statistics are the environment's own.
        device: where the policy acts.
        seed: of environments and actions.
        stagger: spread the first episodes over the time limit.

    Raises:
        ValueError: the environment's actions are not bounded.
    """

    def __init__(
        self,
        env: VecEnv,
        actor: Actor,
        replay: ReplayBuffer,
        *,
        gamma: float,
        n_step: int = 1,
        random_steps: int = 0,
        noise_scale: float | Tensor = 1.0,
        reward_scale: float = 1.0,
        device: str = "cpu",
        seed: int = 0,
        stagger: bool = False,
    ) -> None:
        self._half_range, self._middle = action_scale(env)
        super().__init__(env, device=device, seed=seed, stagger=stagger)
        self.actor = actor
        self.replay = replay
        self._returns = NStepReturns(n_step, gamma, env.num_envs, env.obs_dim, env.action_dim, env.critic_dim)
        self._random_env_steps = random_steps * env.num_envs
        self._noise_scale = noise_scale.to(self.device) if isinstance(noise_scale, Tensor) else noise_scale
        self._reward_scale = np.float32(reward_scale)
        self._noise = torch.zeros(env.num_envs, env.action_dim, device=self.device)
        # The environment reuses its arrays: what a transition starts from is kept here.
        self._obs = np.zeros((env.num_envs, env.obs_dim), np.float32)
        self._obs_tensor = torch.from_numpy(self._obs)
        self._next_obs = np.zeros_like(self._obs)
        self._critic = np.zeros((env.num_envs, env.critic_dim), np.float32) if env.critic_dim else None
        self._next_critic = np.zeros((env.num_envs, env.critic_dim), np.float32)
        self._scaled = np.zeros((env.num_envs, env.action_dim), np.float32)
        self._rewards = np.zeros(env.num_envs, np.float32)
        self._dones, self._truncated = np.zeros((2, env.num_envs), bool)

    @torch.no_grad()
    def collect(self, steps: int) -> None:
        """Act for ``steps`` steps of all environments and add the transitions that they complete."""
        for _ in range(steps):
            self._obs[:] = self.env.obs
            if self._critic is not None:
                self._critic[:] = self.env.critic
            with span("inference"):
                actions = self._act()
                np.multiply(actions, self._half_range, out=self._scaled)
                self._scaled += self._middle
            with span("env_step"):
                result = self.env.step(self._scaled)
            self.count(result)
            with span("replay_add"):
                self._add(self._returns.step(self._transitions(actions, result), self._failed(result)))

    def _act(self) -> np.ndarray:
        """[N, A] in [-1, 1]."""
        if self.env_steps < self._random_env_steps:
            return self._noise.uniform_(-1, 1, generator=self._generator).cpu().numpy()
        noise = self._noise.normal_(generator=self._generator).mul_(self._noise_scale)
        return self.actor.act(self._obs_tensor.to(self.device), noise).cpu().numpy()

    def _transitions(self, actions: np.ndarray, result: StepResult) -> Transitions:
        """The step of all rows; ``next_obs`` is the true final observation of those that ended."""
        next_obs, next_critic = result.obs, result.critic
        if len(result.final_ids):
            self._next_obs[:] = next_obs
            self._next_obs[result.final_ids] = result.final_obs
            next_obs = self._next_obs
            if next_critic is not None:
                self._next_critic[:] = next_critic
                self._next_critic[result.final_ids] = result.final_critic
                next_critic = self._next_critic
        return Transitions(
            self._obs,
            actions,
            np.multiply(result.reward, self._reward_scale, out=self._rewards),
            next_obs,
            np.logical_or(result.terminated, result.truncated, out=self._dones),
            # An end that is both is a termination: nothing follows, so nothing is to be bootstrapped.
            np.greater(result.truncated, result.terminated, out=self._truncated),
            self._critic,
            next_critic,
        )

    def _failed(self, result: StepResult) -> np.ndarray | None:
        if not result.faults:
            return None
        failed = np.zeros(self.env.num_envs, bool)
        failed[[fault.env_id for fault in result.faults]] = True
        return failed

    def _add(self, complete: Transitions) -> None:
        self.replay.add(
            complete.obs,
            complete.actions,
            complete.rewards,
            complete.next_obs,
            complete.dones,
            complete.truncated,
            critic=complete.critic,
            next_critic=complete.next_critic,
            steps=complete.steps,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed collector needs to go on bit for bit; the replay buffer is not part of it."""
        return super().state_dict() | {"returns": self._returns.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``; its arrays may come back as CPU tensors."""
        super().load_state_dict(state)
        if self.env.exact_resume:  # otherwise new episodes have begun, and what was open is lost
            self._returns.load_state_dict(state["returns"])
        else:
            self._returns.forget()


def build_collector(
    config: OffPolicyConfig, env: VecEnv, actor: Actor, replay: ReplayBuffer, *, seed: int
) -> TransitionCollector:
    """The collector that ``config`` describes; ``actor`` is on the collector's device."""
    algorithm = config.algorithm
    return TransitionCollector(
        env,
        actor,
        replay,
        gamma=algorithm.gamma,
        n_step=algorithm.n_step,
        random_steps=config.learning_starts,
        noise_scale=noise_scale(config),
        reward_scale=algorithm.reward_scale,
        device=config.collector_device,
        seed=seed,
        stagger=config.stagger_episodes,
    )


def off_policy_collector_fn(
    stop_event: SharedFlag,
    config: Mapping[str, Any],
    algo_type: Literal["sac", "td3"],
    replay: ReplayBuffer,
    dims: tuple[int, int, int],
    weight_sync_name: str,
    weight_param_shapes: Mapping[str, Any],
    metrics_queue: LatestQueue,
    commands: Connection | None,
    seed: int,
    state: Mapping[str, Any] | None = None,
    *,
    bell: SharedFlag | None = None,
    trace_folder: str | None = None,
    faults: Path | None = None,
) -> None:
    """The collector process: acts with the newest weights until told to stop.

    Args:
        stop_event: ends it.
        config: the settings of ``algo_type``, as a dictionary.
        algo_type: sac or td3.
        replay: where the transitions go.
        dims: sizes of observation, action and privileged observation.
        weight_sync_name, weight_param_shapes: the actor's weights.
        metrics_queue: gets the counters after every ``env_steps_per_sync`` steps.
        commands: with ``sync_collection``, the runner's orders: ``("collect",)`` is answered by ``("collected",
            policy version)`` when ``env_steps_per_sync`` steps were made, ``("state",)`` by ``("state", state_dict)``.
        seed: of environments and actions.
        state: a ``state_dict`` to continue from.
        bell: running freely, set after every ``env_steps_per_sync`` steps.
        trace_folder: where this process' part of the timeline goes, with ``trace_enabled``; None: where the
            settings say.
        faults: the file of its simulation faults.
    """
    settings = parse(CONFIGS[algo_type], config)
    if trace_folder is not None:
        settings = replace(settings, trace_output_dir=trace_folder)
    torch.set_num_threads(settings.inference_threads or 1)
    yield_to_learner(settings)
    obs_dim, action_dim, _ = dims
    actor = build_actor(settings, obs_dim, action_dim).to(settings.collector_device)
    with (
        closing(SharedWeightSync(weight_param_shapes, create=False, shm_name=weight_sync_name)) as sync,
        closing(replay),
        _environments(settings, dims, seed) as env,
        current_device(settings.collector_device),
        recording("collector", settings),
    ):
        collector = build_collector(settings, env, actor, replay, seed=seed)
        collector.fault_states = FaultStates(faults)
        if state is not None:
            collector.load_state_dict(state)
        loop = _Loop(collector, sync, metrics_queue, settings.env_steps_per_sync)
        if not settings.sync_collection:
            while not stop_event.is_set():
                loop.collect()
                if bell is not None:
                    bell.set()
        elif commands is not None:
            loop.obey(commands, stop_event)
        else:
            raise ValueError("off_policy_collector_fn: with sync_collection the collector needs commands")


def _environments(settings: OffPolicyConfig, dims: tuple[int, int, int], seed: int) -> VecEnv:
    env = make(
        settings.env,
        settings.num_envs,
        settings.sim_backend,
        settings.env_cfg,
        derive_seed(seed, "environment"),
        settings.env_threads,
    )
    found = (env.obs_dim, env.action_dim, env.critic_dim)
    if found != dims:
        env.close()
        raise ValueError(f"{settings.env}: observation, action and critic have sizes {found}, announced were {dims}")
    return env


class _Loop:
    """What the collector process does over and over, and how long it was busy with it."""

    def __init__(
        self, collector: TransitionCollector, sync: SharedWeightSync, metrics_queue: LatestQueue, steps: int
    ) -> None:
        self._collector = collector
        self._sync = sync
        self._weights = collector.actor.state_dict()  # shares memory with the actor
        self._metrics_queue = metrics_queue
        self._steps = steps
        self._version = -1
        self._busy_seconds = self._wait_seconds = 0.0

    def collect(self) -> int:
        """Take the newest weights, collect and report; the version of the weights that acted."""
        busy_since = time.monotonic()
        if self._sync.version != self._version:
            with span("weight_read"):
                self._version = self._sync.read_weights_into(self._weights)
        self._collector.collect(self._steps)
        report_step(self._collector.env_steps)
        self._busy_seconds += time.monotonic() - busy_since
        message = self._collector.metrics() | {
            "busy_seconds": self._busy_seconds,
            "wait_seconds": self._wait_seconds,
            "policy_version": self._version,
        }
        put_latest_metrics(self._metrics_queue, message, worker_name="collector")
        return self._version

    def obey(self, commands: Connection, stop_event: SharedFlag) -> None:
        """Do what the runner orders until it says stop."""
        while (command := self._next_command(commands, stop_event)) is not None:
            match command:
                case ("collect",):
                    answer: tuple[str, Any] = ("collected", self.collect())
                case ("state",):
                    answer = ("state", self._collector.state_dict())
                case _:
                    raise ValueError(f"the collector got the command {command!r}; it knows ('collect',) and ('state',)")
            with suppress(ConnectionError):  # the runner has gone, and the wait for its next command tells
                commands.send(answer)

    def _next_command(self, commands: Connection, stop_event: SharedFlag) -> tuple[Any, ...] | None:
        """The next command; None: stop."""
        waiting_since = time.monotonic()
        try:
            with span("wait"):
                connection.wait([commands, stop_event.fileno()])
                return None if stop_event.is_set() else commands.recv()
        except (EOFError, ConnectionError):
            # The runner gave up its end: it is about to say stop, or it died and the watchdog ends this process.
            stop_event.wait()
            return None
        finally:
            self._wait_seconds += time.monotonic() - waiting_since
