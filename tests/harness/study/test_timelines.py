"""``--trace`` of ``run`` and ``train``."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harness import cli
from harness.measure.record import Record, read_records
from harness.report.asv_export import AsvExportError, export
from harness.study import timelines
from tests.harness.fake_trainer import FakeTrainer
from tests.tracing.traces import process_names, read_trace, spans
from unilab.errors import UserError
from unilab.tracing import spans as tracing
from unilab.tracing.timeline_file import PART_SUFFIX

TRACER = ("trace_enabled", "trace_output_dir")


class UntracedTrainer(FakeTrainer):
    """A trainer that knows nothing of timelines."""

    def defaults(self) -> dict[str, Any]:
        return {name: value for name, value in super().defaults().items() if name not in TRACER}


@pytest.fixture
def run(suite_file: Path, tmp_path: Path):
    """``harness run`` on the suite: exit code and study folder."""

    def run(*arguments: str) -> tuple[int, Path]:
        code = cli.main(["run", str(suite_file), "--results", str(tmp_path / "r"), *arguments])
        return code, next((tmp_path / "r" / "fake").iterdir())

    return run


def test_every_repeat_keeps_its_timeline_and_the_study_stays_the_same(run, tmp_path, capsys) -> None:
    code, folder = run("--trials", "2", "--trace")
    assert code == 0
    assert f"timeline: {folder}/logs/*/trace.json (open it in https://" in capsys.readouterr().out
    traced = read_records(folder / "trials.jsonl")
    assert [(record.state, record.traced) for record in traced] == [("complete", True)] * 2
    for record in traced:
        events = read_trace(folder / record.log / "trace.json")
        assert process_names(events) == ["trainer"]
        assert len(spans(events, "iteration")) == record.env_steps / record.params["speed"]
    best = YAML(typ="safe").load(folder / "best.yaml")["settings"]
    assert (best["trace_enabled"], best["trace_output_dir"]) == (False, None)

    folder.rename(tmp_path / "traced")
    code, untraced = run("--trials", "2")
    assert code == 0 and untraced == folder
    plain = read_records(untraced / "trials.jsonl")
    assert [r.params for r in plain] == [r.params for r in traced]
    assert not any(record.traced for record in plain)
    assert list(untraced.rglob("trace.json")) == []


@pytest.mark.parametrize(
    ("first", "then", "words"), [([], ["--trace"], "without --trace"), (["--trace"], [], "with --trace")]
)
def test_traced_and_untraced_numbers_do_not_meet_in_a_study(run, capsys, first, then, words: str) -> None:
    code, folder = run("--trials", "1", *first)
    assert code == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    code, _ = run("--trials", "2", *then)
    assert code == 1
    assert f"error: this study was measured {words}" in capsys.readouterr().err
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert {p.name for p in before if before[p] != after[p]} <= {"lock"}
    assert run("--trials", "2", *first)[0] == 0


def test_repeats_without_a_number_do_not_decide_how_a_study_is_measured() -> None:
    failed = Record("s", 0, 0, "failed", traced=True)
    timelines.check_study([failed], trace=False)
    timelines.check_study([failed], trace=True)
    with pytest.raises(UserError, match="with --trace"):
        timelines.check_study([failed, Record("s", 1, 0, "complete", traced=True)], trace=False)


def test_a_trainer_that_cannot_be_traced_is_refused_before_anything_is_made(suite_file, tmp_path, capsys) -> None:
    trainer = f"trainer={__name__}:UntracedTrainer"
    arguments = ["run", str(suite_file), "--set", trainer, "--results", str(tmp_path / "r"), "--trials", "1"]
    assert cli.main([*arguments, "--trace"]) == 1
    assert "error: --trace: the trainer has no setting 'trace_enabled'" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    config = tmp_path / "c.yaml"
    config.write_text(f"trainer: {__name__}:UntracedTrainer\nenv: Fake\n")
    assert cli.main(["train", str(config), "--iterations", "2", "--out", str(tmp_path / "out"), "--trace"]) == 1
    assert "leave --trace out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_killed_trial_leaves_what_it_had_recorded(run, capsys) -> None:
    settings = ["--set", "search={behaviour: [good, die]}", "--set", "baseline={}"]
    code, folder = run("--trials", "2", "--trace", *settings)
    assert code == 0
    _, killed = read_records(folder / "trials.jsonl")
    assert killed.state == "failed" and killed.traced and "SIGKILL" in killed.error
    assert process_names(read_trace(folder / killed.log / "trace.json")) == ["trainer"]
    assert not list(folder.rglob(f"*{PART_SUFFIX}"))


def test_what_an_interrupted_attempt_left_is_not_taken_for_the_next_ones(tmp_path) -> None:
    tracing.start("p", tmp_path)
    tracing.stop()
    (tmp_path / "trace.json").write_text("{}")
    assert timelines.begin(tmp_path) == {"trace_enabled": True, "trace_output_dir": str(tmp_path)}
    assert list(tmp_path.iterdir()) == []
    timelines.end(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_training_keeps_its_timeline(tmp_path, capsys) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("trainer: tests.harness.fake_trainer:FakeTrainer\nenv: Fake\n")
    out = tmp_path / "out"
    assert cli.main(["train", str(config), "--iterations", "5", "--out", str(out), "--trace"]) == 0
    assert f"timeline: {out}/trace.json" in capsys.readouterr().out
    assert len(spans(read_trace(out / "trace.json"), "iteration")) == 5


def test_traced_numbers_do_not_enter_the_history_of_asv(run, tmp_path, capsys) -> None:
    code, folder = run("--trials", "1", "--trace")
    assert code == 0
    assert "not added to asv's history" in capsys.readouterr().out
    assert not (tmp_path / "r" / "asv").exists()
    with pytest.raises(AsvExportError, match="without --trace"):
        export(folder, tmp_path / "asv")
    (record,) = read_records(folder / "trials.jsonl")
    assert record.traced and record.log == "logs/0-0"
