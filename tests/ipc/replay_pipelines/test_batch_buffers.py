"""Batches on the learner's device, and what is waited for before they are written and read."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from unilab.ipc.replay_pipelines.host import BatchBuffer

CPU = torch.device("cpu")


class RecordingDevice:
    """Stands for torch.cuda: writes down what is queued where instead of running it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.learner = self.Stream(self, "learner")
        self._events = iter(["copied", "released"])

    class Stream:
        def __init__(self, device: "RecordingDevice", name: str) -> None:
            self.device, self.name = device, name

        def wait_event(self, event: "RecordingDevice.NamedEvent") -> None:
            self.device.log.append(f"{self.name} waits for {event.name}")

    class NamedEvent:
        def __init__(self, device: "RecordingDevice", name: str) -> None:
            self.device, self.name = device, name

        def record(self, stream: "RecordingDevice.Stream") -> None:
            self.device.log.append(f"{stream.name} records {self.name}")

        def synchronize(self) -> None:
            self.device.log.append(f"host waits for {self.name}")

    def Event(self) -> "RecordingDevice.NamedEvent":
        return self.NamedEvent(self, next(self._events))

    def stream(self, stream: "RecordingDevice.Stream") -> AbstractContextManager[None]:
        return nullcontext()

    def current_stream(self, device: torch.device) -> "RecordingDevice.Stream":
        assert device == CPU
        return self.learner


def test_a_stream_buffer_orders_host_copy_and_learner() -> None:
    device = RecordingDevice()
    buffer = BatchBuffer((2, 3), CPU, device.Stream(device, "copy"), device)
    for value in (1.0, 2.0):

        def write(out: Tensor, value: float = value) -> None:
            device.log.append("host writes")
            out.fill_(value)

        device.log.append("fill")
        buffer.fill(write)
        buffer.hand_out()
        assert torch.equal(buffer.packed, torch.full((2, 3), value))
        buffer.take_back()
    buffer.close()
    once = [
        "fill",
        "host waits for copied",
        "host writes",
        "copy waits for released",
        "copy records copied",
        "learner waits for copied",
        "learner records released",
    ]
    assert device.log == ["learner records released", *once, *once, "host waits for copied"]
