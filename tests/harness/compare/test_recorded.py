"""BASE against NEW: where the pairs of measured studies come from, and what cannot be compared."""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest

from harness import cli
from harness.compare.measured import prepared
from harness.compare.sides import Side
from harness.measure.record import read_records
from tests.harness.compare.conftest import REPOSITORY
from tests.harness.compare.studies import study, verb
from tests.harness.conftest import SUITE


def test_what_two_studies_differ_by_is_reported_and_is_no_regression(tmp_path: Path, capsys) -> None:
    study(tmp_path / "fake" / "one"), study(tmp_path / "fake" / "two", 0.9)
    code, content, err = verb(capsys, "fake/one", tmp_path / "fake/two", "--results", tmp_path)
    assert code == 3 and content["outcome"] == "undecided" and content["exit_code"] == 3
    throughput = content["metrics"][0]
    assert throughput["metric"] == "env_steps_per_second" and throughput["better"] == "up"
    assert throughput["pairs"] == 1 and throughput["change"] == pytest.approx(
        -0.1
    )  # the confirmation's, not the search's
    assert throughput["verdict"] == "undecided" and "1 session a side" in throughput["reason"]
    assert throughput["interval"][1] is None and throughput["smallest_effect"] is None
    assert "measured at different times" in content["notes"][0]
    assert all(len(line) <= 80 for line in err.splitlines()) and "Undecided (exit code 3)" in err
    code, content, _ = verb(capsys, "fake/one", "fake/two", "--results", tmp_path, "--metric", "episode_return")
    assert content["metrics"][0]["change"] == pytest.approx(0.1, abs=0.01)  # less negative


def test_several_sessions_a_side_are_pooled(tmp_path: Path, capsys) -> None:
    """Six of each, which drift by 5 %: the change of a pair is that of the sessions, not of their repeats."""
    drift = [1.0, 0.95, 1.05, 1.02, 0.97, 1.01]
    for number, factor in enumerate(drift):
        began = {"started_at": f"2026-01-0{number + 1}T00:00:00+00:00", "confirms": 2}
        study(tmp_path / "fake" / f"base{number}", factor, **began)
        study(tmp_path / "fake" / f"same{number}", drift[number - 1], **began)
        study(tmp_path / "fake" / f"slow{number}", 0.8 * drift[number - 1], **began)
    base, same, slow = (",".join(f"fake/{kind}{n}" for n in (3, 0, 1, 2, 4, 5)) for kind in ("base", "same", "slow"))
    code, content, err = verb(capsys, base, same, "--results", tmp_path)
    assert (code, content["metrics"][0]["verdict"], content["metrics"][0]["pairs"]) == (0, "same", 6), err
    assert 0.05 < content["metrics"][0]["smallest_effect"] < 0.15
    assert verb(capsys, base, same, "--results", tmp_path, "--detect", "5%")[0] == 3
    code, content, err = verb(capsys, base, slow, "--results", tmp_path)
    assert (code, content["metrics"][0]["verdict"]) == (3, "worse")
    assert len(content["new"]["pooled"]) == 5
    assert "6 pairs of sessions); worse" in " ".join(err.split())
    code, content, _ = verb(capsys, base, "HEAD,fake/same0", "--results", tmp_path)
    assert code == 2 and "the sessions of a side are studies, and HEAD is a commit" in content["error"]
    code, content, _ = verb(capsys, base, "fake/slow0,fake/same0,fake/slow0", "--results", tmp_path)
    assert code == 2 and "a study is there twice" in content["error"]
    code, content, _ = verb(capsys, base, same, "--results", tmp_path, "--measure")
    assert code == 2 and "name the one whose best configuration is to be measured" in content["error"]


def test_an_objective_that_a_suite_turns_around_decides_in_its_direction(tmp_path: Path, capsys) -> None:
    less = SUITE + "objectives: [{metric: env_steps_per_second, direction: minimize}]\n"
    for number in range(6):
        began = {"started_at": f"2026-01-0{number + 1}T00:00:00+00:00", "confirms": 2, "suite": less}
        study(tmp_path / "fake" / f"base{number}", **began)
        study(tmp_path / "fake" / f"more{number}", 1.5, **began)
    base, more = (",".join(f"fake/{kind}{n}" for n in range(6)) for kind in ("base", "more"))
    for options in ((), ("--metric", "env_steps_per_second")):
        _, content, err = verb(capsys, base, more, "--results", tmp_path, *options)
        first = content["metrics"][0]
        assert (first["better"], first["verdict"]) == ("down", "worse") and "down is good" in err


def test_a_study_with_itself_is_not_different(tmp_path: Path, capsys) -> None:
    study(tmp_path / "fake" / "one")
    code, content, _ = verb(capsys, "fake/one", "fake/one", "--results", tmp_path)
    assert code == 3 and content["metrics"][0]["p"] == 1 and content["metrics"][0]["change"] == 0


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"suite": SUITE.replace("seconds: 0.2", "seconds: 9.0")}, "BASE has 1 measured configuration, NEW 1, both"),
        ({"suite": SUITE + "fixed: {inner.rate: 2.0}\n"}, "both have 0"),
        ({"params": {"speed": 7}}, "both have 0"),
        ({"traced": True}, "both have 0"),
        ({"state": "failed"}, "NEW 0, both have 0"),
        ({"machine": "other"}, "repeats of different machines (m and other) were left out"),
        ({"steady_seconds": 0.1}, "repeats of windows of different lengths were left out"),
        ({"in_turns": True}, "repeats that were measured in different ways (alone and in turns) were left out"),
        ({"shared": True}, "repeats that were measured in different ways (alone and on a shared node) were left out"),
    ],
)  # fmt: skip
def test_what_is_not_alike_is_not_compared(tmp_path: Path, capsys, difference: dict, words: str) -> None:
    study(tmp_path / "fake" / "one", steady_seconds=0.2)
    study(tmp_path / "fake" / "two", **{"steady_seconds": 0.21} | difference)
    code, content, err = verb(capsys, "fake/one", "fake/two", "--results", tmp_path)
    assert code == 3 and content["metrics"] == []
    assert words in " ".join(err.split())


def test_a_seed_is_no_difference_and_doubtful_repeats_are_counted(tmp_path: Path, capsys) -> None:
    study(tmp_path / "fake" / "one", suite=SUITE + "fixed: {seed: 1}\n")
    study(tmp_path / "fake" / "two", suite=SUITE + "fixed: {seed: 2}\n", unsteady=True, disturbed="others took 1 core")
    _, content, err = verb(capsys, "fake/one", "fake/two", "--results", tmp_path)
    assert content["metrics"] and (content["unsteady"], content["disturbed"], content["dirty"]) == (6, 6, 0)
    assert "6 of 12 repeats disturbed" in err


def test_many_configurations_measured_twice_are_compared_as_well(tmp_path: Path, capsys) -> None:
    suite = SUITE.replace("measure: {", "measure: {repeats: 2, ")
    study(tmp_path / "fake" / "one", trials=4, confirms=1, suite=suite, phase="search")
    study(tmp_path / "fake" / "two", 0.9, trials=4, confirms=1, suite=suite, phase="search")
    for folder in (tmp_path / "fake").iterdir():  # the helper's second repeat, as the search counts them
        assert [r.repeat for r in read_records(folder / "trials.jsonl")] == [0, 1] * 4
    _, content, err = verb(capsys, "fake/one", "fake/two", "--results", tmp_path)
    assert content["metrics"][0]["change"] == pytest.approx(-0.1) and content["metrics"][0]["pairs"] == 1
    assert "(1 pair of sessions" in " ".join(err.split())


def test_repeats_that_crash_are_not_left_out(tmp_path: Path, capsys) -> None:
    study(tmp_path / "fake" / "one", confirms=8), study(tmp_path / "fake" / "two", confirms=8)
    path = tmp_path / "fake" / "two" / "trials.jsonl"
    crashed = [
        dataclasses.replace(r, state="failed" if r.repeat in (3, 6) else r.state) for r in read_records(path)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(record.flat()) + "\n" for record in crashed))
    code, content, err = verb(capsys, "fake/one", "fake/two", "--results", tmp_path)
    assert code == 3 and content["metrics"][0]["verdict"] == "undecided"
    assert "NEW completed 2 fewer than BASE" in " ".join(err.split())
    _, content, err = verb(capsys, "fake/two", "fake/one", "--results", tmp_path)
    assert content["metrics"] and "completed" not in err


DUEL = SUITE.replace("trainer: tests.harness.fake_trainer:FakeTrainer\n", "").replace(
    "search:\n  speed: [10, 20, 40, 80]\nbaseline: {speed: 20}\n",
    """trainers:
  ours: {trainer: "tests.harness.fake_trainer:FakeTrainer", settings: {speed: 40}}
  theirs: {trainer: "tests.harness.fake_trainer:FakeTrainer", settings: {speed: 20}}
""",
)


def test_trainers_side_by_side_are_the_same_if_their_settings_are(tmp_path: Path, capsys) -> None:
    ours = {"params": {"trainer": "ours"}}
    study(tmp_path / "fake" / "one", suite=DUEL, **ours), study(tmp_path / "fake" / "two", suite=DUEL, **ours)
    study(tmp_path / "fake" / "other", suite=DUEL.replace("speed: 40", "speed: 80"), **ours)
    there = DUEL.replace("speed: 40}", "speed: 40}, by_env: {Fake: {speed: 9}}")
    study(tmp_path / "fake" / "there", suite=there, **ours)
    study(tmp_path / "fake" / "plain", params={"speed": 40})
    assert verb(capsys, "fake/one", "fake/two", "--results", tmp_path)[1]["metrics"]
    code, content, err = verb(capsys, "fake/one", "fake/other", "--results", tmp_path)
    assert code == 3 and content["metrics"] == [] and "both have 0" in " ".join(err.split())
    assert verb(capsys, "fake/one", "fake/there", "--results", tmp_path)[1]["metrics"] == []
    assert verb(capsys, "fake/one", "fake/plain", "--results", tmp_path)[1]["metrics"]


def test_of_trainers_side_by_side_the_baseline_is_measured(tmp_path: Path) -> None:
    (tmp_path / "duel.yaml").write_text(DUEL)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    sides = Side("HEAD", commit=commit), Side("HEAD", commit=commit)
    with prepared(*sides, tmp_path, suite=tmp_path / "duel.yaml") as (measuring, _):
        base = measuring.versions[0].plan
        spec = base.spec(base.baseline, 0, tmp_path)
        assert spec.trainer == "tests.harness.fake_trainer:FakeTrainer"
        assert spec.settings == {"seed": 0, "env": "Fake", "speed": 40}


def test_turns_can_be_turned_off(tmp_path: Path) -> None:
    (tmp_path / "duel.yaml").write_text(DUEL.replace("measure: {", "measure: {turns: false, "))
    path = tmp_path / "a.yaml"
    path.write_text("trainer: tests.harness.fake_trainer:FakeTrainer\nenv: Fake\n")
    side = Side("a", configuration=path)
    given = {"": {}, "--no-turns": {"no_turns": True}}
    given["the suite says measure.turns: false"] = {"suite": tmp_path / "duel.yaml"}
    for reason, options in given.items():
        with prepared(side, side, tmp_path, **options) as (measuring, _):
            assert measuring.one_by_one == reason


def test_commits_name_the_studies_that_were_measured_there(tmp_path: Path, capsys) -> None:
    head, before = (
        subprocess.run(["git", "rev-parse", name], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
        for name in ("HEAD", "HEAD~1")
    )
    study(tmp_path / "fake" / "one", commit=before), study(tmp_path / "fake" / "two", 0.9, commit=head)
    study(tmp_path / "fake" / "three", 5.0, commit=head, dirty=True)
    code, content, err = verb(capsys, "HEAD~1", head[:10], "--results", tmp_path)
    assert code == 3 and content["base"]["commit"] == before and content["new"]["commit"] == head
    assert content["metrics"][0]["change"] == pytest.approx(-0.1), err
    (tmp_path / "empty").mkdir()
    code, content, _ = verb(capsys, "HEAD~1", "HEAD", "--results", tmp_path / "empty")
    assert code == 2 and "was measured at commit" in content["error"] and "add --measure" in content["error"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "HEAD"], "nothing: neither a study"),
        (["empty", "HEAD"], "empty/suite.yaml: is no file; a study is a folder with one"),
        (["--", "--upload-pack=x", "HEAD"], "neither a study"),
        (["c.yaml", "c.yaml"], "c.yaml: a configuration has no measurements of its own; add --measure"),
        (["HEAD", "HEAD", "--measure"], "which configuration is to be measured at this commit? Add --suite SUITE"),
        (["HEAD", "HEAD", "--pairs", "8"], "--pairs is for measuring now: add --measure"),
        (["HEAD", "HEAD", "--measure", "--pairs", "5"], "nothing can be shown with fewer than 6 pairs"),
        (["HEAD", "HEAD", "--metric", "throughput"], "unknown metric"),
        (["HEAD", "HEAD", "--measure", "--suite", "none.yaml"], "none.yaml: is no file"),
        (["broken", "broken"], "broken/suite.yaml"),
    ],
)
def test_errors_say_what_to_do_and_are_no_regression(tmp_path, monkeypatch, capsys, arguments, words) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "c.yaml").write_text("trainer: appo\nenv: Ant\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "trials.jsonl").write_text("")
    assert cli.main(["compare", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_fault_of_ours_is_no_regression_either(tmp_path, capsys, monkeypatch) -> None:
    def fault(*_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("harness.compare.sides.resolve", fault)
    assert cli.main(["compare", "a", "b"]) == 2
    assert "RuntimeError: a fault" in capsys.readouterr().err
