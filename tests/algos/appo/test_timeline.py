"""The spans of collector and learner, in one process and in two."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tracing.traces import inside, process_names, read_trace, spans, tracks
from unilab.algos.torch.appo.actor_critic import build_networks
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.learner import APPOLearner
from unilab.algos.torch.appo.runner import APPORunner
from unilab.algos.torch.appo.worker import acting_loop, appo_collector_fn
from unilab.envs import EnvDims, make
from unilab.ipc import AsyncRunner, CollectorError, RolloutRingBuffer, SharedWeightSync
from unilab.ipc.latest import LatestValue
from unilab.ipc.rollout_ring_buffer import slot_fields
from unilab.settings import flatten, parse
from unilab.tracing.spans import timeline

STEPS, ENVS, EPOCHS, MINIBATCHES = 4, 3, 2, 2
COUNTING = "tests.algos.appo.counting_env:CountingEnv"


def config(folder: Path) -> APPOConfig:
    return parse(
        APPOConfig,
        {
            "env": COUNTING,
            "num_envs": ENVS,
            "steps_per_env": STEPS,
            "network.actor": [8],
            "network.critic": [8],
            "algorithm.num_learning_epochs": EPOCHS,
            "algorithm.num_mini_batches": MINIBATCHES,
            "env_threads": 1,
            "trace_enabled": True,
            "trace_output_dir": str(folder),
        },
    )


def learner(settings: APPOConfig) -> APPOLearner:
    actor, critic = build_networks(settings, EnvDims(1, 1, 0))
    return APPOLearner(actor, critic, num_learning_epochs=EPOCHS, num_mini_batches=MINIBATCHES)


def count(events, name: str) -> int:
    return len(spans(events, name))


def test_one_process_that_collects_and_learns(tmp_path) -> None:
    settings = config(tmp_path)
    rollout = {name: np.zeros(shape, np.float32) for name, shape in slot_fields(ENVS, STEPS, 1, 1, 0).items()}
    with make(COUNTING, ENVS) as env, timeline("learner", settings):
        loop, sink = acting_loop(settings, env, *build_networks(settings, EnvDims(1, 1, 0)), seed=0)
        sink.arrays = rollout
        loop.run(STEPS)
        learner(settings).update({name: torch.from_numpy(array) for name, array in rollout.items()})
    events = read_trace(tmp_path / "trace.json")
    assert process_names(events) == ["learner"] and len(tracks(events)) == 1
    assert count(events, "env_step") == count(events, "inference") == STEPS
    assert count(events, "rollout_write") == 2 * STEPS
    assert count(events, "gradient") == count(events, "optimizer_step") == EPOCHS * MINIBATCHES
    (update,), (prepare,) = spans(events, "update"), spans(events, "prepare")
    assert inside(prepare, update) and all(inside(step, update) for step in spans(events, "gradient"))


class Runner(AsyncRunner):
    """Reads two rollouts of a collector process, without the runner of the algorithm."""

    def learn(self, max_iterations: int, save_interval: int = 50, log_dir: str = "logs") -> None:
        settings = config(Path(log_dir))
        ring = RolloutRingBuffer(ENVS, STEPS, 1, 1, num_slots=settings.num_slots)
        trained = learner(settings)
        syncs = {
            "actor": SharedWeightSync.from_state_dict(trained.get_weights()),
            "critic": SharedWeightSync.from_state_dict(trained.get_critic_weights()),
        }
        metrics = LatestValue()
        with timeline("learner", settings):
            arguments = (
                self.stop_event, COUNTING, flatten(settings), ENVS, STEPS, ring.name, ring.sync_primitives, 1, 1, 0,
                syncs["actor"].name, syncs["actor"].param_shapes, syncs["critic"].name, syncs["critic"].param_shapes,
                metrics,
            )  # fmt: skip
            self.start_collector(appo_collector_fn, arguments, name="collector")
            for _ in range(max_iterations):
                while not ring.wait_for_data(unless=self.interrupt):
                    self.check_collectors()
                ring.advance_read()
            self.stop_collectors()
        for shared in (*syncs.values(), metrics, ring):
            shared.cleanup()


def test_a_collector_in_a_process_of_its_own(tmp_path) -> None:
    with Runner(COUNTING, {}, {}, device="cpu") as runner:
        runner.learn(2, log_dir=str(tmp_path))
    events = read_trace(tmp_path / "trace.json")
    assert sorted(process_names(events)) == ["collector", "learner"]
    rollouts = count(events, "collect")
    assert rollouts >= 2
    assert count(events, "env_step") == count(events, "inference") == STEPS * rollouts
    assert count(events, "rollout_write") == 2 * STEPS * rollouts
    assert count(events, "weight_read") == 1 and count(events, "wait") >= rollouts
    for step in spans(events, "env_step"):
        assert sum(inside(step, rollout) for rollout in spans(events, "collect")) == 1


def run(settings: APPOConfig, log_dir: Path | None) -> None:
    with APPORunner.from_config(settings) as runner:
        runner.learn(3, log_dir=log_dir)


@pytest.mark.parametrize(("mode", "processes"), [("sync", ["learner"]), ("async", ["collector", "learner"])])
def test_a_training_leaves_its_timeline_in_the_log_folder(tmp_path, mode: str, processes: list[str]) -> None:
    run(dataclasses.replace(config(tmp_path), mode=mode, trace_output_dir=None), tmp_path)
    events = read_trace(tmp_path / "trace.json")
    assert sorted(process_names(events)) == processes
    assert count(events, "update") == count(events, "weight_publish") == 3
    assert count(events, "gradient") == 3 * EPOCHS * MINIBATCHES
    assert count(events, "env_step") >= 3 * STEPS
    if mode == "async":
        assert count(events, "copy") == 3


def test_a_failing_collector_leaves_the_timeline_up_to_there(tmp_path) -> None:
    with pytest.raises(CollectorError):
        run(dataclasses.replace(config(tmp_path), env_cfg={"fail_at": 6}), None)
    events = read_trace(tmp_path / "trace.json")
    assert sorted(process_names(events)) == ["collector", "learner"]
    assert count(events, "env_step") == 6


def test_a_training_that_is_not_traced_leaves_none(tmp_path) -> None:
    run(dataclasses.replace(config(tmp_path), mode="sync", trace_enabled=False), tmp_path / "logs")
    assert list(tmp_path.rglob("*trace*")) == []
