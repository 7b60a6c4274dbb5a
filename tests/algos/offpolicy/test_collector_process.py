"""The collector in a process of its own: lock step, free running, and every way to end."""

import json
import multiprocessing
import os
import signal
import struct
from contextlib import contextmanager
from multiprocessing import connection

import pytest
import torch

from tests.ipc.collectors import Runner
from tests.ipc.conftest import SPAWN_SECONDS, nothing_left
from unilab.algos.torch.offpolicy.config import SACConfig
from unilab.algos.torch.offpolicy.networks.policies import build_actor
from unilab.algos.torch.offpolicy.transition_source import CollectorSource
from unilab.algos.torch.offpolicy.worker import ExploringPolicy, acting_loop, off_policy_collector_fn
from unilab.envs import EnvDims, make
from unilab.ipc import CollectorError, LatestValue, ReplayBuffer, SharedWeightSync
from unilab.run.checkpoint import load_checkpoint, save_checkpoint
from unilab.settings import parse
from unilab.tracing.spans import TRACE_FILE, merge

COUNTING = {"env": "tests.algos.appo.counting_env:CountingEnv", "env_threads": 1}
CHEETAH = {"env": "HalfCheetah", "env_cfg": {"max_episode_steps": 9}, "env_threads": 1}

__all__ = ["nothing_left"]  # a fixture that every test uses


def settings_of(**given):
    small = {"num_envs": 2, "learning_starts": 2, "learner_threads": 1, "network": {"actor": (8,)}}
    return parse(SACConfig, small | given)


def dims_of(config):
    with make(config.env, 1, env_cfg_override=config.env_cfg, num_threads=1) as env:
        return env.obs_dim, env.action_dim, env.critic_dim


def replay_of(config, dims, capacity=2000):
    return ReplayBuffer(capacity, dims[0], dims[1], "cpu", critic_dim=dims[2], multi_step=config.algorithm.n_step > 1)


def actor_of(config, dims, seed=0):
    torch.manual_seed(seed)
    return build_actor(config, *dims[:2])


class Trainer(Runner):
    """A runner with what it shares with one collector."""

    def __init__(self, config, state=None, **kwargs):
        super().__init__(config.env, None, {}, num_envs=config.num_envs)
        dims = dims_of(config)
        self.replay = replay_of(config, dims)
        self.sync = SharedWeightSync.from_state_dict(actor_of(config, dims).state_dict())
        self.mailbox = LatestValue()
        self.commands, theirs = self.ctx.Pipe()
        with theirs:
            self.process = self.start_collector(
                off_policy_collector_fn,
                (self.stop_event, config, self.replay, dims, self.sync.name),
                {
                    "weight_param_shapes": self.sync.param_shapes,
                    "metrics_queue": self.mailbox,
                    "commands": theirs if config.sync_collection else None,
                    "seed": 5,
                    "state": state,
                    **kwargs,
                },
                name="collector",
            )

    def publish(self, actor):
        return self.sync.write_weights(actor.state_dict())

    def order(self, command):
        """Send a command and take its answer; a failure of the collector is raised."""
        self.commands.send(command)
        ready = connection.wait([self.commands, self.interrupt.fileno()], SPAWN_SECONDS)
        assert ready, "no answer"
        self.check_collectors()
        try:
            return self.commands.recv()
        except (EOFError, ConnectionError):  # it is ending, and what it failed with is about to be known
            assert self.interrupt.wait(SPAWN_SECONDS)
            self.check_collectors()
            raise

    def close(self):
        super().close()
        self.commands.close()
        for shared in (self.replay, self.sync, self.mailbox):
            shared.cleanup()


@contextmanager
def in_process(config, actor):
    """The same collector without a process."""
    dims = dims_of(config)
    replay = replay_of(config, dims)
    with make(config.env, config.num_envs, env_cfg_override=config.env_cfg, num_threads=1) as env:
        try:
            policy = ExploringPolicy(config, EnvDims(*dims))
            policy.actor = actor
            yield acting_loop(config, env, policy, replay, seed=5), actor, replay
        finally:
            replay.cleanup()


def test_lock_step_is_the_same_collector_and_goes_on_from_its_state(tmp_path):
    config = settings_of(**CHEETAH, env_steps_per_sync=3, algorithm={"n_step": 3})
    first, second = (actor_of(config, dims_of(config), seed) for seed in (1, 2))
    with in_process(config, actor_of(config, dims_of(config))) as (twin, actor, replay):
        for weights, times in ((first, 2), (second, 4)):
            actor.load_state_dict(weights.state_dict())
            twin.run(3 * times)
        wanted = replay.rows(0, replay.written)
        metrics = twin.metrics()
    with Trainer(config) as trainer:
        assert trainer.publish(first) == 2  # the first version is what the sync was made of
        assert trainer.order("collect") == 2
        assert trainer.order("collect") == 2
        trainer.publish(second)
        assert trainer.order("collect") == 3
        save_checkpoint(tmp_path / "collector.pt", trainer.order("state"))
        reported = trainer.mailbox.get()
        before = trainer.replay.rows(0, trainer.replay.written)
        trainer.commands.close()  # the collector waits for the stop then, and ends as it should
    assert (reported["env_steps"], reported["policy_version"]) == (18, 3)
    assert reported["busy_seconds"] > 0
    assert reported["wait_seconds"] > 0
    with Trainer(config, load_checkpoint(tmp_path / "collector.pt")) as trainer:
        trainer.publish(second)
        for _ in range(3):
            assert trainer.order("collect") == 2
        reported = trainer.mailbox.get()
        after = trainer.replay.rows(0, trainer.replay.written)
    torch.testing.assert_close(torch.cat([before, after]), wanted, rtol=0, atol=0)
    assert {name: reported[name] for name in metrics} == metrics


def test_free_running_takes_new_weights_and_leaves_a_timeline(tmp_path):
    traced = {"trace_enabled": True, "trace_output_dir": str(tmp_path)}
    config = settings_of(**COUNTING, sync_collection=False, learning_starts=0, **traced)
    with Trainer(config) as trainer:
        for seed in (1, 2):
            version = trainer.publish(actor_of(config, (1, 1, 0), seed))
            while (metrics := trainer.mailbox.get() or {}).get("policy_version") != version:
                trainer.check_collectors()
        fields = trainer.replay.fields(trainer.replay.rows(0, trainer.replay.written))
    assert metrics["wait_seconds"] == 0
    assert metrics["episode_return"] == pytest.approx(3.5, abs=0.5)
    # row 1 terminates after 3 steps, row 0 is cut off after 4
    assert set(fields["next_obs"][fields["truncated"] == 1].ravel().tolist()) == {4}
    assert set(fields["next_obs"][fields["dones"] > fields["truncated"]].ravel().tolist()) == {3}
    merge(tmp_path)
    events = json.loads((tmp_path / TRACE_FILE).read_text())["traceEvents"]
    assert {"inference", "env_step", "replay_add", "weight_read"} <= {event["name"] for event in events}


def test_a_collector_that_dies_in_the_middle_of_an_answer_is_what_is_told():
    ours, theirs = multiprocessing.Pipe()
    os.write(theirs.fileno(), struct.pack("!i", 10**6) + b"a part of its state")
    theirs.close()
    source = CollectorSource.__new__(CollectorSource)
    source._runner = Runner("HalfCheetah", None, {}, num_envs=2)
    source._runner._failures.append(CollectorError("collector", 77, -signal.SIGKILL))
    source._runner.interrupt.set()
    with ours, pytest.raises(CollectorError, match="process 77"):
        source._answer(ours, lambda: None)
