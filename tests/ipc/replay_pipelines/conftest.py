import threading
from collections.abc import Iterator

import pytest
import torch

from tests.ipc.replay_pipelines.rows import ACTIONS, BATCH, CAPACITY, OBS, MakePipeline, MakeReplay, add_rows
from unilab.ipc.replay_buffer import ReplayBuffer
from unilab.ipc.replay_pipelines import ReplayPipeline, build_pipeline, host
from unilab.ipc.replay_pipelines.device import DevicePipeline
from unilab.ipc.replay_pipelines.host import BatchBuffer, PrefetchPipeline


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("replay prefetch")]


@pytest.fixture
def make_replay() -> Iterator[MakeReplay]:
    made: list[ReplayBuffer] = []

    def make(rows: int = 0, *, capacity: int = CAPACITY, seed: int = 7) -> ReplayBuffer:
        made.append(ReplayBuffer(capacity, OBS, ACTIONS, "cpu", seed=seed))
        if rows:
            add_rows(made[-1], rows)
        return made[-1]

    yield make
    for replay in made:
        replay.cleanup()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePipeline]:
    """A pipeline for a learner on the CPU; the classes for accelerators run there too, in the same code."""
    made: list[ReplayPipeline] = []

    def stream_buffers(count: int, shape: tuple[int, int], device: torch.device) -> list[BatchBuffer]:
        stream = torch.cpu.Stream()
        return [BatchBuffer(shape, device, stream, torch.cpu) for _ in range(count)]

    def build(kind: str, replay: ReplayBuffer, batch_size: int = BATCH) -> ReplayPipeline:
        pipeline: ReplayPipeline
        if kind == "device":
            pipeline = DevicePipeline(replay, batch_size, "cpu", seed=5)
        elif kind == "prefetch with streams":
            with monkeypatch.context() as patch:
                patch.setattr(host, "batch_buffers", stream_buffers)
                pipeline = PrefetchPipeline(replay, batch_size, "cpu")
        else:
            pipeline = build_pipeline(kind, replay, batch_size, "cpu")  # type: ignore[arg-type]
        made.append(pipeline)
        return pipeline

    yield build
    for pipeline in made:
        pipeline.close()
    made.clear()
    assert prefetch_threads() == []
