"""Rows that prove themselves, and pipelines that draw them."""

from collections.abc import Callable

import torch
from torch import Tensor

from unilab.ipc.replay_buffer import ReplayBuffer
from unilab.ipc.replay_pipelines import ReplayPipeline

CAPACITY, BATCH, OBS, ACTIONS = 64, 32, 3, 2

Batch = dict[str, Tensor]
MakeReplay = Callable[..., ReplayBuffer]
MakePipeline = Callable[..., ReplayPipeline]


def add_rows(replay: ReplayBuffer, count: int, start: int | None = None) -> None:
    """Rows that prove themselves: everything in row n follows from n, which is its reward."""
    first = replay.written if start is None else start
    number = torch.arange(first, first + count, dtype=torch.float32)
    obs = number[:, None] + torch.arange(OBS) / 8
    replay.add(obs, obs[:, :ACTIONS] / 4, number, obs + 0.5, number % 2, number % 4 == 3)


def row_numbers(batch: Batch) -> Tensor:
    """Numbers of the rows of a batch, each of which must be whole."""
    number = batch["rewards"]
    obs = number[:, None] + torch.arange(OBS) / 8
    assert torch.equal(batch["obs"], obs)
    assert torch.equal(batch["actions"], obs[:, :ACTIONS] / 4)
    assert torch.equal(batch["next_obs"], obs + 0.5)
    assert torch.equal(batch["dones"], number % 2)
    assert torch.equal(batch["truncated"], (number % 4 == 3).float())
    return number.long()


def drawn(pipeline: ReplayPipeline, batches: int) -> set[int]:
    return {number for _ in range(batches) for number in row_numbers(pipeline.next_batch()).tolist()}


def numbers_of(pipeline: ReplayPipeline, batches: int) -> list[list[int]]:
    return [row_numbers(pipeline.next_batch()).tolist() for _ in range(batches)]
