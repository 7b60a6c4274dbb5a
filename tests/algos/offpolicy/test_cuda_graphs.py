"""Recorded updates, on a stand-in for CUDA that records and replays on the CPU: where they run, what they leave."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.algos.offpolicy.test_learners import make, make_batch, parameters
from unilab.algos.torch.offpolicy.networks.cuda_graphs import WARMUP_UPDATES, CudaGraphs
from unilab.machine.devices import current_device

FIRST, NAMED = 0, 1


class Recording(TorchDispatchMode):
    """As a CUDA graph: its operations are done again with the very same memory, whatever Python has done meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[Any] = []
        self._done = True  # by recording them; on CUDA the first replay does them

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        self._operations.append((function, args, kwargs or {}, results))
        return results

    @torch.no_grad()
    def replay(self) -> None:
        done, self._done = self._done, False
        for function, args, kwargs, results in () if done else self._operations:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class StandIn:
    """As torch.cuda with two devices: writes down on which of them everything happens."""

    def __init__(self) -> None:
        self.now = FIRST
        self.log: list[tuple[str, int]] = []

    def is_available(self) -> bool:
        return False

    def Stream(self) -> Any:
        return self.current_stream()

    def current_stream(self) -> Any:
        return SimpleNamespace(device=self.now, wait_stream=lambda other: self.log.append(("waits", other.device)))

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.now = self.now, device.index
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.log.append(("stream", stream.device))
        yield

    def CUDAGraph(self) -> Any:
        recording = Recording()

        def replay() -> None:
            self.log.append(("replay", self.now))
            recording.replay()

        return SimpleNamespace(register_generator_state=lambda generator: None, recording=recording, replay=replay)

    @contextmanager
    def graph(self, graph: Any, stream: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
        # without a stream PyTorch takes one of the device that was current at the first recording of the process
        self.log.append(("record", FIRST if stream is None else stream.device))
        with graph.recording:
            yield


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(torch, "cuda", stand_in)
    return stand_in


def test_warming_up_recording_and_replaying_are_on_the_device_that_is_named(cuda: StandIn) -> None:
    def update(batch, with_actor) -> None:
        cuda.log.append(("update", cuda.now))

    run = CudaGraphs(SimpleNamespace(device=torch.device("cuda", NAMED)))
    for _ in range(WARMUP_UPDATES + 2):
        run(update, {"rewards": torch.zeros(2)}, True)
    assert {what for what, _ in cuda.log} == {"waits", "stream", "update", "record", "replay"}
    assert {device for _, device in cuda.log} == {NAMED}
    assert cuda.now == FIRST


@pytest.mark.parametrize("device", ["cpu", "cuda:1", torch.device("cuda", 1)])
def test_the_current_device_is_the_named_one_for_a_while(device, cuda: StandIn) -> None:
    with current_device(device):
        assert cuda.now == (FIRST if device == "cpu" else NAMED)
    assert cuda.now == FIRST


CHANGES = [{}, {"algorithm.num_atoms": 5}, {"learner_dtype": "bfloat16"}, {"algorithm.reward_scale": "auto"}]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_replayed_updates_leave_the_same_metrics_and_parameters(algorithm, changes, request) -> None:
    changes = {"algorithm.policy_frequency": 2} | changes
    plain, recorded = make(algorithm, **changes), make(algorithm, **changes)
    request.getfixturevalue("cuda")  # from here on: what builds the learners is PyTorch's own
    recorded._recorded = CudaGraphs(SimpleNamespace(device=torch.device("cuda", NAMED)))
    for seed in range(2 * WARMUP_UPDATES + 6):
        for learner in (plain, recorded):
            learner.update(make_batch(seed))
        assert recorded.metrics() == plain.metrics(), seed
    assert torch.equal(parameters(recorded.critics), parameters(plain.critics))
    assert torch.equal(parameters(recorded.actor), parameters(plain.actor))
