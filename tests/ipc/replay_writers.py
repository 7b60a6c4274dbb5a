"""Writers of a replay buffer that stop or die in the middle of their rows, all in one process."""

import numpy as np
from hypothesis import strategies as st

from tests.ipc.replay_processes import ACTIONS, OBS, counted, counters_of
from unilab.ipc import ReplayBuffer

ACTS = st.tuples(
    st.sampled_from(["begin", "begin", "finish", "die", "add", "add"]), st.integers(0, 2), st.integers(1, 14)
)


def check(replay: ReplayBuffer) -> None:
    """All that can be read is whole, by each way to read it."""
    window = replay.sampling_window()
    whole = counters_of(replay, replay.rows(*replay.window))
    assert len(whole) == len(window) == len(replay)
    if len(window):
        assert set(counters_of(replay, replay.sample_packed(50))) <= set(whole)


class Writers:
    """Writers that stop in the middle of add() or die there, beside others that go on."""

    def __init__(self, capacity: int, number: int) -> None:
        self.replay = ReplayBuffer(capacity, OBS, ACTIONS, "cpu")
        self.handles = [self.attach() for _ in range(number)]
        self.spans: list[tuple[int, int] | None] = [None] * number
        self.counter = 0
        self.closed: list[ReplayBuffer] = []

    def attach(self) -> ReplayBuffer:
        replay = self.replay
        return ReplayBuffer(replay.capacity, OBS, ACTIONS, "cpu", name=replay.name)

    def write(self, writer: int, whole: bool) -> None:
        start, stop = self.spans[writer] or (0, 0)
        for number in range(start, stop):
            row = self.replay._shared[number % self.replay.capacity]
            row[:] = -1
            if whole:
                arguments = counted([self.counter])
                row[:] = np.concatenate([arguments[name].reshape(-1) for name in self.replay.columns])
            self.counter += 1

    def begin(self, writer: int, count: int) -> None:
        if self.spans[writer] is None:
            self.spans[writer] = self.handles[writer]._claims.claim(min(count, self.replay.capacity))
            self.write(writer, whole=False)

    def finish(self, writer: int) -> None:
        if self.spans[writer] is not None:
            self.write(writer, whole=True)
            self.handles[writer]._claims.finish()
            self.spans[writer] = None

    def die(self, writer: int) -> None:
        """As a kill leaves it: nothing more is stored, and the owner's start time is no living process's."""
        claims = self.handles[writer]._claims
        if claims._entry is not None:
            self.replay._claims._words[claims._started + claims._entry] = -1
            claims._entry = None
        self.handles[writer].close()
        self.handles[writer] = self.attach()
        self.spans[writer] = None

    def add(self, count: int) -> None:
        self.replay.add(**counted(np.arange(self.counter, self.counter + count)))
        self.counter += count

    def act(self, act: str, writer: int, count: int) -> None:
        if act == "add":
            self.add(count)
        elif act == "begin":
            self.begin(writer, count)
        elif act == "finish":
            self.finish(writer)
        elif act == "die":
            self.die(writer)

    def close(self) -> None:
        for handle in self.handles:
            handle.close()
        self.replay.cleanup()
