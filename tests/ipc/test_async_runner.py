"""Supervision of collectors: every way to fail reaches the caller, and every way to end leaves nothing behind."""

import os
import pickle
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.ipc import collectors
from tests.ipc.collectors import Runner
from tests.ipc.conftest import SPAWN_SECONDS
from unilab.ipc import AsyncRunner, CollectorError, SharedFlag
from unilab.ipc.shared_memory import segments


def runner() -> Runner:
    return Runner("HalfCheetah", None, {}, num_envs=4)


def failure_of(target: Callable[..., object], *args: Any, **kwargs: Any) -> CollectorError:
    """What the runner raises when this collector runs."""
    with pytest.raises(CollectorError) as caught, runner() as running:
        running.start_collector(target, args, name="collector-7", **kwargs)
        running.learn(1)
    return caught.value


def test_learn_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        AsyncRunner("HalfCheetah", None, {})  # type: ignore[abstract]
    with pytest.raises(ValueError, match="num_envs is 0"):
        Runner("HalfCheetah", None, {}, num_envs=0)


def test_an_exception_arrives_with_traceback_cause_and_step() -> None:
    error = failure_of(collectors.step_then_raise, SharedFlag(), collectors.plain_error)
    assert (error.collector, error.exit_code, error.signal_name, error.last_step) == ("collector-7", 1, None, 1234)
    assert isinstance(error.__cause__, ValueError)
    assert error.traceback_text is not None
    assert "raise error()" in error.traceback_text
    message = str(error)
    assert f"process {error.pid}" in message
    assert "failed with ValueError: joint 3 has no limits, after env step 1234" in message
    assert "in step_then_raise" in message


def test_the_traceback_is_told_once_and_a_note_is_not_the_exception(tmp_path: Path) -> None:
    log = tmp_path / "collector.log"
    error = failure_of(collectors.step_then_raise, SharedFlag(), collectors.noted_error, log=log)
    assert error.cause == "ValueError: joint 3 has no limits"
    message = str(error)
    assert "failed with ValueError: joint 3 has no limits, after env step 1234" in message
    assert message.count("Traceback") == message.count("environment 5") == 1 and "environment 5" in message
    assert "Traceback" in log.read_text() and message.endswith(f"Its log is {log}")


def test_an_exception_that_cannot_be_pickled_arrives_with_traceback() -> None:
    error = failure_of(collectors.step_then_raise, SharedFlag(), collectors.unpicklable)
    assert error.__cause__ is None
    assert error.traceback_text is not None
    assert "UnpicklableError: 1 and 2" in error.traceback_text


def test_an_argument_that_cannot_be_loaded_arrives_with_traceback() -> None:
    error = failure_of(collectors.step_until_stopped, collectors.BrokenArgument(), 1)
    assert isinstance(error.__cause__, RuntimeError)
    assert "the argument is broken" in str(error)


UNGUARDED = """
from tests.ipc import collectors
from tests.ipc.collectors import Runner

with Runner("HalfCheetah", None, {}) as runner:  # in the collector, too, which imports this file
    runner.start_collector(collectors.step_until_stopped, (bytes(2**20), 1, None), name="collector-7")
    assert runner.interrupt.wait(60)
    runner.check_collectors()
"""


def test_a_collector_that_dies_before_it_has_read_its_arguments_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=SPAWN_SECONDS, check=False
    )
    assert ended.returncode == 1 and "CollectorError" in ended.stderr and "collector-7" in ended.stderr
    assert "if __name__ == '__main__':" in ended.stderr, "Python's own advice"


def test_an_exception_arrives_although_a_thread_keeps_the_collector_from_exiting() -> None:
    error = failure_of(collectors.raise_beside_a_thread)
    assert isinstance(error.__cause__, ValueError)


def test_a_collector_that_is_killed_in_the_middle_of_its_report_has_failed() -> None:
    error = failure_of(collectors.die_in_the_report)
    assert (error.signal_name, error.traceback_text) == ("SIGKILL", None)


def test_the_error_can_be_sent_on() -> None:
    error = CollectorError("collector-0", 12, -9, traceback_text="Error: x", last_step=5, log=Path("/nowhere/log"))
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.pid, copy.signal_name, copy.last_step) == (12, "SIGKILL", 5)


def test_the_cause_in_a_group_of_exceptions_is_named() -> None:
    def failing() -> None:
        raise ExceptionGroup("several", [KeyError("first"), ValueError("second")])

    with pytest.raises(ExceptionGroup) as caught:
        failing()
    text = "".join(traceback.format_exception(caught.value))
    assert (
        CollectorError("collector-0", 12, 1, traceback_text=text).cause == "ExceptionGroup: several (2 sub-exceptions)"
    )


def test_a_collector_that_returns_unasked_is_an_error() -> None:
    error = failure_of(collectors.return_at_once)
    assert error.exit_code == 0
    assert "ended by itself with exit code 0 before it reported a step" in str(error)


def test_a_collector_that_exits_is_an_error() -> None:
    error = failure_of(collectors.exit_with, 5)
    assert isinstance(error.__cause__, SystemExit)
    assert error.exit_code == 5


def test_a_native_crash_names_the_signal_and_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "collector.log"
    error = failure_of(collectors.print_then_crash, log=log)
    assert error.signal_name == "SIGSEGV"
    message = str(error)
    assert str(log) in message
    assert "loading the terrain" in message
    assert "in print_then_crash" in message, "the stack of the crash"


def test_an_earlier_run_that_wrote_to_the_same_log_is_not_quoted(tmp_path: Path) -> None:
    log = tmp_path / "collector.log"
    failure_of(collectors.step_then_raise, SharedFlag(), collectors.noted_error, log=log)
    message = str(failure_of(collectors.print_then_crash, log=log))
    assert "Traceback" in log.read_text() and "Traceback" not in message
    assert "loading the terrain" in message


def test_a_killed_collector_names_process_signal_and_step() -> None:
    with pytest.raises(CollectorError, match="was killed by SIGKILL after env step 42") as caught, runner() as running:
        receive, send = running.ctx.Pipe(duplex=False)
        process = running.start_collector(collectors.step_until_stopped, (running.stop_event, 42, send))
        assert receive.poll(SPAWN_SECONDS)
        assert receive.recv() == process.pid
        running.check_collectors()
        os.kill(process.pid or 0, signal.SIGKILL)
        running.learn(1)
    assert caught.value.exit_code == -signal.SIGKILL
    assert caught.value.pid > 0


def test_a_killed_collector_is_noticed_although_its_own_child_lives_on() -> None:
    with pytest.raises(CollectorError, match="was killed by SIGKILL"), runner() as running:
        receive, send = running.ctx.Pipe(duplex=False)
        running.start_collector(collectors.fork_then_be_killed, (send,))
        try:
            running.learn(1)
        finally:
            os.kill(receive.recv(), signal.SIGKILL)


def test_one_of_several_fails_and_the_others_are_stopped() -> None:
    with pytest.raises(CollectorError, match="joint 3"), runner() as running:
        others = [running.start_collector(collectors.step_until_stopped, (running.stop_event, 1)) for _ in range(2)]
        running.start_collector(collectors.step_then_raise, (running.stop_event, collectors.plain_error))
        pids = [other.pid for other in others]
        running.learn(1)
    assert not any(psutil.pid_exists(pid) for pid in pids if pid is not None)


def test_a_clean_end_raises_nothing_and_close_is_idempotent() -> None:
    with runner() as running:
        running.start_collector(collectors.step_until_stopped, (running.stop_event, 1))
        assert not running.interrupt.is_set()
    running.close()
    running.check_collectors()


def test_a_failure_that_nobody_saw_is_raised_at_the_end() -> None:
    with pytest.raises(CollectorError, match="joint 3"), runner() as running:
        running.start_collector(collectors.step_then_raise, (running.stop_event, collectors.plain_error))
        assert running.interrupt.wait(SPAWN_SECONDS)


def test_an_exception_of_the_learner_ends_the_collectors_and_comes_through() -> None:
    with pytest.raises(FloatingPointError, match="loss"), runner() as running:
        process = running.start_collector(collectors.step_until_stopped, (running.stop_event, 1))
        pid = process.pid
        raise FloatingPointError("loss is NaN")
    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_a_collector_that_does_not_stop_is_killed_and_its_stacks_are_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "collector.log"
    with runner() as running:
        ready = SharedFlag()
        running.start_collector(collectors.ignore_the_stop, (ready,), log=log)
        assert ready.wait(SPAWN_SECONDS)
        running.stop_collectors(deadline_seconds=0.1)
    assert f"did not stop in time and is killed; its stacks are in {log}" in caplog.text
    assert "in ignore_the_stop" in log.read_text()


SCRIPT = """
import sys, time
from tests.ipc import collectors
from tests.ipc.collectors import Runner
from unilab.ipc import LatestValue
from unilab.run.signals import stop_on_signals

def main():
    with Runner("HalfCheetah", None, {}) as runner, stop_on_signals(runner.interrupt) as signals:
        mailbox = LatestValue()
        receive, send = runner.ctx.Pipe(duplex=False)
        runner.start_collector(COLLECTOR)
        print(mailbox.name, receive.recv(), flush=True)
        assert runner.interrupt.wait(60)
        print("interrupted", flush=True)
        AFTERWARDS
        runner.check_collectors()
        runner.close()
        mailbox.cleanup()
        print(f"clean end after {signals.signal.name}", flush=True)
    sys.exit(128 + signals.signal if signals.signal else 0)

if __name__ == "__main__":
    main()
"""
WAITING = "collectors.step_until_stopped, (runner.stop_event, 1, send)"
COMPUTING = "collectors.compute_for_ever, (send,)"


def start_script(tmp_path: Path, collector: str = WAITING, afterwards: str = "pass") -> subprocess.Popen[str]:
    """A trainer in a process group of its own."""
    script = tmp_path / "trainer.py"
    script.write_text(SCRIPT.replace("COLLECTOR", collector).replace("AFTERWARDS", afterwards))
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def started(script: subprocess.Popen[str]) -> tuple[str, list[psutil.Process]]:
    """Name of some shared memory of its, and its collectors."""
    assert script.stdout is not None
    name, *pids = script.stdout.readline().split() or [""]
    assert name, script.communicate()[1]
    assert (segments.ROOT / name).exists()
    return name, [psutil.Process(int(pid)) for pid in pids]


def assert_nothing_left(name: str, children: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(children, timeout=SPAWN_SECONDS)
    assert not alive
    owner = re.match(r"unilab\.\w+\.\d+\.", name)
    assert owner is not None
    tracker_or_watchdog = [path.name for path in segments.ROOT.glob(f"{owner[0]}*")]
    assert tracker_or_watchdog == []


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_group_ends_it_cleanly(tmp_path: Path, number: signal.Signals, exit_code: int) -> None:
    script = start_script(tmp_path)
    name, children = started(script)
    os.killpg(script.pid, number)
    output, errors = script.communicate(timeout=SPAWN_SECONDS)
    assert output.splitlines() == ["interrupted", f"clean end after {number.name}"]
    assert (script.returncode, errors) == (exit_code, "")
    assert_nothing_left(name, children)


def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    script = start_script(tmp_path, afterwards="time.sleep(600)")
    name, children = started(script)
    assert script.stdout is not None
    script.send_signal(signal.SIGINT)
    assert script.stdout.readline() == "interrupted\n"
    script.send_signal(signal.SIGINT)
    script.communicate(timeout=SPAWN_SECONDS)
    assert script.returncode == -signal.SIGINT
    assert_nothing_left(name, children)


@pytest.mark.parametrize("collector", [WAITING, COMPUTING])
def test_a_killed_runner_takes_its_collectors_and_shared_memory_along(tmp_path: Path, collector: str) -> None:
    script = start_script(tmp_path, collector)
    name, children = started(script)
    script.kill()
    script.communicate(timeout=SPAWN_SECONDS)
    assert_nothing_left(name, children)


def test_an_uncaught_exception_ends_the_collectors_at_exit(tmp_path: Path) -> None:
    script = start_script(tmp_path, afterwards="raise OSError('disk full')")
    name, children = started(script)
    script.send_signal(signal.SIGINT)
    _, errors = script.communicate(timeout=SPAWN_SECONDS)
    assert script.returncode == 1
    assert errors.rstrip().endswith("OSError: disk full")
    assert_nothing_left(name, children)
