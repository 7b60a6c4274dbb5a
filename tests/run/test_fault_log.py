"""Simulation faults: what travels, what is kept, what is said, and when a run gives up."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.algos.appo.counting_env import CountingEnv
from tests.algos.appo.test_runner import learn as learn_appo
from tests.algos.offpolicy.test_runner import learn as learn_off_policy
from unilab.ipc import LatestValue
from unilab.ipc.rollout_ring_buffer import slot_fields
from unilab.run.acting import ActingLoop, RolloutSink
from unilab.run.checkpoint import load_checkpoint
from unilab.run.fault_log import FAILED_STEPS, KEPT_FAULTS, LOGGED_FAULTS, AllStepsFailedError, FaultLog
from unilab.run.progress import CollectorCounters, put_latest_metrics


class Still:
    """A policy that never moves."""

    def begin(self, steps: int, made: int, generator: torch.Generator) -> None: ...

    def act(self, obs: np.ndarray, generator: torch.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        actions = np.zeros_like(obs)
        return actions, {"actions": actions}


def test_faults_of_a_large_model_travel_without_their_states(tmp_path: Path) -> None:
    file, mailbox = tmp_path / "faults.jsonl", LatestValue()
    sink = RolloutSink()
    sink.arrays = {name: np.zeros(shape, np.float32) for name, shape in slot_fields(8, 1, 1, 1).items()}
    loop = ActingLoop(CountingEnv(8, all_fail_from=2, state_size=20_000), Still(), sink, faults=file)
    for _ in range(11):
        loop.run(1)
        put_latest_metrics(mailbox, loop.metrics(), worker_name="collector")
    message = mailbox.get()
    mailbox.cleanup()
    assert message["fault_count"] == 80
    assert [fault["step"] for fault in message["faults"]] == [11] * 8
    assert message["faults"][7].keys() == {"env_id", "step", "field", "message"}
    assert message["faults"][7]["message"].startswith("environment 7, env step 11: reward: nan")
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(fault["step"], fault["env_id"]) for fault in kept] == [
        (2 + number // 8, number % 8) for number in range(KEPT_FAULTS)
    ]
    assert all(fault["state"] == list(range(20_000)) for fault in kept)


def counters(env_steps: int, count: int) -> CollectorCounters:
    faults = tuple({"message": f"fault {number}"} for number in range(max(0, count - 3), count))
    return CollectorCounters(env_steps=env_steps, fault_count=count, faults=faults)


def test_a_policy_that_diverged_logs_a_bounded_number(caplog: pytest.LogCaptureFixture) -> None:
    log = FaultLog(1000, Path("faults.jsonl"))
    for step in range(1, 50):
        log.report(counters(1000 * step, 2 * step))
    assert caplog.messages[0] == "fault 0; the episode was ended"
    assert len(caplog.messages) == LOGGED_FAULTS + 1
    assert "only counted" in caplog.messages[-1] and "faults.jsonl" in caplog.messages[-1]


def test_only_steps_that_all_fail_end_a_run() -> None:
    log, steps = FaultLog(10, None), 10 * FAILED_STEPS
    log.report(counters(500, 20))  # of the run that was resumed
    log.report(counters(500 + steps - 10, 20 + steps - 10))
    log.report(counters(500 + steps, 20 + steps - 1))
    log.report(counters(500 + 2 * steps - 10, 20 + 2 * steps - 11))
    with pytest.raises(AllStepsFailedError, match=rf"all of the last {steps} env steps .*: fault 2018"):
        log.report(counters(500 + 2 * steps, 20 + 2 * steps - 1))


@pytest.mark.parametrize(
    "changes",
    [{"sync_collection": False}, {"workers": {"kind": "sequential", "count": 2}}],
    ids=["a free collector", "workers in lock step"],
)
def test_a_run_in_which_nothing_but_faults_happens_says_so_and_ends(
    changes: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"env_cfg": {"all_fail_from": 1}, "replay_capacity": 10_000, "batch_size": 16} | changes
    problem = "env steps failed numerically, so there is nothing to learn"
    with pytest.raises(AllStepsFailedError, match=problem) as caught:
        learn_off_policy("sac", 5, tmp_path, **changes)
    # workers keep no states, and none are promised
    assert ("faults.jsonl" in str(caught.value)) == (tmp_path / "faults.jsonl").exists() == ("workers" not in changes)
    said = [record for record in caplog.records if "environment 0, env step" in record.message]
    assert said and all(record.levelno == logging.WARNING for record in said)


def test_appo_ends_too_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    changes = {"env": "tests.algos.appo.counting_env:CountingEnv", "env_cfg": {"all_fail_from": 129}}
    with pytest.raises(AllStepsFailedError, match=r"environment \d, env step .*faults\.jsonl with their states"):
        learn_appo(1000, tmp_path, mode="sync", steps_per_env=64, save_interval=2, **changes)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["progress"]["iteration"] >= 2
    assert len((tmp_path / "faults.jsonl").read_text().splitlines()) == KEPT_FAULTS
