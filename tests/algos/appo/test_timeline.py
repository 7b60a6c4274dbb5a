"""The spans of collector and learner, in one process and in two."""

import dataclasses
from pathlib import Path

import pytest

from tests.tracing.traces import inside, process_names, read_trace, spans
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.runner import APPORunner
from unilab.ipc import CollectorError
from unilab.settings import parse

STEPS, EPOCHS, MINIBATCHES = 4, 2, 2


def config(folder: Path | None) -> APPOConfig:
    return parse(
        APPOConfig,
        {
            "env": "tests.algos.appo.counting_env:CountingEnv",
            "num_envs": 3,
            "steps_per_env": STEPS,
            "network.actor": [8],
            "network.critic": [8],
            "algorithm.num_learning_epochs": EPOCHS,
            "algorithm.num_mini_batches": MINIBATCHES,
            "env_threads": 1,
            "trace_enabled": True,
            "trace_output_dir": None if folder is None else str(folder),
        },
    )


def count(events, name: str) -> int:
    return len(spans(events, name))


def run(settings: APPOConfig, log_dir: Path | None) -> None:
    with APPORunner.from_config(settings) as runner:
        runner.learn(3, log_dir=log_dir)


@pytest.mark.parametrize(("mode", "processes"), [("sync", ["learner"]), ("async", ["collector", "learner"])])
def test_a_training_leaves_its_timeline_in_the_log_folder(tmp_path, mode: str, processes: list[str]) -> None:
    run(dataclasses.replace(config(None), mode=mode), tmp_path)
    events = read_trace(tmp_path / "trace.json")
    assert sorted(process_names(events)) == processes
    updates, collected = spans(events, "update"), spans(events, "collect")
    assert len(updates) == count(events, "prepare") == 3
    # the first weights, and then those after each update or, where the collector can take them, after each epoch
    assert count(events, "weight_publish") == 1 + 3 * (1 if mode == "sync" else EPOCHS)
    assert count(events, "gradient") == count(events, "optimizer_step") == 3 * EPOCHS * MINIBATCHES
    assert len(collected) >= 3
    assert count(events, "env_step") == count(events, "inference") == STEPS * len(collected)
    assert count(events, "rollout_write") == 2 * STEPS * len(collected)
    for name, outer in (("prepare", updates), ("gradient", updates), ("env_step", collected)):
        for span in spans(events, name):
            assert sum(inside(span, one) for one in outer) == 1, name
    if mode == "async":
        assert count(events, "copy") == 3
        assert count(events, "weight_read") >= 1 and count(events, "wait") >= len(collected)


def test_a_failing_collector_leaves_the_timeline_up_to_there(tmp_path) -> None:
    with pytest.raises(CollectorError):
        run(dataclasses.replace(config(tmp_path), env_cfg={"fail_at": 6}), None)
    events = read_trace(tmp_path / "trace.json")
    assert sorted(process_names(events)) == ["collector", "learner"]
    assert count(events, "env_step") == 6


def test_a_training_that_is_not_traced_leaves_none(tmp_path) -> None:
    run(dataclasses.replace(config(tmp_path), mode="sync", trace_enabled=False), tmp_path / "logs")
    assert list(tmp_path.rglob("*trace*")) == []
