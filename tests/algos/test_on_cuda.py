"""Trainers on CUDA: the device that is named, recorded updates, every way of the batches, resume across devices."""

import copy
import math

import pytest
import torch

from tests.algos.appo import test_learner as appo_learner
from tests.algos.appo import test_runner as appo
from tests.algos.offpolicy import test_runner as offpolicy
from tests.algos.offpolicy.test_learners import make, make_batch, parameters
from unilab.run.checkpoint import load_checkpoint

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SECOND = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device")
DEVICES = ["cuda", pytest.param("cuda:1", marks=SECOND)]


def finite(metrics):
    return all(math.isfinite(value) for value in metrics.values())


def on(device, batch):
    return {name: tensor.to(device) for name, tensor in batch.items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_recorded_updates_are_those_without_recording(algorithm, device):
    changes = {"learner_device": device, "algorithm.policy_frequency": 2}
    recorded = make(algorithm, **changes)
    plain = make(algorithm, **changes, **{"algorithm.cuda_graphs": False})
    for seed in range(14):
        for learner in (recorded, plain):
            learner.update(on(device, make_batch(seed)))
        assert recorded.metrics() == pytest.approx(plain.metrics(), rel=1e-3, abs=1e-5), seed
    torch.testing.assert_close(parameters(recorded.critics), parameters(plain.critics), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_a_learner_that_has_recorded_goes_on_from_a_checkpoint(algorithm, device):
    straight, resumed = (make(algorithm, learner_device=device) for _ in range(2))
    for seed in range(10):
        straight.update(on(device, make_batch(seed)))
        resumed.update(on(device, make_batch(seed + 100)))
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    for seed in range(10, 20):
        for learner in (straight, resumed):
            learner.update(on(device, make_batch(seed)))
    torch.testing.assert_close(parameters(resumed.critics), parameters(straight.critics), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_appo_updates_nearly_as_on_the_cpu(dtype, device):
    rollout = appo_learner.random_rollout(steps=32, envs=16)
    here, there = (appo_learner.build(device=where, dtype=dtype, num_learning_epochs=2) for where in ("cpu", device))
    expected, found = here.update(rollout), there.update(on(device, rollout))
    rough = 1e-3 if dtype == "float32" else 0.1
    assert found["value_loss"] == pytest.approx(expected["value_loss"], rel=rough)
    assert found["entropy"] == pytest.approx(expected["entropy"], rel=rough)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("collector", ["cpu", "the learner's"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_appo_trains(mode, collector, device):
    where = {"learner_device": device, "collector_device": "cpu" if collector == "cpu" else device}
    progress = appo.learn(4, mode=mode, env="Hopper", **where).progress
    assert progress.updates == 16
    assert finite(progress.metrics)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pipeline", ["direct", "prefetch", "device"])
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_sac_and_td3_train(algorithm, pipeline, device):
    progress = offpolicy.learn(algorithm, 8, env="Hopper", learner_device=device, pipeline=pipeline).progress
    assert progress.updates == 16
    assert finite(progress.metrics)


@pytest.mark.parametrize("change", [{}, {"obs_normalization": True, "sync_collection": False}], ids=str)
def test_a_run_crosses_devices_and_comes_back(change, tmp_path):
    changes = {"save_replay": True} | change
    offpolicy.learn("sac", 4, tmp_path / "cpu", **changes)
    there = {"learner_device": "cuda", "collector_device": "cuda"}
    offpolicy.learn("sac", 8, tmp_path / "cuda", resume=tmp_path / "cpu/checkpoint.pt", **changes, **there)
    summary = offpolicy.learn("sac", 12, tmp_path / "back", resume=tmp_path / "cuda/checkpoint.pt", **changes)
    assert (summary.progress.iteration, summary.progress.updates) == (12, 24)
    assert torch.isfinite(offpolicy.weights(tmp_path / "back/checkpoint.pt")).all()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_appo_crosses_devices_and_comes_back(mode, tmp_path):
    changes = {"mode": mode} | appo.COUNTING
    appo.learn(2, tmp_path / "cpu", **changes)
    there = {"learner_device": "cuda", "collector_device": "cuda"}
    appo.learn(4, tmp_path / "cuda", resume=tmp_path / "cpu/checkpoint.pt", **changes, **there)
    appo.learn(6, tmp_path / "back", resume=tmp_path / "cuda/checkpoint.pt", **changes)
    assert load_checkpoint(tmp_path / "back/checkpoint.pt")["progress"]["iteration"] == 6
    assert torch.isfinite(appo.weights(tmp_path / "back/checkpoint.pt")).all()


@SECOND
@pytest.mark.parametrize("train", [appo.learn, lambda **where: offpolicy.learn("sac", 8, **where)])
def test_nothing_is_left_to_the_first_device(train):
    torch.cuda.reset_peak_memory_stats(0)
    before = torch.cuda.memory_allocated(0)
    train(env="Hopper", learner_device="cuda:1")
    assert torch.cuda.max_memory_allocated(0) == before
