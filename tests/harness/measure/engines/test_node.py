"""The actor that runs repeats on a node, in this process: what it tells, and that it ends what it runs."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from harness.measure.engines import node
from harness.measure.engines.node import Ended, RepeatActor
from harness.measure.process import RepeatLimits
from harness.measure.repeat import TrialSpec

ray = pytest.importorskip("ray")


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Iterator[RepeatActor]:
    """One that Ray knows nothing of."""
    monkeypatch.setattr(ray, "get_runtime_context", lambda: type("Context", (), {"get_node_id": lambda self: "n"})())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what an actor takes away comes back
    made = RepeatActor()
    yield made
    made.end()


def begin(actor: RepeatActor, folder: Path, behaviour: str, **settings) -> Iterator[str | dict | Ended]:
    settings = {"behaviour": behaviour, "marker": str(folder / "started"), **settings}
    spec = TrialSpec("tests.harness.fake_trainer:FakeTrainer", settings, 0.1, 0.2, str(folder / "log"), -1)
    return actor.run(spec, RepeatLimits(60, 60), str(Path.cwd()), {})


def ended(news: Iterator[str | dict | Ended]) -> Ended:
    *_, end = news
    assert isinstance(end, Ended)
    return end


def test_the_end_of_a_repeat_brings_its_files_and_names_the_folder_that_was_asked_for(actor, tmp_path) -> None:
    news = begin(actor, tmp_path, "exit")
    assert next(news) == "n"
    end = ended(news)
    assert end.outcome.state == "failed"
    assert end.outcome.error == f"exit code 7 without a result; log: {tmp_path / 'log' / 'stderr.log'}"
    assert end.files["curve.jsonl"].startswith(b'{"iteration": 1.0,')
    assert not (tmp_path / "log").exists()


def test_a_reason_ends_the_repeat_as_pruned(actor, tmp_path) -> None:
    news = begin(actor, tmp_path, "endless")
    next(news)
    assert next(news)["env_steps"] > 0
    actor.prune("hopeless")
    end = ended(news)
    assert (end.outcome.state, end.outcome.error) == ("pruned", "hopeless")


def test_what_is_ended_is_gone(actor, tmp_path) -> None:
    news = begin(actor, tmp_path, "deaf")
    next(news), next(news)
    trial = int((tmp_path / "started").read_text().split()[0])
    actor.end()
    assert not psutil.pid_exists(trial)


def test_an_error_of_the_actor_itself_comes_back_with_its_traceback(actor, tmp_path) -> None:
    spec = TrialSpec("tests.harness.fake_trainer:FakeTrainer", {"env": object()}, 0.1, 0.2, "log", -1)
    end = ended(actor.run(spec, RepeatLimits(60, 60), str(Path.cwd()), {}))
    assert (end.outcome.state, end.outcome.error) == (
        "failed",
        "TypeError: Object of type object is not JSON serializable",
    )
    assert b"in write_spec" in end.files["traceback.txt"]


def test_settings_that_name_the_folder_follow_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = TrialSpec("t", {"trace_output_dir": str(tmp_path / "logs"), "layers": [8]}, 0.1, 0.2, "logs", -1)
    moved = node.moved(spec, Path("/node"))
    assert moved.folder == "/node"
    assert moved.settings == {"trace_output_dir": "/node", "layers": [8]}


def test_of_long_files_logs_keep_their_end_and_others_are_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(node, "MOST_BYTES", 4)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.txt").write_bytes(b"abcd")
    (tmp_path / "stderr.log").write_bytes(b"123456")
    (tmp_path / "model.pt").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert node.files(tmp_path) == {
        "inner/a.txt": b"abcd", "stderr.log": b"3456", "left_on_the_node.txt": b"model.pt: 5 bytes\n"
    }  # fmt: skip
