"""The process that watches a repeat on a node, without Ray: what it sends, and that it ends with its pipe."""

import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from harness.measure.engines import watcher
from harness.measure.engines.node import Assignment, Ended
from harness.measure.process import RepeatLimits
from harness.measure.repeat import TrialSpec

ENDS_WITHIN = 60.0


@pytest.fixture
def pipe() -> Iterator[Connection]:
    """To a watcher in a process of its own, which works in this process's folder."""
    ours, theirs = Pipe()
    watching = subprocess.Popen(
        [sys.executable, "-m", "harness.measure.engines.watcher", str(theirs.fileno())], pass_fds=[theirs.fileno()]
    )
    theirs.close()
    yield ours
    ours.close()
    watching.wait(ENDS_WITHIN)


def assignment(folder: Path, behaviour: str, **settings) -> Assignment:
    settings = {"behaviour": behaviour, "marker": str(folder / "started"), **settings}
    spec = TrialSpec("tests.harness.fake_trainer:FakeTrainer", settings, 0.1, 0.2, str(folder / "log"), -1)
    return Assignment(spec, RepeatLimits(60, 60), str(Path.cwd()), {})


def ended(pipe: Connection) -> Ended:
    while not isinstance(message := pipe.recv(), Ended):
        pass
    return message


def test_the_end_of_a_repeat_brings_its_files_and_names_the_folder_that_was_asked_for(pipe, tmp_path) -> None:
    pipe.send(assignment(tmp_path, "exit"))
    end = ended(pipe)
    assert end.outcome.state == "failed"
    assert end.outcome.error == f"exit code 7 without a result; log: {tmp_path / 'log' / 'stderr.log'}"
    assert end.files["curve.jsonl"].startswith(b'{"iteration": 1.0,')
    assert not (tmp_path / "log").exists()


def test_a_reason_ends_the_repeat_as_pruned(pipe, tmp_path) -> None:
    pipe.send(assignment(tmp_path, "endless"))
    assert pipe.recv()["env_steps"] > 0
    pipe.send("hopeless")
    end = ended(pipe)
    assert (end.outcome.state, end.outcome.error) == ("pruned", "hopeless")


def test_with_its_pipe_the_repeat_ends(pipe, tmp_path) -> None:
    pipe.send(assignment(tmp_path, "deaf"))
    pipe.recv()
    trial = psutil.Process(int((tmp_path / "started").read_text().split()[0]))
    pipe.close()
    assert psutil.wait_procs([trial], ENDS_WITHIN) == ([trial], [])


def test_an_error_of_the_watcher_itself_comes_back_with_its_traceback(pipe, tmp_path) -> None:
    spec = TrialSpec("tests.harness.fake_trainer:FakeTrainer", {"env": object()}, 0.1, 0.2, "log", -1)
    pipe.send(Assignment(spec, RepeatLimits(60, 60), str(Path.cwd()), {}))
    end = ended(pipe)
    assert (end.outcome.state, end.outcome.error) == (
        "failed",
        "TypeError: Object of type object is not JSON serializable",
    )
    assert b"in write_spec" in end.files["traceback.txt"]


def test_settings_that_name_the_folder_follow_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = TrialSpec("t", {"trace_output_dir": str(tmp_path / "logs"), "layers": [8]}, 0.1, 0.2, "logs", -1)
    moved = watcher.moved(spec, Path("/node"))
    assert moved.folder == "/node"
    assert moved.settings == {"trace_output_dir": "/node", "layers": [8]}


def test_of_long_files_logs_keep_their_end_and_others_are_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(watcher, "MOST_BYTES", 4)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.txt").write_bytes(b"abcd")
    (tmp_path / "stderr.log").write_bytes(b"123456")
    (tmp_path / "model.pt").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert watcher.files(tmp_path) == {
        "inner/a.txt": b"abcd", "stderr.log": b"3456", "left_on_the_node.txt": b"model.pt: 5 bytes\n"
    }  # fmt: skip
