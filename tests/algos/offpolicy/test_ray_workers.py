"""SAC and TD3 with workers on a Ray cluster."""

import pytest
import torch

from tests.algos.offpolicy.test_runner import learn, weights
from tests.ipc.conftest import nothing_left
from tests.ray_cluster import ray_cluster

pytest.importorskip("ray")

__all__ = ["nothing_left"]


def test_they_learn_what_the_workers_of_one_process_do_bit_for_bit(tmp_path):
    changes = {"env": "Hopper", "obs_normalization": True, "env_steps_per_sync": 2, "replay_capacity": 90}
    learn("td3", 6, tmp_path / "here", **changes, workers={"kind": "sequential", "count": 2})
    with ray_cluster() as cluster:
        workers = {"kind": "ray", "count": 2, "ray_address": cluster.address}
        learn("td3", 6, tmp_path / "there", **changes, workers=workers)
        expected = weights(tmp_path / "here/checkpoint.pt")
        assert torch.equal(expected, weights(tmp_path / "there/checkpoint.pt"))

        free = {"sync_collection": False, "resume": tmp_path / "free/checkpoint.pt"}
        learn("td3", 3, tmp_path / "free", **changes, workers=workers, sync_collection=False)
        summary = learn("td3", 5, tmp_path / "resumed", **changes, workers=workers, **free)
        assert summary.progress.updates == 10
