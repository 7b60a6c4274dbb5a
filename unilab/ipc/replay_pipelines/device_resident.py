"""Sampling on the learner's device from a copy of the replay buffer that follows it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unilab.ipc.replay.mirror import DeviceMirror
from unilab.ipc.replay_buffer import ReplayBuffer
from unilab.ipc.replay_pipelines.pipeline import check_batch_size, check_kind, closed_error
from unilab.tracing.spans import span


class DeviceResidentPipeline:
    """Every row is copied to the device once; drawing and gathering happen there, so no batch crosses the bus.

    Args:
        replay: where the rows come from.
        batch_size: transitions a batch, B.
        device: the learner's; it needs memory for all rows, ``mirror_bytes``.
        seed: of the generator on the device, which draws the rows.
    """

    KIND = "device"

    def __init__(self, replay: ReplayBuffer, batch_size: int, device: torch.device | str, *, seed: int) -> None:
        self._replay = replay
        self._batch_size = check_batch_size(batch_size)
        self._device = torch.device(device)
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._mirror: DeviceMirror | None = DeviceMirror(replay, self._device)

    def next_batch(self) -> dict[str, Tensor]:
        mirror = self._open_mirror()
        with span("copy"):
            mirror.update()
        with span("sample"):
            packed = mirror.sample_packed(self._batch_size, self._generator)
        return self._replay.fields(packed)

    def refresh(self) -> None:
        """Nothing to do: next_batch() copies the rows that are new, of which hold() decides which."""

    def state_dict(self) -> dict[str, Any]:
        self._open_mirror()
        return {"kind": self.KIND, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._open_mirror()
        check_kind(state, self.KIND)
        self._generator.set_state(state["generator"].cpu())

    def close(self) -> None:
        self._mirror = None

    def _open_mirror(self) -> DeviceMirror:
        if self._mirror is None:
            raise closed_error(self.KIND)
        return self._mirror


def mirror_bytes(replay: ReplayBuffer) -> int:
    """Bytes on the device of a copy of all rows."""
    return 4 * replay.capacity * replay.width
