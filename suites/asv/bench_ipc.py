"""Shared memory: the ring, waking another process, weight sync beside a plain copy, replay beside a gather, for asv."""

import itertools
import multiprocessing
import runpy

import numpy as np
import torch

from unilab.ipc import LatestValue, ReplayBuffer, RolloutRingBuffer, SharedFlag, SharedWeightSync

RING = (256, 32, 17, 6)
LAYERS = {"256x256": (17, 256, 256, 6), "1024x1024x512": (376, 1024, 1024, 512, 17)}


class Ring:
    """One rollout of 256 environments and 32 steps through the ring, in one process."""

    def setup(self) -> None:
        self.ring = RolloutRingBuffer(*RING)
        self.fields = {name: torch.zeros(shape) for name, shape in self.ring.slot_shapes.items()}
        self.write()

    def teardown(self) -> None:
        self.ring.cleanup()

    def write(self) -> None:
        for array in self.ring.write_buffer.values():
            array.fill(1.0)
        self.ring.signal_write_done()

    def time_write_rollout(self) -> None:
        self.write()

    def time_signal_write_done(self) -> None:
        self.ring.signal_write_done()

    def time_copy_rollout(self) -> None:
        self.ring.copy_read_slot_to_torch(self.fields)


ANSWERING = "answering process"
"""name under which this file is run there: asv imports it as part of a package that a spawned process cannot find"""


def answer(requests: RolloutRingBuffer, answers: RolloutRingBuffer, stop: SharedFlag) -> None:
    """The other process: sends a rollout back for each one that comes."""
    while not stop.is_set():
        if requests.wait_for_data(unless=stop):
            requests.advance_read()
            answers.signal_write_done()


class WakeUp:
    """There and back between two processes: two wake-ups."""

    def setup(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.stop = SharedFlag()
        self.requests, self.answers = (RolloutRingBuffer(1, 1, 1, 1) for _ in range(2))
        names = {"requests": self.requests, "answers": self.answers, "stop": self.stop}
        self.process = context.Process(target=runpy.run_path, args=(__file__, names, ANSWERING))
        self.process.start()
        self.time_round_trip()

    def teardown(self) -> None:
        self.stop.set()
        self.process.join()
        self.requests.cleanup()
        self.answers.cleanup()

    def time_round_trip(self) -> None:
        self.requests.signal_write_done()
        if not self.answers.wait_for_data(timeout=60.0):
            raise RuntimeError("the other process does not answer; see its output")
        self.answers.advance_read()


class WeightSync:
    """Publishing and taking the weights of a network, beside copying its tensors once."""

    param_names = ("network",)
    params = (list(LAYERS),)

    def setup(self, network: str) -> None:
        torch.set_num_threads(1)
        sizes = LAYERS[network]
        layers = [torch.nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
        self.weights = torch.nn.Sequential(*layers).state_dict()
        self.received = {key: value.clone() for key, value in self.weights.items()}
        self.sync = SharedWeightSync.from_state_dict(self.weights)
        self.sync.write_weights(self.weights)

    def teardown(self, network: str) -> None:
        self.sync.cleanup()

    def time_plain_copy(self, network: str) -> None:
        for key, value in self.weights.items():
            self.received[key].copy_(value)

    def time_write_weights(self, network: str) -> None:
        self.sync.write_weights(self.weights)

    def time_read_weights_into(self, network: str) -> None:
        self.sync.read_weights_into(self.received)


TRANSITIONS = 300_000


class ReplaySample:
    """Batches of 111-wide rows from a full replay buffer, beside gathering as many random rows with one operation."""

    param_names = ("batch_size",)
    params = ([256, 8192],)

    def setup(self, batch_size: int) -> None:
        self.replay = ReplayBuffer(TRANSITIONS, 48, 12, "cpu")
        rows = torch.randn(TRANSITIONS, 48).numpy()
        self.replay.add(rows, rows[:, :12], rows[:, 0], rows, *(np.zeros(TRANSITIONS, bool) for _ in range(2)))
        self.rows = self.replay.rows(0, TRANSITIONS)
        self.out = torch.empty(batch_size, self.replay.width)
        self.indices = itertools.cycle(torch.randint(TRANSITIONS, (100, batch_size)))

    def teardown(self, batch_size: int) -> None:
        self.replay.cleanup()

    def time_index_select(self, batch_size: int) -> None:
        torch.index_select(self.rows, 0, next(self.indices), out=self.out)

    def time_sample_packed(self, batch_size: int) -> None:
        self.replay.sample_packed(batch_size, self.out)

    def time_sample(self, batch_size: int) -> None:
        self.replay.sample(batch_size)


class ReplayAdd:
    """One step of N environments of HalfCheetah's sizes into the replay buffer."""

    param_names = ("environments",)
    params = ([16, 256, 4096],)

    def setup(self, environments: int) -> None:
        self.replay = ReplayBuffer(100_000, 17, 6, "cpu")
        obs = torch.randn(environments, 17).numpy()
        flags = np.zeros(environments, bool)
        self.transitions = (obs, obs[:, :6], obs[:, 0], obs, flags, flags)

    def teardown(self, environments: int) -> None:
        self.replay.cleanup()

    def time_add(self, environments: int) -> None:
        self.replay.add(*self.transitions)


class Mailbox:
    """A message of the size of a collector's counters."""

    def setup(self) -> None:
        self.mailbox = LatestValue()
        self.message = {f"counter {index}": float(index) for index in range(10)}

    def teardown(self) -> None:
        self.mailbox.cleanup()

    def time_put(self) -> None:
        self.mailbox.put(self.message)

    def time_put_and_get(self) -> None:
        self.mailbox.put(self.message)
        self.mailbox.get()


if __name__ == ANSWERING:
    answer(*(globals()[name] for name in ("requests", "answers", "stop")))
