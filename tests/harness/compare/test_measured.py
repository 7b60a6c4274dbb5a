"""BASE against NEW measured now: in turns, each commit from a folder with its files."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.compare.measured import BASE, NAMES, NEW, Measuring, blocks
from harness.compare.sides import Side, version_of
from harness.measure.process import Outcome
from harness.measure.record import read_records
from harness.measure.stop import StopSignal
from harness.predict import plan
from harness.suite.schema import Limits, Measure, ReturnAt, parse
from tests.harness.compare.conftest import REPOSITORY
from tests.harness.compare.studies import study, verb
from tests.harness.conftest import SUITE

CONFIGURATION = (
    "trainer: tests.harness.fake_trainer:FakeTrainer\nenv: Fake\nsettings: {speed: 100, iteration_seconds: 2.0e-5}\n"
)
ONCE = "name: once\nmeasure: {disturbed_retries: 0}\n" + CONFIGURATION.replace("settings:", "fixed:")
"""the same as a suite, after which nothing is measured again on a busy machine"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This code in a repository of its own: HEAD~1, and HEAD, where the fake trainer makes 8 % fewer steps."""
    folder = tmp_path_factory.mktemp("repository")
    for package in ("harness", "unilab"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests" / "harness").mkdir(parents=True)
    for package in ("tests", "tests/harness"):  # else a package of the same name elsewhere on the path comes first
        (folder / package / "__init__.py").touch()
    trainer = (REPOSITORY / "tests" / "harness" / "fake_trainer.py").read_text()
    (folder / ".gitignore").write_text("__pycache__/\n")
    (folder / "once.yaml").write_text(ONCE)
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


def checked_out(tmp_path: Path) -> int:
    return len(list((tmp_path / "t").glob("*/*/harness")))


def nothing_left(repository: Path, tmp_path: Path) -> bool:
    unchanged = not git(repository, "status", "--porcelain", "--untracked-files=no")
    alone = len(git(repository, "worktree", "list").splitlines()) == 1
    return unchanged and alone and not list((tmp_path / "t").iterdir())


def test_two_commits_measured_in_turns_each_with_its_own_code(repository: Path, tmp_path: Path) -> None:
    process = start(repository, tmp_path, "HEAD~1", "HEAD", "--suite", "once.yaml", "--pairs", 6)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 1, err
    content = json.loads(out)
    throughput = content["metrics"][0]
    assert (
        throughput["pairs"] == 6
        and throughput["change"] == pytest.approx(-0.08, abs=1e-3)
        and throughput["smallest_effect"] < 0.01
    )
    records = read_records(repository / content["folder"] / "repeats.jsonl")
    sides = [r.trial for r in records]
    assert all(block in ([0, 1, 1, 0], [1, 0, 0, 1]) for block in (sides[:4], sides[4:8], sides[8:]))
    assert [r.seed for r in records[:5]] == [0, 0, 1, 1, 2]
    commits = [git(repository, "rev-parse", name).strip() for name in ("HEAD~1", "HEAD")]
    assert all(r.commit == commits[r.trial] for r in records) and not any(r.dirty for r in records)
    assert json.loads((Path(content["folder"]) / "comparison.json").read_text())["outcome"] == "regression"
    assert nothing_left(repository, tmp_path)


def test_two_configurations_measured_in_turns(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(CONFIGURATION)
    Path("b.yaml").write_text(CONFIGURATION.replace("speed: 100", "speed: 120"))
    Path("once.yaml").write_text(ONCE)
    options = ["--measure", "--pairs", "7", "--seconds", "0.1", "--warmup", "0", "--results", tmp_path / "r"]
    code, content, err = verb(capsys, "a.yaml", "b.yaml", "--suite", "once.yaml", *options)
    assert code == 0 and content["metrics"][0]["verdict"] == "better", err
    assert content["metrics"][0]["change"] == pytest.approx(0.2, abs=1e-3) and content["metrics"][0]["pairs"] == 7
    assert "the sides have different settings" in content["notes"][0]


def test_a_disturbed_repeat_is_measured_again_and_both_are_kept(tmp_path: Path) -> None:
    disturbed = iter(["others took a core", "others took a core", "", *[""] * 9, *["others took a core"] * 40])

    def execute(spec, limits, stop, on_progress) -> Outcome:
        return Outcome("complete", result={"env_steps_per_second": 100.0, "disturbed": next(disturbed), "from_2030": 1})

    (tmp_path / "a.yaml").write_text(CONFIGURATION)
    version = version_of(Side("a", configuration=tmp_path / "a.yaml"), None, None, tmp_path, Limits())
    measure, lines = Measure(warmup_seconds=1, return_at=ReturnAt(seconds=7), target_return=5.0), []
    with StopSignal() as stop:
        measuring = Measuring((version, version), measure, 6, "no processes")
        pairs = measuring.run(tmp_path, stop, lines.append, execute=execute)
    kept = read_records(tmp_path / "repeats.jsonl")
    first = next(blocks(6, tmp_path.name))[0][0]
    second = 1 - first
    assert [(r.trial, r.repeat, r.attempt, bool(r.disturbed)) for r in kept[:4]] == [
        (first, 0, 0, True), (first, 0, 1, True), (first, 0, 2, False), (second, 0, 0, False)]  # fmt: skip
    assert pairs.across[0][0][first].attempt == 2 and len(pairs.across) == 6
    assert len(kept) == 12 + 6  # as many more as there are pairs, however long the machine is disturbed
    assert kept[2].log == f"logs/{NAMES[first]}-0-again-2" and "disturbed" in lines[0] and "disturbed" not in lines[2]


def test_both_sides_of_a_pair_have_one_seed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CONFIGURATION)
    (tmp_path / "once.yaml").write_text("sampler: {seed: 5}\n" + ONCE)
    made = plan.make(tmp_path / "once.yaml", results=tmp_path)
    sides = Side("HEAD", commit="1234567"), Side("a", configuration=tmp_path / "a.yaml")
    base, new = (version_of(side, made, None, tmp_path, Limits()) for side in sides)
    measuring = Measuring((base, new), Measure(), 6)
    assert measuring.spec(BASE, 2, tmp_path) == measuring.spec(NEW, 2, tmp_path)
    assert measuring.spec(NEW, 2, tmp_path).settings["seed"] == measuring.seed(2) == 7


def test_a_side_that_fails_is_an_error_with_its_log(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(CONFIGURATION)
    Path("b.yaml").write_text(CONFIGURATION.replace("speed: 100", "speed: 100, behaviour: fail"))
    code, content, _ = verb(capsys, "a.yaml", "b.yaml", "--measure", "--seconds", "0.1", "--warmup", "0", "--no-turns")
    assert code == 2
    assert "NEW was not measured: failed: ValueError: the physics exploded in environment 3" in content["error"]
    (records,) = Path("results/compare").glob("*/repeats.jsonl")
    assert [(r.trial, r.state, r.in_turns) for r in read_records(records)][-1] == (1, "failed", False)


def test_ctrl_c_leaves_no_files_and_no_process(repository: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "started")
    settings = f"speed: 100, behaviour: endless, marker: {tmp_path / 'started'}"
    (tmp_path / "endless.yaml").write_text(CONFIGURATION.replace("speed: 100", settings))
    process = start(repository, tmp_path, "HEAD~1", "HEAD", "--config", tmp_path / "endless.yaml")
    trial = int((tmp_path / "started").read_text().split()[0])
    assert checked_out(tmp_path) == 2
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not Path(f"/proc/{trial}").exists() and nothing_left(repository, tmp_path)


def test_the_files_of_a_killed_comparison_are_removed_by_the_next_one(repository: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "started")
    settings = f"speed: 100, behaviour: endless, marker: {tmp_path / 'started'}"
    (tmp_path / "endless.yaml").write_text(CONFIGURATION.replace("speed: 100", settings))
    process = start(repository, tmp_path, "HEAD", "HEAD", "--config", tmp_path / "endless.yaml")
    (tmp_path / "started").read_text()
    assert checked_out(tmp_path) == 1
    process.kill()
    process.communicate()
    assert checked_out(tmp_path) == 1
    (tmp_path / "fails.yaml").write_text(CONFIGURATION.replace("speed: 100", "speed: 100, behaviour: fail"))
    again = start(repository, tmp_path, "HEAD", "HEAD", "--config", tmp_path / "fails.yaml")
    again.communicate(timeout=60)
    assert again.returncode == 2 and nothing_left(repository, tmp_path)


def test_a_study_stands_for_its_best_configuration_and_window_when_measured_now(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for name, speed in (("one", 100), ("two", 80)):
        folder = study(tmp_path / "results" / "fake" / name)
        (folder / "best.yaml").write_text(CONFIGURATION.replace("speed: 100", f"speed: {speed}"))
    code, content, err = verb(capsys, "fake/one", "fake/two", "--measure", "--pairs", "6")
    assert code == 1 and content["metrics"][0]["change"] == pytest.approx(-0.2, abs=1e-3), err
    manifest = json.loads((Path(content["folder"]) / "manifest.json").read_text())
    assert manifest["seconds"] == parse(SUITE).suite.measure.seconds
    assert cli.main(["list"]) == 0  # a comparison is no study
    assert "compare/" not in capsys.readouterr().out
