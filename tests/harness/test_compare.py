"""BASE against NEW: what pairs show, where they come from, exit codes, worktrees."""

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cli
from harness.compare.judge import Judgement, Pairs, compare, judge
from harness.compare.measure import Measuring, Schedule, Version
from harness.compare.prepare import Options, prepared
from harness.compare.sides import Side
from harness.execute import Limits, Outcome
from harness.record import METRICS, Record, RecordFile, read_records
from harness.stop import StopSignal
from harness.suite import Measure, ReturnAt, parse
from tests.harness.conftest import SUITE

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are processes of their own, and find the trainer of these tests in another working directory as well."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def record(value: float, metric: str = "env_steps_per_second", **fields) -> Record:
    return Record(**{"study": "s", "trial": 0, "repeat": 0, "state": "complete", metric: value} | fields)


def pairs_of(base, new, within=((100, 101), (102, 101), (99, 100)), metric="env_steps_per_second") -> Pairs:
    def made(values):
        return [(record(a, metric), record(b, metric)) for a, b in values]

    return Pairs(made(zip(base, new, strict=True)), made(within))


# -- what pairs show


@pytest.mark.parametrize("metric", ["env_steps_per_second", "episode_return", "peak_host_bytes", "seconds_to_return"])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_the_direction_of_a_metric_decides_what_is_worse(metric: str, factor: float) -> None:
    base = [100, 102, 98, 101, 99, 103]
    comparison = compare(pairs_of(base, [factor * value for value in base], metric=metric), [metric])
    good = "up" if metric in ("env_steps_per_second", "episode_return") else "down"
    verdict = "better" if (factor > 1) == (good == "up") else "worse"
    only = next(one for one in comparison.judgements if one.metric == metric)
    assert (only.better, only.verdict, only.pairs) == (good, verdict, 6)
    assert only.change == pytest.approx(factor - 1) and only.p == 2 / 2**6
    assert comparison.exit_code == (1 if verdict == "worse" else 0)


def test_a_change_has_to_be_larger_than_the_noise_floor() -> None:
    base = [100.0] * 6
    quiet, noisy = [(100, 101), (101, 100), (100, 101)], [(100, 110), (110, 100), (100, 110)]
    assert judge("env_steps_per_second", pairs_of(base, [92.0] * 6, quiet)).verdict == "worse"
    judged = judge("env_steps_per_second", pairs_of(base, [92.0] * 6, noisy))
    # three ratios of 10 %, Student's 99.5 % quantile with 3 degrees of freedom, the mean of 6 pairs
    assert judged.noise_floor == pytest.approx(math.expm1(7.4533 * math.log(1.1) / math.sqrt(6)), rel=1e-4)
    assert judged.verdict == "same" and judged.p < 0.05


def test_a_noise_floor_that_hides_a_halving_says_nothing() -> None:
    comparison = compare(pairs_of([100] * 6, [90] * 6, [(100, 60), (60, 100), (100, 60)]), ["env_steps_per_second"])
    assert comparison.exit_code == 3 and "hides even a halving" in comparison.judgements[0].reason


def test_a_change_needs_the_sign_flip_test_as_well() -> None:
    judged = judge("env_steps_per_second", pairs_of([100] * 6, [60, 70, 101, 101, 60, 101]))
    assert abs(judged.change) > judged.noise_floor and judged.p >= 0.05
    assert judged.verdict == "same"


def test_changes_of_less_than_a_percent_are_nobodys_regression() -> None:
    judged = judge("env_steps_per_second", pairs_of([1000] * 8, [992] * 8, [(1000, 1000)] * 4))
    assert judged.noise_floor == 0.01 and judged.p < 0.01 and judged.verdict == "same"


def test_fewer_than_six_pairs_or_no_repeat_say_nothing_and_how_many_are_missing() -> None:
    comparison = compare(pairs_of([100] * 4, [50] * 4), ["env_steps_per_second"])
    assert comparison.judgements[0].reason == "4 pairs, 2 more needed for p < 0.05"
    assert (comparison.outcome, comparison.exit_code) == ("nothing comparable", 3)
    comparison = compare(pairs_of([100] * 9, [50] * 9, within=[]), ["env_steps_per_second"])
    assert "noise floor is not known" in comparison.judgements[0].reason and comparison.exit_code == 3
    assert compare(Pairs(), ["env_steps_per_second"]).exit_code == 3


def test_only_the_metrics_that_decide_make_a_regression() -> None:
    pairs = pairs_of([100] * 6, [100] * 6)
    for base, new in [*pairs.across, *pairs.within]:
        object.__setattr__(base, "peak_host_bytes", 1000)
        object.__setattr__(new, "peak_host_bytes", 1000)
    for _, new in pairs.across:
        object.__setattr__(new, "peak_host_bytes", 2000)
    comparison = compare(pairs, ["env_steps_per_second"])
    memory = next(one for one in comparison.judgements if one.metric == "peak_host_bytes")
    assert memory.verdict == "worse" and comparison.exit_code == 0
    assert compare(pairs, ["env_steps_per_second", "peak_host_bytes"]).exit_code == 1


def test_returns_around_zero_are_compared_by_differences() -> None:
    base, new = [-10.0, 5, 0, 10, -5, 0, 2], [-30.0, -15, -20, -10, -25, -20, -18]
    judged = judge("episode_return", pairs_of(base, new, [(1.0, 0.0), (0.0, 1.0), (0.5, 0.0)], "episode_return"))
    sizes = np.abs([*base, *new, 1, 0, 0, 1, 0.5, 0])
    assert judged.change == pytest.approx(-20 / sizes.mean()) and judged.verdict == "worse"
    assert judge("dropped_rollouts", pairs_of([0] * 6, [0] * 6, metric="dropped_rollouts")).verdict == "same"


def test_what_a_side_has_not_measured_is_left_out() -> None:
    judged = judge("env_steps_per_second", pairs_of([100, math.nan] * 6, [90, 90] * 6))
    assert judged.pairs == 6 and judged.base == 100
    assert compare(pairs_of([math.nan] * 6, [90] * 6), ["env_steps_per_second"]).exit_code == 3


def targets(base: list[float], new: list[float]) -> Judgement:
    pairs = pairs_of(base, new, metric="seconds_to_return")
    return next(one for one in compare(pairs, ["seconds_to_return"]).judgements if one.decides)


def test_a_target_that_one_side_misses_is_no_value_to_be_left_out() -> None:
    judged = targets([100.0] * 8, [100.0] * 6 + [math.nan] * 2)
    assert (judged.verdict, judged.reason) == ("undecided", "NEW did not reach the target in 2 of 8")
    judged = targets([100.0] * 14, [100.0] * 6 + [math.nan] * 8)
    assert (judged.verdict, judged.p) == ("worse", 2 / 2**8)
    assert targets([100.0] * 6 + [math.nan] * 8, [100.0] * 14).verdict == "better"
    none = targets([100.0] * 6, [math.nan] * 6)
    assert none.verdict == "worse" and none.pairs == 6
    assert targets([100.0] * 8, [150.0] * 7 + [math.nan]).verdict == "worse", "later, and seldom"
    assert targets([100.0] * 8, [50.0] * 7 + [math.nan]).verdict == "undecided", "sooner, but not always"
    assert targets([math.nan] + [100.0] * 7, [100.0] * 7 + [math.nan]).verdict == "same"


@given(st.lists(st.tuples(st.floats(1, 1e4), st.floats(1, 1e4)), min_size=6, max_size=9), st.floats(0.1, 10))
def test_swapping_the_sides_or_changing_the_unit_changes_no_evidence(values, unit: float) -> None:
    within = [(100, 103), (104, 100)]
    base, new = zip(*values, strict=True)
    one = judge("env_steps_per_second", pairs_of(base, new, within))
    other = judge("env_steps_per_second", pairs_of(new, base, within))
    scaled = judge("env_steps_per_second", pairs_of([unit * b for b in base], [unit * n for n in new], within))
    assert one.p == pytest.approx(other.p) == pytest.approx(scaled.p)
    assert (1 + one.change) * (1 + other.change) == pytest.approx(1) and scaled.change == pytest.approx(one.change)
    assert one.noise_floor == pytest.approx(other.noise_floor)


def test_eight_percent_are_found_in_noise_of_two_and_nothing_is_seen_where_nothing_is() -> None:
    rng = np.random.default_rng(0)
    outcomes = {0.92: 0, 1.0: 0}
    for _ in range(150):
        for factor in outcomes:
            blocks = np.exp(rng.normal(0, 0.02, (4, 4))) * 20_000
            blocks[:, 1:3] *= factor  # base, new, new, base
            across = [(b[0], b[1]) for b in blocks] + [(b[3], b[2]) for b in blocks]
            within = [(b[0], b[3]) for b in blocks] + [(b[1], b[2]) for b in blocks]
            judged = judge("env_steps_per_second", Pairs([(record(a), record(b)) for a, b in across],
                           [(record(a), record(b)) for a, b in within]))  # fmt: skip
            outcomes[factor] += judged.verdict == "worse"
    assert outcomes[0.92] >= 145 and outcomes[1.0] <= 2


def test_pairs_are_measured_base_new_new_base() -> None:
    assert list(Schedule(Measure(), 3)) == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)]


# -- studies


def study(folder: Path, factor: float = 1.0, trials: int = 1, confirms: int = 6, suite: str = SUITE, **fields) -> Path:
    """A study with noise of a percent or so, confirmed ``confirms`` times."""
    folder.mkdir(parents=True)
    (folder / "suite.yaml").write_text(suite)
    records = RecordFile(folder / "trials.jsonl")
    for trial in range(trials):
        for repeat in range(confirms + 1):
            value = factor * 1000 * (1 + (repeat * 7 % 5) / 500)
            common = {"study": folder.name, "params": {"speed": 10 * 2**trial}, "machine": "m", "commit": "c" * 40}
            common["phase"] = "confirm" if repeat else "search"
            records.append(
                record(value, trial=trial, repeat=repeat, episode_return=-value, **common | fields)
            )  # fmt: skip
    return folder


def verb(capsys, *arguments: object) -> tuple[int, dict, str]:
    code = cli.main(["compare", *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


def test_two_studies(tmp_path: Path, capsys) -> None:
    study(tmp_path / "fake" / "one"), study(tmp_path / "fake" / "two", 0.9)
    code, content, err = verb(capsys, "fake/one", tmp_path / "fake/two", "--results", tmp_path)
    assert code == 1 and content["outcome"] == "regression" and content["exit_code"] == 1
    throughput = content["metrics"][0]
    assert throughput["metric"] == "env_steps_per_second" and throughput["better"] == "up"
    assert throughput["pairs"] == 6 and throughput["change"] == pytest.approx(
        -0.1
    )  # the confirmation's, not the search's
    assert "measured at different times" in content["notes"][0]
    assert all(len(line) <= 80 for line in err.splitlines()) and "Regression (exit code 1)" in err
    assert verb(capsys, "fake/two", "fake/one", "--results", tmp_path)[0] == 0
    code, content, _ = verb(capsys, "fake/one", "fake/two", "--results", tmp_path, "--metric", "episode_return")
    assert code == 0 and content["metrics"][0]["verdict"] == "better"  # less negative


def test_a_study_with_itself_is_no_regression(tmp_path: Path, capsys) -> None:
    study(tmp_path / "fake" / "one")
    code, content, _ = verb(capsys, "fake/one", "fake/one", "--results", tmp_path)
    assert code == 0 and content["metrics"][0]["p"] == 1 and content["metrics"][0]["change"] == 0


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"suite": SUITE.replace("seconds: 0.2", "seconds: 9.0")}, "BASE has 1 measured configuration, NEW 1, both"),
        ({"suite": SUITE + "fixed: {inner.rate: 2.0}\n"}, "both have 0"),
        ({"params": {"speed": 7}}, "both have 0"),
        ({"traced": True}, "both have 0"),
        ({"state": "failed"}, "NEW 0, both have 0"),
        ({"machine": "other"}, "measured on different machines (m and other)"),
        ({"confirms": 4}, "the exact sign-flip test needs 6 pairs"),
    ],
)  # fmt: skip
def test_what_is_not_alike_is_not_compared(tmp_path: Path, capsys, difference: dict, words: str) -> None:
    study(tmp_path / "fake" / "one"), study(tmp_path / "fake" / "two", **difference)
    code, content, err = verb(capsys, "fake/one", "fake/two", "--results", tmp_path)
    assert code == 3 and content["outcome"] == "nothing comparable"
    assert words in " ".join(err.split())
    if difference.get("machine"):
        assert verb(capsys, "fake/one", "fake/two", "--results", tmp_path, "--across-machines")[0] == 0


def test_a_seed_is_no_difference_and_doubtful_repeats_are_counted(tmp_path: Path, capsys) -> None:
    study(tmp_path / "fake" / "one", suite=SUITE + "fixed: {seed: 1}\n")
    study(tmp_path / "fake" / "two", suite=SUITE + "fixed: {seed: 2}\n", unsteady=True, disturbed="others took 1 core")
    code, content, err = verb(capsys, "fake/one", "fake/two", "--results", tmp_path)
    assert code == 0 and (content["unsteady"], content["disturbed"], content["dirty"]) == (6, 6, 0)
    assert "6 of 12 repeats disturbed" in err


def test_many_configurations_measured_twice_are_compared_as_well(tmp_path: Path, capsys) -> None:
    suite = SUITE.replace("measure: {", "measure: {repeats: 2, ")
    study(tmp_path / "fake" / "one", trials=4, confirms=1, suite=suite, phase="search")
    study(tmp_path / "fake" / "two", 0.9, trials=4, confirms=1, suite=suite, phase="search")
    for folder in (tmp_path / "fake").iterdir():  # the helper's second repeat, as the search counts them
        assert [r.repeat for r in read_records(folder / "trials.jsonl")] == [0, 1] * 4
    code, content, _ = verb(capsys, "fake/one", "fake/two", "--results", tmp_path)
    assert code == 1 and content["metrics"][0]["pairs"] == 8


def test_repeats_that_crash_are_not_left_out(tmp_path: Path, capsys) -> None:
    study(tmp_path / "fake" / "one", confirms=8), study(tmp_path / "fake" / "two", confirms=8)
    path = tmp_path / "fake" / "two" / "trials.jsonl"
    crashed = [
        dataclasses.replace(r, state="failed" if r.repeat in (3, 6) else r.state) for r in read_records(path)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(record.flat()) + "\n" for record in crashed))
    code, content, err = verb(capsys, "fake/one", "fake/two", "--results", tmp_path)
    assert code == 3 and content["metrics"][0]["verdict"] == "undecided"
    assert content["metrics"][0]["reason"] == "NEW did not complete 2 repeats that BASE did"
    assert "NEW did not complete 2 more than BASE" in " ".join(err.split())
    assert verb(capsys, "fake/two", "fake/one", "--results", tmp_path)[0] == 0


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
    study(tmp_path / "fake" / "plain", params={"speed": 40})
    assert verb(capsys, "fake/one", "fake/two", "--results", tmp_path)[0] == 0
    code, _, err = verb(capsys, "fake/one", "fake/other", "--results", tmp_path)
    assert code == 3 and "both have 0" in " ".join(err.split())
    assert verb(capsys, "fake/one", "fake/plain", "--results", tmp_path)[0] == 0


def test_of_trainers_side_by_side_the_baseline_is_measured(tmp_path: Path) -> None:
    (tmp_path / "duel.yaml").write_text(DUEL)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    sides = Side("HEAD", commit=commit), Side("HEAD", commit=commit)
    with prepared(*sides, Options(suite=tmp_path / "duel.yaml")) as ((base, _), _, _):
        assert base.trainer == "tests.harness.fake_trainer:FakeTrainer"
        assert base.settings == {"seed": 0, "env": "Fake", "speed": 40}


def test_commits_name_the_studies_that_were_measured_there(tmp_path: Path, capsys) -> None:
    head, before = (
        subprocess.run(["git", "rev-parse", name], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
        for name in ("HEAD", "HEAD~1")
    )
    study(tmp_path / "fake" / "one", commit=before), study(tmp_path / "fake" / "two", 0.9, commit=head)
    study(tmp_path / "fake" / "three", 5.0, commit=head, dirty=True)
    code, content, err = verb(capsys, "HEAD~1", head[:10], "--results", tmp_path)
    assert code == 1 and content["base"]["commit"] == before and content["new"]["commit"] == head
    assert content["metrics"][0]["change"] == pytest.approx(-0.1), err
    (tmp_path / "empty").mkdir()
    code, content, _ = verb(capsys, "HEAD~1", "HEAD", "--results", tmp_path / "empty")
    assert code == 2 and "was measured at commit" in content["error"] and "add --measure" in content["error"]


# -- errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "HEAD"], "nothing: neither a study"),
        (["empty", "HEAD"], "empty: a folder without trials.jsonl"),
        (["--", "--upload-pack=x", "HEAD"], "neither a study"),
        (["c.yaml", "c.yaml"], "c.yaml: a configuration has no measurements of its own; add --measure"),
        (["HEAD", "HEAD", "--measure"], "which configuration is to be measured at this commit? Add --suite SUITE"),
        (["HEAD", "HEAD", "--pairs", "8"], "--pairs is for measuring now: add --measure"),
        (["HEAD", "HEAD", "--measure", "--pairs", "5"], "nothing can be shown with fewer than 6 pairs"),
        (["HEAD", "HEAD", "--metric", "throughput"], "unknown metric"),
        (["HEAD", "HEAD", "--measure", "--suite", "none.yaml"], "none.yaml: cannot be read"),
        (["HEAD", "HEAD", "--measure", "--across-machines"], "--across-machines is for studies"),
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

    monkeypatch.setattr("harness.compare.command.resolve", fault)
    assert cli.main(["compare", "a", "b"]) == 2
    assert "RuntimeError: a fault" in capsys.readouterr().err


# -- measuring now

CONFIGURATION = "trainer: tests.harness.fake_trainer:FakeTrainer\nenv: Fake\nsettings: {speed: 100}\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This code in a repository of its own: HEAD~1, and HEAD, where the fake trainer makes 8 % fewer steps."""
    folder = tmp_path_factory.mktemp("repository")
    for package in ("harness", "unilab"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests" / "harness").mkdir(parents=True)
    trainer = (REPOSITORY / "tests" / "harness" / "fake_trainer.py").read_text()
    (folder / ".gitignore").write_text("__pycache__/\n")
    (folder / "c.yaml").write_text(CONFIGURATION)
    git(folder, "init", "--quiet")
    for text in (trainer, trainer.replace(" env_steps=config.speed *", " env_steps=92 * config.speed // 100 *")):
        (folder / "tests" / "harness" / "fake_trainer.py").write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", "one of two")
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def start(repository: Path, tmp_path: Path, *arguments: object) -> subprocess.Popen:
    """The verb with the repository's own code; temporary files go to ``tmp_path / "t"``."""
    (tmp_path / "t").mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(repository), "TMPDIR": str(tmp_path / "t")}
    options = ["--measure", "--warmup", "0.05", "--seconds", "0.1", "--results", str(tmp_path / "r"), "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "compare", *map(str, arguments), *options], cwd=repository, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def nothing_left(repository: Path, tmp_path: Path) -> bool:
    return len(git(repository, "worktree", "list").splitlines()) == 1 and not list((tmp_path / "t").iterdir())


def test_two_commits_measured_in_turns_each_with_its_own_code(repository: Path, tmp_path: Path) -> None:
    process = start(repository, tmp_path, "HEAD~1", "HEAD", "--config", "c.yaml", "--pairs", 6)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 1, err
    content = json.loads(out)
    throughput = content["metrics"][0]
    assert (
        throughput["pairs"] == 6 and throughput["change"] == pytest.approx(-0.08) and throughput["noise_floor"] == 0.01
    )
    records = read_records(Path(repository / content["folder"]) / "repeats.jsonl")
    assert [r.trial for r in records] == [0, 1, 1, 0] * 3 and [r.seed for r in records[:5]] == [0, 0, 1, 1, 2]
    commits = [git(repository, "rev-parse", name).strip() for name in ("HEAD~1", "HEAD")]
    assert [r.commit for r in records[:2]] == commits and not any(r.dirty for r in records)
    assert json.loads((Path(content["folder"]) / "comparison.json").read_text())["outcome"] == "regression"
    assert nothing_left(repository, tmp_path)


def test_two_configurations_measured_in_turns(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(CONFIGURATION)
    Path("b.yaml").write_text(CONFIGURATION.replace("100", "120"))
    options = ["--measure", "--pairs", "7", "--seconds", "0.1", "--warmup", "0", "--results", tmp_path / "r"]
    code, content, err = verb(capsys, "a.yaml", "b.yaml", *options)
    assert code == 0 and content["metrics"][0]["verdict"] == "better", err
    assert content["metrics"][0]["change"] == pytest.approx(0.2) and content["metrics"][0]["pairs"] == 7
    assert "the sides have different settings" in content["notes"][0]


def test_a_disturbed_repeat_is_measured_again_and_both_are_kept(tmp_path: Path) -> None:
    disturbed = iter(["others took a core", "others took a core", "", *[""] * 9, *["others took a core"] * 40])

    def execute(spec, limits, stop, on_progress, *, code) -> Outcome:
        return Outcome("complete", result={"env_steps_per_second": 100.0, "disturbed": next(disturbed), "from_2030": 1})

    version, lines = Version("appo", {"seed": 3}, Limits(9, 9), "c" * 40), []
    schedule = Schedule(Measure(warmup_seconds=1, return_at=ReturnAt(seconds=7), target_return=5.0), 6)
    with StopSignal() as stop:
        pairs = Measuring((version, version), schedule, tmp_path, stop, lines.append, execute=execute).run()
    kept = read_records(tmp_path / "repeats.jsonl")
    assert [(r.trial, r.repeat, r.attempt, bool(r.disturbed)) for r in kept[:4]] == [
        (0, 0, 0, True), (0, 0, 1, True), (0, 0, 2, False), (1, 0, 0, False)]  # fmt: skip
    assert pairs.across[0][0].attempt == 2 and len(pairs.across) == len(pairs.within) == 6
    assert len(kept) == 12 + 6  # as many more as there are pairs, however long the machine is disturbed
    assert kept[2].log == "logs/base-0-again-2" and "disturbed" in lines[0] and "disturbed" not in lines[2]


def test_a_side_that_fails_is_an_error_with_its_log(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(CONFIGURATION)
    Path("b.yaml").write_text(CONFIGURATION.replace("speed: 100", "speed: 100, behaviour: fail"))
    code, content, _ = verb(capsys, "a.yaml", "b.yaml", "--measure", "--seconds", "0.1", "--warmup", "0")
    assert code == 2
    assert "NEW was not measured: failed: ValueError: the physics exploded in environment 3" in content["error"]
    (records,) = Path("results/compare").glob("*/repeats.jsonl")
    assert [r.state for r in read_records(records)] == ["complete", "failed"]


def test_ctrl_c_leaves_no_worktree_and_no_process(repository: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "started")
    settings = f"speed: 100, behaviour: endless, marker: {tmp_path / 'started'}"
    (tmp_path / "endless.yaml").write_text(CONFIGURATION.replace("speed: 100", settings))
    process = start(repository, tmp_path, "HEAD~1", "HEAD", "--config", tmp_path / "endless.yaml")
    trial = int((tmp_path / "started").read_text().split()[0])
    assert len(git(repository, "worktree", "list").splitlines()) == 3
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert not Path(f"/proc/{trial}").exists() and nothing_left(repository, tmp_path)


def test_worktrees_of_a_killed_comparison_are_removed_by_the_next_one(repository: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "started")
    settings = f"speed: 100, behaviour: endless, marker: {tmp_path / 'started'}"
    (tmp_path / "endless.yaml").write_text(CONFIGURATION.replace("speed: 100", settings))
    process = start(repository, tmp_path, "HEAD", "HEAD", "--config", tmp_path / "endless.yaml")
    (tmp_path / "started").read_text()
    assert len(git(repository, "worktree", "list").splitlines()) == 2
    process.kill()
    process.communicate()
    assert len(git(repository, "worktree", "list").splitlines()) == 2
    (tmp_path / "fails.yaml").write_text(CONFIGURATION.replace("speed: 100", "speed: 100, behaviour: fail"))
    again = start(repository, tmp_path, "HEAD", "HEAD", "--config", tmp_path / "fails.yaml")
    again.communicate(timeout=60)
    assert again.returncode == 2 and nothing_left(repository, tmp_path)


def test_a_study_stands_for_its_best_configuration_and_window_when_measured_now(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for name, speed in (("one", 100), ("two", 80)):
        folder = study(tmp_path / "results" / "fake" / name)
        (folder / "best.yaml").write_text(CONFIGURATION.replace("100", str(speed)))
    code, content, err = verb(capsys, "fake/one", "fake/two", "--measure", "--pairs", "6")
    assert code == 1 and content["metrics"][0]["change"] == pytest.approx(-0.2), err
    manifest = json.loads((Path(content["folder"]) / "manifest.json").read_text())
    assert manifest["seconds"] == parse(SUITE).suite.measure.seconds
    assert cli.main(["list"]) == 0  # a comparison is no study
    assert "compare/" not in capsys.readouterr().out


def test_every_metric_has_a_direction_and_fits_the_table() -> None:
    assert max(map(len, METRICS)) <= 30
    assert {field.name for field in dataclasses.fields(Record)} >= set(METRICS)
