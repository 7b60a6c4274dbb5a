"""Which pipeline suits the learner's device and its memory."""

from typing import Literal, get_args

import torch

from unilab.ipc.memory_budget import HOST, BudgetItem
from unilab.ipc.replay_buffer import ReplayBuffer
from unilab.ipc.replay_pipelines.device import CHUNK, DevicePipeline, replay_bytes_on_device
from unilab.ipc.replay_pipelines.host import DirectPipeline, PrefetchPipeline
from unilab.ipc.replay_pipelines.pipeline import ReplayPipeline
from unilab.ipc.replay_rows import RowLayout
from unilab.settings import SettingsError

PipelineKind = Literal["auto", "direct", "prefetch", "device"]

FREE_MEMORY_FRACTION = 0.5
"""part of the device's free memory that a copy of the replay buffer may take; the networks need the rest"""


def build_pipeline(
    kind: PipelineKind, replay: ReplayBuffer, batch_size: int, device: torch.device | str, *, seed: int = 0
) -> ReplayPipeline:
    """The pipeline that ``choose_kind`` chooses, for a learner on ``device``.

    Args:
        batch_size: transitions a batch, B.
        seed: of the generator on the device, for the kind that has one; the others draw with the replay buffer's.

    Raises:
        SettingsError: an unknown kind, or kind 'device' for a learner on the cpu.
        ValueError: a batch size below 1.
    """
    chosen = choose_kind(kind, replay_bytes_on_device(replay.capacity, replay.width), device)
    if chosen == "device":
        return DevicePipeline(replay, batch_size, device, seed=seed)
    return (PrefetchPipeline if chosen == "prefetch" else DirectPipeline)(replay, batch_size, device)


def choose_kind(
    kind: PipelineKind, replay_bytes: int, device: torch.device | str, *, device_budget_bytes: int | None = None
) -> Literal["direct", "prefetch", "device"]:
    """The kind itself, or what auto stands for: direct on the cpu, device where the rows fit, else prefetch.

    Args:
        kind: auto, direct, prefetch or device.
        replay_bytes: of all rows.
        device: the learner's.
        device_budget_bytes: what the rows may take on the device; None: half of what is free there now.

    Raises:
        SettingsError: an unknown kind, or kind 'device' on the cpu.
    """
    device = torch.device(device)
    if kind not in get_args(PipelineKind):
        raise SettingsError("pipeline", f"unknown kind {kind!r}; use one of: {', '.join(get_args(PipelineKind))}")
    if kind == "device" and device.type == "cpu":
        raise SettingsError(
            "pipeline",
            "'device' keeps the rows on an accelerator, but the learner's device is cpu; use 'auto', 'direct' or "
            "'prefetch', or a learner_device such as cuda",
        )
    if kind != "auto":
        return kind
    if device.type == "cpu":
        return "direct"
    if device_budget_bytes is None:
        device_budget_bytes = int(FREE_MEMORY_FRACTION * torch.cuda.mem_get_info(device)[0])
    return "device" if replay_bytes <= device_budget_bytes else "prefetch"


def pipeline_items(
    kind: Literal["direct", "prefetch", "device"], layout: RowLayout, capacity: int, batch_size: int, learner: str
) -> list[BudgetItem]:
    """The memory of a pipeline of this kind: the batches on their way to the learner, which is at ``learner``."""
    batch = 4 * layout.width * batch_size
    if kind == "device":
        staging = 2 * 4 * layout.width * CHUNK
        return [
            BudgetItem(
                "replay on the device", learner, replay_bytes_on_device(capacity, layout.width), "every row once more"
            ),
            BudgetItem("staging", HOST, staging, f"2 times {CHUNK:,} transitions on their way"),
            BudgetItem("batches", learner, 2 * batch, "this one and the one before"),
        ]
    count, numbers = (2 if kind == "prefetch" else 1), 2 * 8 * batch_size  # of the rows, and where these lie
    detail = "one is learned from while the next is filled" if kind == "prefetch" else "the one that is learned from"
    items = [BudgetItem("batches", HOST, count * batch + numbers, detail)]
    return items if learner == HOST else [*items, BudgetItem("batches", learner, count * batch, "the same")]
