"""Exported studies, seen through asv itself: publish, show and discovery in a git repository of their own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from asv.results import Results

from harness.asv_export import TRACKED, ExportError, describe, export
from harness.asv_merge import main
from harness.record import Record

ROOT = Path(__file__).resolve().parents[2]
THROUGHPUT = "bench_studies.appo_throughput.track_seconds_per_env_step"
REWARD = "bench_studies.appo_throughput.track_negated_episode_return"
BASELINE = {"num_envs": 1024, "num_slots": 4}
FOUND = {"num_envs": 512, "learner_device": "cpu"}
SUITE = "name: appo_throughput\ntrainer: appo\nenv: HalfCheetah\nfixed: {steps_per_env: 32}\nmeasure: {seconds: 20}\n"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def asv(folder: Path, *arguments: str) -> str:
    """Run asv in ``folder`` with a home of its own; its output."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "asv", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with this project's asv configuration and the stubs, at one commit."""
    folder = tmp_path / "repository"
    (folder / "suites" / "asv").mkdir(parents=True)
    for name in ("__init__.py", "bench_studies.py"):
        shutil.copy(ROOT / "suites" / "asv" / name, folder / "suites" / "asv" / name)
    shutil.copy(ROOT / "asv.conf.json", folder)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    monkeypatch.chdir(folder)
    return folder


def record(study: str, commit: str, **values: Any) -> Record:
    defaults: dict[str, Any] = {"trial": 0, "repeat": 0, "state": "complete", "started_at": "2026-01-02T03:04:05+00:00"}
    return Record(**{"study": study, "commit": commit} | defaults | values)


def write_study(
    repository: Path, records: list[Record], *, dirty: bool = False, suite: str = SUITE, machine: str = "node7-3f9a2c"
) -> Path:
    """The folder that a study leaves, as far as the export reads it."""
    commit = records[-1].commit
    folder = repository / "results" / "appo_throughput" / records[0].study
    folder.mkdir(parents=True)
    description = {
        "name": "node7", "os": "Linux 6", "architecture": "x86_64", "cpu": "EPYC", "cores_usable": 2,
        "ram_total": 2**33, "gpus": [],
    }  # fmt: skip
    manifest = {
        "study": records[0].study, "suite": "appo_throughput", "commit": commit, "dirty": dirty, "machine": description,
        "machine_name": machine, "python": "3.11.7", "versions": {"torch": "2.13.0"},
        "runs": [{"commit": commit, "dirty": dirty}],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "suite.yaml").write_text(suite)
    (folder / "trials.jsonl").write_text("".join(json.dumps(r.flat()) + "\n" for r in records))
    return folder


def example(repository: Path, study: str = "one-1") -> list[Record]:
    """Baseline and one better trial, both confirmed twice; a third one that was measured once; a failed repeat."""
    commit = git(repository, "rev-parse", "HEAD")
    baseline: dict[str, Any] = {"trial": 0, "params": BASELINE, "baseline": True}
    found: dict[str, Any] = {"trial": 1, "params": FOUND}
    return [
        record(study, commit, **baseline, env_steps_per_second=9_000.0),
        record(study, commit, **found, env_steps_per_second=22_000.0),
        record(study, commit, trial=2, params={"num_envs": 8}, env_steps_per_second=5_000.0),
        record(study, commit, **baseline, phase="confirm", env_steps_per_second=10_000.0, episode_return=-100.0),
        record(
            study, commit, **baseline, phase="confirm", repeat=1, env_steps_per_second=12_500.0, episode_return=50.0
        ),
        record(study, commit, **found, phase="confirm", env_steps_per_second=20_000.0, episode_return=float("nan")),
        record(study, commit, **found, phase="confirm", repeat=1, env_steps_per_second=25_000.0),
        record(study, commit, **found, phase="confirm", repeat=2, state="failed", error="killed"),
    ]


def values(results: Results, name: str, index: Path) -> dict[str, Any]:
    parameters = json.loads(index.read_text())[name]["params"]
    return dict(zip(parameters[0], results.get_result_value(name, parameters), strict=True))


def test_a_suite_has_one_name_for_all_code(repository: Path) -> None:
    commit = example(repository)[0].commit
    path = export(write_study(repository, example(repository, "study-0a1b2c3d")), repository / "results" / "asv")
    assert path.name == f"{commit[:8]}-study.json"


def test_values_are_medians_of_the_confirmations_repeats(repository: Path) -> None:
    asv_dir = repository / "results" / "asv"
    path = export(write_study(repository, example(repository)), asv_dir)
    results = Results.load(str(path), machine_name="node7-3f9a2c")
    assert path.name == f"{results.commit_hash[:8]}-one.json"
    seconds = values(results, THROUGHPUT, asv_dir / "benchmarks.json")
    assert seconds == {
        "'best'": pytest.approx(4.5e-5),
        "'baseline'": pytest.approx(9e-5),
        repr(describe(BASELINE)): pytest.approx(9e-5),
        repr(describe(FOUND)): pytest.approx(4.5e-5),
    }
    negated = values(results, REWARD, asv_dir / "benchmarks.json")
    assert negated["'baseline'"] == pytest.approx(25.0)
    assert negated[repr(describe(FOUND))] != negated[repr(describe(FOUND))], "a return that is missing is not a number"
    samples = results.get_result_samples(
        THROUGHPUT, json.loads((asv_dir / "benchmarks.json").read_text())[THROUGHPUT]["params"]
    )
    assert [pytest.approx(1 / 10_000), pytest.approx(1 / 12_500)] in samples
    assert results.date == 1000 * int(git(repository, "show", "-s", "--format=%at"))


def test_asv_publishes_and_shows_a_study_at_its_commit(repository: Path) -> None:
    export(write_study(repository, example(repository)), repository / "results" / "asv")
    asv(repository, "publish")
    published = json.loads((repository / ".asv" / "html" / "index.json").read_text())
    assert {THROUGHPUT, REWARD} <= published["benchmarks"].keys()
    assert "node7-3f9a2c" in published["machines"]
    graphs = list((repository / ".asv" / "html" / "graphs").rglob(f"{THROUGHPUT}.json"))
    points = [point for graph in graphs for point in json.loads(graph.read_text())]
    assert points, "asv drew no graph of the study"
    shown = asv(repository, "show", git(repository, "rev-parse", "HEAD"))
    assert THROUGHPUT in shown and REWARD in shown
    assert "45" in shown and "90" in shown and "μs" in shown
    assert "learner_device='cpu', num_envs=512" in shown


def test_asvs_discovery_keeps_what_was_exported(repository: Path) -> None:
    index = repository / "results" / "asv" / "benchmarks.json"
    export(write_study(repository, example(repository)), index.parent)
    before = json.loads(index.read_text())
    asv(repository, "machine", "--yes")
    asv(repository, "run", "--python=same", "--bench", "just-discover")
    after = json.loads(index.read_text())
    assert before.keys() == after.keys()
    for name in (THROUGHPUT, REWARD):
        for key in ("params", "param_names", "version", "unit", "type"):
            assert after[name][key] == before[name][key]
    assert THROUGHPUT in asv(repository, "show", git(repository, "rev-parse", "HEAD"))


def test_returns_at_a_budget_are_exported_and_pruned_trials_are_not(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    records = [
        record("s", commit, params=BASELINE, baseline=True, return_at_budget=100.0, env_steps_per_second=1e4),
        record("s", commit, trial=1, params=FOUND, return_at_budget=300.0, env_steps_per_second=1e4, attempt=0),
        record("s", commit, trial=1, params=FOUND, return_at_budget=250.0, env_steps_per_second=1e4, attempt=1),
        record("s", commit, trial=2, params={"num_envs": 8}, state="pruned", episode_return=1e6),
    ]
    path = export(write_study(repository, records), repository / "results" / "asv")
    index = path.parent.parent / "benchmarks.json"
    budget = REWARD.replace("episode_return", "return_at_budget")
    names = {name.rpartition(".")[2] for name in json.loads(index.read_text()) if name != "version"}
    assert names == {"track_seconds_per_env_step", "track_negated_return_at_budget"}, "what was measured, no more"
    exported = values(Results.load(str(path), machine_name="node7-3f9a2c"), budget, index)
    assert exported == {
        "'best'": -250.0,
        "'baseline'": -100.0,
        repr(describe(BASELINE)): -100.0,
        repr(describe(FOUND)): -250.0,
    }


def test_the_best_one_is_within_the_constraints(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    records = [
        record("s", commit, params=BASELINE, baseline=True, env_steps_per_second=1e4, policy_lag_mean=1.0),
        record("s", commit, trial=1, params=FOUND, env_steps_per_second=4e4, policy_lag_mean=9.0),
        record("s", commit, trial=2, params={"num_envs": 8}, env_steps_per_second=2e4, policy_lag_mean=2.0),
    ]
    suite = f"{SUITE}constraints: {{policy_lag_mean: {{max: 2}}}}\n"
    path = export(write_study(repository, records, suite=suite), repository / "results" / "asv")
    exported = values(
        Results.load(str(path), machine_name="node7-3f9a2c"), THROUGHPUT, path.parent.parent / "benchmarks.json"
    )
    assert exported["'best'"] == exported["'num_envs=8'"] == pytest.approx(1 / 20_000)
    assert exported[repr(describe(FOUND))] == pytest.approx(1 / 40_000), "it is shown, under its own name"


def test_folders_of_two_machines_are_brought_together(repository: Path) -> None:
    ours, theirs = repository / "results" / "asv", repository.parent / "theirs"
    export(write_study(repository, example(repository)), ours)
    commit = git(repository, "rev-parse", "HEAD")
    other = [record("other", commit, trial=3, params={"num_envs": 64}, env_steps_per_second=4e4, return_at_budget=1.0)]
    export(write_study(repository, other, machine="node9-77aa10"), theirs)
    assert main([str(theirs), "--into", str(ours)]) == 0
    merged = json.loads((ours / "benchmarks.json").read_text())
    assert merged[THROUGHPUT]["params"] == [
        ["'best'", "'baseline'", *sorted(repr(describe(p)) for p in (BASELINE, FOUND, {"num_envs": 64}))]
    ]
    assert {THROUGHPUT, REWARD, REWARD.replace("episode_return", "return_at_budget")} < merged.keys()
    asv(repository, "publish")
    published = json.loads((repository / ".asv" / "html" / "index.json").read_text())
    assert {"node7-3f9a2c", "node9-77aa10"} == published["machines"].keys()
    graphs = (repository / ".asv" / "html" / "graphs").rglob(f"{THROUGHPUT}.json")
    drawn = {p.parts[-2] if "node" in p.parts[-2] else str(p): json.loads(p.read_text()) for p in graphs}
    assert all(any("node" in key and machine in key for key in drawn) for machine in published["machines"])
    with pytest.raises(SystemExit):
        main([str(repository), "--into", str(ours)])


def test_exporting_twice_changes_nothing(repository: Path) -> None:
    study = write_study(repository, example(repository))
    path = export(study, repository / "results" / "asv")
    index = path.parent.parent / "benchmarks.json"
    first = (json.loads(path.read_text()), index.read_text())
    assert export(study, repository / "results" / "asv") == path
    assert (json.loads(path.read_text()), index.read_text()) == first


def test_later_studies_keep_earlier_configurations(repository: Path) -> None:
    asv_dir = repository / "results" / "asv"
    export(write_study(repository, example(repository)), asv_dir)
    other = [r for r in example(repository, "two-1") if r.trial != 1]
    export(write_study(repository, other), asv_dir)
    parameters = json.loads((asv_dir / "benchmarks.json").read_text())[THROUGHPUT]["params"][0]
    assert parameters == ["'best'", "'baseline'", repr(describe(FOUND)), repr(describe(BASELINE))]
    assert len(list((asv_dir / "node7-3f9a2c").glob("*-[ot]*.json"))) == 2


def test_a_suite_that_measures_something_else_starts_a_new_history(repository: Path) -> None:
    asv_dir = repository / "results" / "asv"
    export(write_study(repository, example(repository)), asv_dir)
    first = json.loads((asv_dir / "benchmarks.json").read_text())[THROUGHPUT]["version"]
    export(write_study(repository, example(repository, "two-1"), suite=SUITE.replace("32", "64")), asv_dir)
    assert json.loads((asv_dir / "benchmarks.json").read_text())[THROUGHPUT]["version"] != first


def test_all_trials_are_exported_when_none_was_confirmed(repository: Path) -> None:
    records = [r for r in example(repository) if r.phase == "search"]
    path = export(write_study(repository, records), repository / "results" / "asv")
    exported = values(
        Results.load(str(path), machine_name="node7-3f9a2c"), THROUGHPUT, path.parent.parent / "benchmarks.json"
    )
    assert exported[repr("num_envs=8")] == pytest.approx(1 / 5_000)
    assert exported["'best'"] == pytest.approx(1 / 22_000)


def test_a_finished_study_that_was_run_again_at_a_later_commit_stays_where_it_was_measured(repository: Path) -> None:
    study = write_study(repository, example(repository))
    manifest = json.loads((study / "manifest.json").read_text())
    manifest |= {"commit": "f" * 40, "dirty": True, "runs": [*manifest["runs"], {"commit": "f" * 40, "dirty": True}]}
    (study / "manifest.json").write_text(json.dumps(manifest))
    path = export(study, repository / "results" / "asv")
    assert path.name.startswith(git(repository, "rev-parse", "HEAD")[:8])


def test_a_failed_trial_is_shown_as_failed(repository: Path) -> None:
    failed = [record("s", git(repository, "rev-parse", "HEAD"), trial=1, params=FOUND, state="failed", error="killed")]
    records = [r for r in example(repository) if r.trial == 0] + failed
    records = [r for r in records if r.phase == "search"]
    path = export(write_study(repository, records), repository / "results" / "asv")
    exported = values(
        Results.load(str(path), machine_name="node7-3f9a2c"), THROUGHPUT, path.parent.parent / "benchmarks.json"
    )
    assert exported[repr(describe(FOUND))] is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda repo: write_study(repo, example(repo), dirty=True), "commit the changes and measure again"),
        (lambda repo: write_study(repo, [record("s", "")]), "from a git repository"),
        (lambda repo: write_study(repo, [record("s", "0" * 40, state="failed")]), "nothing to export"),
        (lambda repo: repo, "not the folder of a study"),
    ],
)
def test_what_asv_cannot_show_is_refused(repository: Path, make: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export(make(repository), repository / "results" / "asv")
    assert not (repository / "results" / "asv").exists()


def test_a_window_in_which_nothing_happened_has_no_finite_value() -> None:
    idle = record("one-1", "abc", env_steps_per_second=0.0)
    assert TRACKED[0].of(idle) == float("inf")
