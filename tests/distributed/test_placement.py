"""What trainers ask of workers beyond the contract: whose policy acts, and what was stored."""

import torch
from torch import Tensor

from tests.distributed.conftest import MakeWorkers
from tests.distributed.workload import SEEDS, STEPS, NoisyPolicy, RecordingBuffer, carts
from unilab.distributed import Rollout


class NumberedPolicy(NoisyPolicy):
    """Acts with the number of its worker."""

    def __init__(self) -> None:
        super().__init__()
        self._number = -1

    def place(self, worker: int) -> None:
        self._number = worker

    def compute_actions(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full((len(obs), 1), float(self._number))


def test_a_policy_knows_its_worker_and_what_is_stored_is_told(make_workers: MakeWorkers) -> None:
    told: list[tuple[int, int, int]] = []

    def tell(rollout: Rollout) -> None:
        assert (rollout.steps["actions"] == rollout.worker).all()
        assert 0 < rollout.seconds < 60
        told.append((rollout.worker, rollout.sequence, rollout.env_steps))

    made = make_workers(carts(), NumberedPolicy(), STEPS, 2, 4, 2, False, SEEDS[:2], RecordingBuffer(), on_stored=tell)
    with made as workers:
        workers.collect_rollouts()
        workers.collect_rollouts()
        assert workers.rollouts == 4
    assert told == [(0, 0, 24), (1, 0, 24), (0, 1, 24), (1, 1, 24)]
