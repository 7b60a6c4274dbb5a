"""Trials that take turns: real processes that stand still, and clocks that stand still with them."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.measure import interleaving as turns
from harness.measure.engines.local import LocalEngine
from harness.measure.interleaving import Pauses, Seat
from harness.measure.process import Job, Outcome, Repeat, RepeatLimits
from harness.measure.repeat import TrialSpec
from harness.measure.stop import Stopped, StopSignal
from unilab.ipc.shared_memory.segments import start_time

PATIENT = RepeatLimits(60, 60)
TRAINER = "tests.harness.fake_trainer:FakeTrainer"


def spec(folder: Path, seconds: float = 0.3, **fake) -> TrialSpec:
    file = str(folder / turns.FILE)
    return TrialSpec(TRAINER, {"real_clock": True, **fake}, 0.0, seconds, str(folder), -1, pauses=file)


def measured(specs: list[TrialSpec], limits: RepeatLimits = PATIENT) -> list[Outcome]:
    with StopSignal() as stop, LocalEngine("here", stop) as engine:
        engine.start(0, [Job(one, limits, lambda progress: None) for one in specs])
        return engine.wait()[1]


def standing(pid: int) -> bool:
    """Whether the process stands still; a signal is obeyed when the process would run the next time."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat").read_text()
        if stat[stat.rindex(")") + 2] == "T":
            return True
    return False


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.001, 0.01), st.floats(0.3, 5), st.sampled_from(["before", "across", "none"])),
        min_size=1, max_size=25,
    )
)  # fmt: skip
def test_a_clock_stands_still_in_every_pause(tmp_path_factory, stretches: list[tuple[float, float, str]]) -> None:
    """Each stretch is some running and the pause behind it; the clock is read before the pause, across it, or not."""
    file = tmp_path_factory.mktemp("seat") / turns.FILE
    file.touch()
    pauses = Pauses(file)
    wall = ran = 0.0
    for running, pause, when in stretches:
        wall, ran = wall + running, ran + running
        if when == "before":
            assert pauses.active(wall) == pytest.approx(ran, abs=1e-9)
        with file.open("a") as lines:
            lines.write(f"pause {pause!r}\n")
        if when == "across":  # read before the pause, asked for after it
            assert pauses.active(wall) == pytest.approx(ran, abs=1e-9)
        wall += pause
    assert pauses.active(wall + 0.001) == pytest.approx(ran + 0.001, abs=1e-9)


def test_lines_are_read_however_they_come(tmp_path: Path) -> None:
    file = tmp_path / turns.FILE
    file.write_bytes(b"gro")
    pauses = Pauses(file)
    assert pauses.groups == set() and pauses.active(1.0) == 1.0
    for piece in (b"up 7\ngroup 12", b"\npause 2", b".5\ngroup 9\n"):
        with file.open("ab") as lines:
            lines.write(piece)
        pauses.active(1.1)
    assert pauses.groups == {7, 12, 9} and pauses.active(4.0) == 1.5


def test_one_runs_while_the_others_stand_still(tmp_path: Path, monkeypatch) -> None:
    """Seen through the eyes of the kernel whenever a turn begins."""
    folders = [tmp_path / name for name in "abc"]
    markers = [tmp_path / f"{name}.pid" for name in "abc"]
    specs = [spec(folder, 0.6, marker=str(marker)) for folder, marker in zip(folders, markers, strict=True)]
    seen: list[list[bool]] = []
    go_on = Seat.go_on

    def watching(seat: Seat) -> None:
        if len(seen) < 4 and seat.paused_at is not None:  # nobody has been measured yet
            seen.append([standing(int(marker.read_text().split()[0])) for marker in markers])
        go_on(seat)

    monkeypatch.setattr(Seat, "go_on", watching)
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.1)
    outcomes = measured(specs)
    assert [outcome.state for outcome in outcomes] == ["complete"] * 3
    assert len(seen) == 4 and all(map(all, seen))
    for outcome in outcomes:
        # without its pauses: 100 env steps in 10 ms, and a pause may shorten the sleep that it fell into
        assert outcome.result["env_steps_per_second"] == pytest.approx(10_000, rel=0.25)
        assert 0.6 <= outcome.result["steady_seconds"] < 0.8 < outcome.result["wall_seconds"]
        assert math.isnan(outcome.result["collector_busy_fraction"])


def test_standing_still_uses_up_no_deadline(tmp_path: Path, monkeypatch) -> None:
    folders = [tmp_path / name for name in "abcd"]
    monkeypatch.setattr(turns, "TURN_SECONDS", 1.6)
    outcomes = measured([spec(folder, 1.8) for folder in folders], RepeatLimits(60, progress_timeout_seconds=4.5))
    assert [outcome.state for outcome in outcomes] == ["complete"] * 4  # each stood still for 4.8 s between two turns


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_trial_that_fails_ends_and_the_others_go_on(tmp_path: Path, bad: int) -> None:
    """Also when it ended before the next one is started, whose pipe gets the number of its own."""
    specs = [spec(tmp_path / str(n), behaviour="die" if n == bad else "good") for n in range(3)]
    outcomes = measured(specs, RepeatLimits(60, 20))
    assert "SIGKILL" in str(outcomes.pop(bad).error)
    assert [outcome.state for outcome in outcomes] == ["complete"] * 2


def test_what_a_watcher_raises_ends_all(tmp_path: Path) -> None:
    """Also those that stand still."""
    markers = [tmp_path / f"{name}.pid" for name in "ab"]
    specs = [spec(tmp_path / marker.stem, 600, marker=str(marker)) for marker in markers]

    def fails(progress: dict) -> None:
        raise ValueError("no such thing")

    with StopSignal() as stop, pytest.raises(ValueError, match="no such thing"), LocalEngine("here", stop) as engine:
        engine.start(0, [Job(specs[0], PATIENT, lambda progress: None), Job(specs[1], PATIENT, fails)])
        engine.wait()
    for marker in markers:
        with pytest.raises(ProcessLookupError):
            os.kill(int(marker.read_text().split()[0]), 0)


def test_a_seat_counts_what_it_stood_still(tmp_path: Path) -> None:
    seat = Seat(tuple, lambda pid: None, tmp_path / turns.FILE)
    real, before = time.monotonic(), seat.clock()
    seat.pause()
    stopped, stands_since = seat.clock(), time.monotonic()
    time.sleep(0.05)
    assert seat.clock() == stopped
    seat.pause()
    stood = time.monotonic() - stands_since
    seat.go_on()
    seat.go_on()
    assert stopped <= seat.clock() <= before + time.monotonic() - real - stood


def test_processes_in_sessions_of_their_own_stand_still_too(tmp_path: Path, monkeypatch) -> None:
    """As those of packages that start servers: they descend from the trial, and are not in its group."""
    seen: list[bool] = []
    go_on = Seat.go_on

    def watching(seat: Seat) -> None:
        if not seen and seat.paused_at is not None and seat._file == tmp_path / "a" / turns.FILE:
            seen.append(standing(int((tmp_path / "pid.session").read_text())))
        go_on(seat)

    monkeypatch.setattr(Seat, "go_on", watching)
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.1)
    one = spec(tmp_path / "a", 0.6, behaviour="session", marker=str(tmp_path / "pid"))
    outcomes = measured([one, spec(tmp_path / "b", 0.6)])
    assert [outcome.state for outcome in outcomes] == ["complete"] * 2 and seen == [True]


def test_at_a_signal_all_end_by_themselves(tmp_path: Path, monkeypatch) -> None:
    """Nobody is stopped again on the way, so none has to be killed."""
    ended: list[int | None] = []
    end = Repeat.end

    def recording(repeat: Repeat) -> None:
        known = repeat.over
        end(repeat)
        if not known:
            ended.append(repeat._process.returncode)

    monkeypatch.setattr(Repeat, "end", recording)
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.05)
    folders = [tmp_path / name for name in "abc"]
    go_on, given = Seat.go_on, []

    def interrupting(seat: Seat) -> None:
        given.append(seat)
        if len(given) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        go_on(seat)

    monkeypatch.setattr(Seat, "go_on", interrupting)
    with pytest.raises(Stopped):
        measured([spec(folder, 600, behaviour="endless") for folder in folders])
    assert ended == [128 + signal.SIGTERM] * 3


HARNESS = """
import sys
from pathlib import Path
from tests.harness.measure.test_interleaving import measured, spec

folders = [Path(sys.argv[1]) / name for name in "ab"]
measured([spec(folder, 600, behaviour="session", marker=f"{folder}.pid") for folder in folders])
"""


def test_when_the_harness_is_killed_nothing_stays_stopped(tmp_path: Path) -> None:
    """Neither the trials nor their processes in sessions of their own."""
    repository = Path(__file__).parents[3]
    started: dict[int, int | None] = {}
    harness = subprocess.Popen([sys.executable, "-c", HARNESS, tmp_path], cwd=repository, stderr=subprocess.DEVNULL)
    try:
        there = [tmp_path / f"{name}.pid.session" for name in "ab"]
        deadline = time.monotonic() + 60
        while not all(file.exists() and file.read_text() for file in there) and time.monotonic() < deadline:
            time.sleep(0.05)
        others = [int(file.read_text()) for file in there]
        trials = [int((tmp_path / f"{name}.pid").read_text().split()[0]) for name in "ab"]
        started = {pid: start_time(pid) for pid in others}
        assert standing(others[0])  # of both, as the second begins to stand when both are warm
        assert standing(others[1])
        harness.kill()
        harness.wait()
        deadline = time.monotonic() + 60
        while any(start_time(pid) is not None for pid in [*trials, *others]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [start_time(pid) for pid in [*trials, *others]] == [None] * 4
    finally:
        harness.kill()
        for pid, start in started.items():
            if start_time(pid) == start:
                os.kill(pid, signal.SIGKILL)


def test_a_second_signal_lets_all_run_before_it_ends_them(tmp_path: Path, monkeypatch) -> None:
    """Also those that are in no group of ours."""

    class Ended(BaseException):
        pass

    def end(code: int) -> None:
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    with subprocess.Popen(["sleep", "60"]) as process, StopSignal() as stop:
        seat = Seat(lambda: [process.pid], lambda pid: None, tmp_path / turns.FILE)
        stop.at_once.add(seat.run_at_once)
        seat.pause()
        assert standing(process.pid)
        with pytest.raises(Ended):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        assert Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T"
        process.kill()


def test_a_number_that_was_given_to_another_process_is_never_signalled() -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger, subprocess.Popen(["sleep", "60"]) as own:
        try:
            listed = [{own.pid, stranger.pid}, {own.pid}]  # when it is looked at again, one is no member any more
            found: list[int] = []
            seat = Seat(lambda: listed.pop(0) if len(listed) > 1 else listed[0], found.append)
            assert seat.find() and found == [own.pid] and not seat.find()
            seat.signal(signal.SIGSTOP)
            assert standing(own.pid)
            stat = Path(f"/proc/{stranger.pid}/stat").read_text()
            assert stat.rpartition(")")[2].split()[0] != "T"
            own.kill()
            own.wait()
            listed[:] = [{stranger.pid}]  # the number is somebody's again, here of a member
            seat.signal(signal.SIGSTOP)
            assert seat.find() and found == [own.pid, stranger.pid]
            seat.close()
        finally:
            stranger.kill()
            own.kill()


def test_a_pause_begins_before_the_processes_are_listed(tmp_path: Path) -> None:
    listed_since: list[float] = []

    class Slow(Seat):
        def find(self) -> bool:
            listed_since.append(time.monotonic())
            time.sleep(0.05)
            return False

    seat = Slow(tuple, lambda pid: None, tmp_path / turns.FILE)
    seat._held = {os.getpid(): -1}  # no descriptor of any process, so that no signal arrives
    real, before = time.monotonic(), seat.clock()
    seat.pause()
    assert seat.clock() <= before + listed_since[0] - real


def test_what_has_ended_is_not_stopped(tmp_path: Path) -> None:
    """Its numbers may be those of other processes."""
    with subprocess.Popen(["sleep", "60"]) as stranger:
        seat = Seat(lambda: [stranger.pid], lambda pid: None, tmp_path / turns.FILE)
        seat.close()
        seat.pause()
        assert seat.paused_at is None
        assert Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T"
        stranger.kill()
