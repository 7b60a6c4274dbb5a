"""The collector of SAC and TD3: how they act while they train, in a batch of environments, filling a replay buffer."""

import time
from collections.abc import Mapping
from contextlib import closing, suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unilab.algos.torch.networks.sizes import pass_numbers
from unilab.algos.torch.offpolicy.config import OffPolicyConfig, TD3Config
from unilab.algos.torch.offpolicy.networks.policies import BoundedActor, build_actor
from unilab.envs import EnvDims, VecEnv, make
from unilab.envs.unit_actions import UnitActions
from unilab.envs.vec_env import FloatArray
from unilab.ipc import ReplayBuffer, SharedFlag, SharedWeightSync
from unilab.machine.cores import keep_collector_to
from unilab.machine.devices import current_device, yield_to_learner
from unilab.run.acting import ActingLoop
from unilab.run.progress import put_latest_metrics
from unilab.run.seeding import derive_seed
from unilab.run.transitions import TransitionSink
from unilab.tracing.spans import recording, span

COLLECT, STATE = "collect", "state"
"""what the runner orders in lock step"""


class ExploringPolicy(nn.Module):
    """The actor as it acts while it trains: at first uniformly at random, then with its noise; actions in [-1, 1].

    The collector counts its random steps. For a worker the buffer ``exploring``, which is part of the weights, says
    whether to act at random, so that a restarted worker does as the others do.

    ``num_envs`` of ``config`` are those over all workers.
    """

    exploring: Tensor
    """true: actions are uniformly random"""
    _noise_scale: Tensor | None
    """[num_envs, 1] standard deviation of the noise that the actor gets for each environment; None: 1"""

    def __init__(self, config: OffPolicyConfig, dims: EnvDims) -> None:
        super().__init__()
        self.actor = build_actor(config, dims.obs, dims.action)
        self.register_buffer("exploring", torch.ones((), dtype=torch.bool))
        scale = None
        if isinstance(config, TD3Config):
            lowest, highest = config.algorithm.exploration_noise_min, config.algorithm.exploration_noise_max
            scale = torch.linspace(lowest, highest, config.num_envs)[:, None]
        self.register_buffer("_noise_scale", scale, persistent=False)
        self._action_dim, self._num_envs, self._random_steps = dims.action, config.num_envs, config.learning_starts
        self._worker = self._random_left = 0

    def begin(self, steps: int, made: int, generator: torch.Generator) -> None:
        """See ``ActingPolicy``."""
        self._random_left = self._random_steps - made // self._num_envs

    def act(self, obs: FloatArray, generator: torch.Generator) -> tuple[FloatArray, dict[str, np.ndarray]]:
        """See ``ActingPolicy``."""
        actions = self._actions(torch.from_numpy(obs), generator, random=self._random_left > 0).cpu().numpy()
        self._random_left -= 1
        return actions, {"actions": actions}

    def become_worker(self, worker: int) -> None:
        """Become the policy of this worker: noise that differs among environments is spread over those of all
        workers."""
        self._worker = worker

    def compute_actions(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """See ``WorkerPolicy``."""
        return self._actions(obs, generator, random=bool(self.exploring))

    def _actions(self, obs: Tensor, generator: torch.Generator, *, random: bool) -> Tensor:
        rows, device, scale = len(obs), self.exploring.device, self._noise_scale
        noise = torch.empty(rows, self._action_dim, device=device)
        if random:
            return noise.uniform_(-1, 1, generator=generator)
        noise.normal_(generator=generator)
        if scale is not None:
            noise.mul_(scale[self._worker * rows : (self._worker + 1) * rows])
        return self.actor.act(obs.to(device), noise)

    @staticmethod
    def weights(actor: Mapping[str, Tensor], *, exploring: bool) -> dict[str, Tensor]:
        """The state dict of one with the weights of this actor."""
        named = {f"actor.{name}": value for name, value in actor.items()}
        return named | {"exploring": torch.tensor(exploring)}


def acting_loop(
    config: OffPolicyConfig,
    env: VecEnv,
    policy: ExploringPolicy,
    replay: ReplayBuffer,
    *,
    seed: int,
    faults: Path | None = None,
) -> ActingLoop:
    """The acting loop that collects for ``config``: actions are in [-1, 1] for the policy and in the replay buffer.

    Args:
        env: the environments, which get them scaled to their bounds; they stay the caller's to close.
        policy: on the collector's device.
        seed: of environments and actions.
        faults: the file of simulation faults.

    Raises:
        ValueError: the environments' actions are not bounded.
    """
    unit, algorithm = UnitActions(env), config.algorithm
    sink = TransitionSink(replay, unit, gamma=algorithm.gamma, n_step=algorithm.n_step)
    device, stagger = config.collector_device, config.stagger_episodes
    return ActingLoop(unit, policy, sink, device=device, seed=seed, stagger=stagger, faults=faults)


def inference_bytes(rows: int, actor: BoundedActor, dims: EnvDims) -> int:
    """Bytes of the noise and the activations of one step."""
    return 4 * rows * (2 * pass_numbers(actor.body, dims.obs)[1] + 8 * dims.action + dims.obs)


def off_policy_collector_fn(
    stop_event: SharedFlag,
    config: OffPolicyConfig,
    replay: ReplayBuffer,
    weight_sync_name: str,
    weight_param_shapes: Mapping[str, Any],
    metrics_queue: Any,
    commands: Connection | None,
    bell: SharedFlag,
    seed: int,
    state: Mapping[str, Any] | None,
    faults: Path | None,
    *,
    env_steps_before: int = 0,
) -> None:
    """The collector process: acts with the newest weights until told to stop.

    Args:
        weight_sync_name, weight_param_shapes: the actor's weights.
        metrics_queue: gets the counters after every ``env_steps_per_sync`` steps.
        commands: with ``sync_collection``, the runner's orders: ``COLLECT`` is answered by the version of the policy
            when ``env_steps_per_sync`` steps were made, ``STATE`` by the loop's ``state_dict``. None: it runs freely.
        bell: running freely, set after every ``env_steps_per_sync`` steps.
        seed: of environments and actions.
        state: a ``state_dict`` to continue from.
        faults: the file of its simulation faults.
        env_steps_before: that the training made before it was resumed without a state.
    """
    torch.set_num_threads(config.inference_threads or 1)
    keep_collector_to(config)
    yield_to_learner(config)
    env_seed, threads = derive_seed(seed, "environment"), config.env_threads
    with (
        closing(SharedWeightSync(weight_param_shapes, create=False, shm_name=weight_sync_name)) as sync,
        closing(replay),
        make(config.env, config.num_envs, config.sim_backend, config.env_cfg, env_seed, threads) as env,
        current_device(config.collector_device),
        recording("collector", config),
    ):
        env.steps_before = env_steps_before / config.num_envs
        policy = ExploringPolicy(config, env.dims).to(config.collector_device)
        weights = policy.actor.state_dict()  # shares memory with the actor
        loop = acting_loop(config, env, policy, replay, seed=seed, faults=faults)
        if state is not None:
            loop.load_state_dict(state)
        version, busy_seconds, wait_seconds = -1, 0.0, 0.0
        while not stop_event.is_set():
            command = COLLECT
            if commands is not None:
                waiting_since = time.monotonic()
                try:
                    with span("wait"):
                        connection.wait([commands, stop_event.fileno()])
                        if stop_event.is_set():
                            return
                        command = commands.recv()
                except (EOFError, ConnectionError):
                    # The runner gave up its end: it is about to say stop, or it died and the watchdog ends this one.
                    stop_event.wait()
                    return
                wait_seconds += time.monotonic() - waiting_since
            reply: Any
            if command == STATE:
                reply = loop.state_dict()
            else:
                busy_since = time.monotonic()
                if sync.version != version:
                    with span("weight_read"):
                        version = sync.read_weights_into(weights)
                loop.run(config.env_steps_per_sync)
                busy_seconds += time.monotonic() - busy_since
                seconds = {"busy_seconds": busy_seconds, "wait_seconds": wait_seconds}
                message = loop.metrics() | seconds | {"policy_version": version}
                put_latest_metrics(metrics_queue, message, worker_name="collector")
                reply = version
            if commands is not None:
                with suppress(ConnectionError):  # the runner has gone; the wait for its next command notices
                    commands.send(reply)
            else:
                bell.set()
