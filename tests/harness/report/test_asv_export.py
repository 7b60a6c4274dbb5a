"""Exported studies, seen through asv itself: publish, show and discovery in a git repository of their own."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asv.results import Results

from harness.measure.record import Record
from harness.report.asv_export import TRACKED, AsvExportError, describe, export, read_benchmarks
from harness.report.asv_merge import main

ROOT = Path(__file__).resolve().parents[3]
THROUGHPUT = "bench_studies.appo_throughput.track_seconds_per_env_step"
REWARD = "bench_studies.appo_throughput.track_negated_episode_return"
BASELINE = {"num_envs": 1024, "num_slots": 4}
FOUND = {"num_envs": 512, "learner_device": "cpu"}
AT_BASELINE, AT_FOUND = f"baseline: {describe(BASELINE)}", f"wide: {describe(FOUND)}"
"""parameters: the baseline, and a configuration that the suite pins"""
SUITE = "name: appo_throughput\ntrainer: appo\nenv: HalfCheetah\nfixed: {steps_per_env: 32}\nmeasure: {seconds: 20}\n"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def asv(folder: Path, *arguments: str) -> str:
    """Run asv in ``folder`` with a home of its own; its output."""
    environment, command = {"PATH": "/usr/bin:/bin", "HOME": str(folder.parent)}, [sys.executable, "-m", "asv"]
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
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
    """Baseline and a pinned trial, both confirmed twice, a third one that the search found best; a failed repeat."""
    commit = git(repository, "rev-parse", "HEAD")
    baseline: dict[str, Any] = {"trial": 0, "params": BASELINE, "baseline": True}
    found: dict[str, Any] = {"trial": 1, "params": FOUND, "pinned": "wide"}
    return [
        record(study, commit, **baseline, env_steps_per_second=9_000.0),
        record(study, commit, **found, env_steps_per_second=22_000.0),
        record(study, commit, trial=2, params={"num_envs": 8}, env_steps_per_second=50_000.0),
        record(study, commit, **baseline, phase="confirm", env_steps_per_second=10_000.0, episode_return=-100.0),
        record(
            study, commit, **baseline, phase="confirm", repeat=1, env_steps_per_second=12_500.0, episode_return=50.0
        ),
        record(study, commit, **found, phase="confirm", env_steps_per_second=20_000.0, episode_return=float("nan")),
        record(study, commit, **found, phase="confirm", repeat=1, env_steps_per_second=25_000.0),
        record(study, commit, **found, phase="confirm", repeat=2, state="failed", error="killed"),
        record(study, commit, trial=2, params={"num_envs": 8}, phase="confirm", env_steps_per_second=50_000.0),
    ]


def exported(repository: Path, records: list[Record], **study: Any) -> Path:
    """The result file of a study with these records."""
    return export(write_study(repository, records, **study), repository / "results" / "asv")


def known(repository: Path) -> dict[str, Any]:
    """The benchmarks that have been exported."""
    return read_benchmarks(repository / "results" / "asv" / "benchmarks.json")


def values(path: Path, name: str = THROUGHPUT) -> dict[str, Any]:
    """What a result file has of a benchmark, by the names of configurations."""
    parameters = read_benchmarks(path.parent.parent / "benchmarks.json")[name]["params"]
    results = Results.load(str(path), machine_name=path.parent.name)
    return dict(zip(parameters[0], results.get_result_value(name, parameters), strict=True))


def test_values_are_medians_of_the_confirmations_repeats(repository: Path) -> None:
    path = exported(repository, example(repository, "one-0a1b2c3d"))
    results = Results.load(str(path), machine_name="node7-3f9a2c")
    name = f"{results.commit_hash[:8]}-appo_throughput-one.json"
    assert path.name == name, "one for a suite, whatever the code"
    assert values(path) == {repr(AT_BASELINE): pytest.approx(9e-5), repr(AT_FOUND): pytest.approx(4.5e-5)}
    negated = values(path, REWARD)
    assert negated[repr(AT_BASELINE)] == pytest.approx(25.0)
    assert negated[repr(AT_FOUND)] != negated[repr(AT_FOUND)], "a return that is missing is not a number"
    samples = results.get_result_samples(THROUGHPUT, known(repository)[THROUGHPUT]["params"])
    assert [pytest.approx(1 / 10_000), pytest.approx(1 / 12_500)] in samples
    assert results.date == 1000 * int(git(repository, "show", "-s", "--format=%at"))


def test_asv_publishes_and_shows_a_study_at_its_commit(repository: Path) -> None:
    exported(repository, example(repository))
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
    assert "wide: learner_device='cpu', num_envs=512" in shown


def test_asvs_discovery_keeps_what_was_exported(repository: Path) -> None:
    exported(repository, example(repository))
    before = known(repository)
    asv(repository, "machine", "--yes")
    asv(repository, "run", "--python=same", "--bench", "just-discover")
    after = known(repository)
    assert before.keys() == after.keys()
    for name in (THROUGHPUT, REWARD):
        for key in ("params", "param_names", "version", "unit", "type"):
            assert after[name][key] == before[name][key]
    assert THROUGHPUT in asv(repository, "show", git(repository, "rev-parse", "HEAD"))


def test_returns_at_a_budget_are_exported_and_pruned_trials_are_not(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    records = [
        record("s", commit, params=BASELINE, baseline=True, return_at_budget=100.0, env_steps_per_second=1e4),
        record("s", commit, trial=1, params=FOUND, pinned="wide", return_at_budget=300.0, env_steps_per_second=1e4),
        record("s", commit, trial=2, params={"num_envs": 8}, pinned="small", state="pruned", episode_return=1e6),
    ]
    path = exported(repository, records)
    names = {name.rpartition(".")[2] for name in known(repository) if name != "version"}
    assert names == {"track_seconds_per_env_step", "track_negated_return_at_budget"}, "what was measured, no more"
    budget = REWARD.replace("episode_return", "return_at_budget")
    assert values(path, budget) == {repr(AT_BASELINE): -100.0, repr(AT_FOUND): -300.0}


def test_what_a_search_found_is_no_history(repository: Path) -> None:
    exported(repository, example(repository))
    assert {*known(repository)[THROUGHPUT]["params"][0]} == {repr(AT_BASELINE), repr(AT_FOUND)}
    lucky = [r for r in example(repository, "two-1") if r.trial == 2]
    with pytest.raises(AsvExportError, match="neither the baseline nor a pinned configuration was measured"):
        exported(repository, lucky)


def test_other_settings_under_a_name_do_not_continue_its_history(repository: Path) -> None:
    exported(repository, example(repository))
    commit = git(repository, "rev-parse", "HEAD")
    other = [record("two-1", commit, baseline=True, params={"num_envs": 4}, env_steps_per_second=1e3)]
    found = values(exported(repository, other))
    assert found["'baseline: num_envs=4'"] == pytest.approx(1e-3)
    assert math.isnan(found[repr(AT_BASELINE)])


def test_suites_whose_names_are_alike_stay_apart(repository: Path) -> None:
    asv_dir, written = repository / "results" / "asv", []
    for suite in ("a-b", "a_b", "a.b"):
        folder = write_study(repository, example(repository, "one-1"))
        manifest = json.loads((folder / "manifest.json").read_text()) | {"suite": suite}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        written.append(export(folder, asv_dir))
        shutil.rmtree(folder)
    names = {name.split(".")[1] for name in known(repository) if name != "version"}
    assert len(names) == len(set(written)) == 3 and "a_b" in names and all(map(str.isidentifier, names))


@pytest.mark.parametrize("key", ["machine_name", "study", "suite"])
def test_names_in_a_manifest_are_names(repository: Path, key: str) -> None:
    folder = write_study(repository, example(repository))
    manifest = json.loads((folder / "manifest.json").read_text()) | {key: "../../escaped"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AsvExportError, match=f"'{key}' is no name"):
        export(folder, repository / "results" / "asv")
    assert not list(repository.parent.rglob("*escaped*"))


def test_a_damaged_index_is_named(repository: Path) -> None:
    asv_dir = repository / "results" / "asv"
    asv_dir.mkdir(parents=True)
    (asv_dir / "benchmarks.json").write_text("{")
    with pytest.raises(AsvExportError, match=r"benchmarks\.json: cannot be read"):
        exported(repository, example(repository))


def test_merging_follows_no_links(repository: Path) -> None:
    ours, theirs, outside = repository / "results" / "asv", repository.parent / "theirs", repository.parent / "outside"
    export(write_study(repository, example(repository)), theirs)
    outside.mkdir()
    (outside / "secret.json").write_text('"secret"')
    (theirs / "node7-3f9a2c" / "leak.json").symlink_to(outside / "secret.json")
    with pytest.raises(SystemExit):
        main([str(theirs), "--into", str(ours)])
    assert not list(ours.rglob("leak.json"))
    (theirs / "node7-3f9a2c" / "leak.json").unlink()
    ours.mkdir(parents=True, exist_ok=True)
    (ours / "node7-3f9a2c").symlink_to(outside)
    with pytest.raises(SystemExit):
        main([str(theirs), "--into", str(ours)])
    assert [path.name for path in outside.iterdir()] == ["secret.json"]


def test_folders_of_two_machines_are_brought_together(repository: Path) -> None:
    ours, theirs = repository / "results" / "asv", repository.parent / "theirs"
    exported(repository, example(repository))
    commit = git(repository, "rev-parse", "HEAD")
    other = [
        record("other", commit, baseline=True, params={"num_envs": 64}, env_steps_per_second=4e4, return_at_budget=1.0)
    ]
    export(write_study(repository, other, machine="node9-77aa10"), theirs)
    assert main([str(theirs), "--into", str(ours)]) == 0
    merged = json.loads((ours / "benchmarks.json").read_text())
    assert merged[THROUGHPUT]["params"] == [[repr(AT_BASELINE), "'baseline: num_envs=64'", repr(AT_FOUND)]]
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
    path = exported(repository, example(repository))
    exported(repository, [r for r in example(repository, "two-1") if r.trial == 0])
    assert known(repository)[THROUGHPUT]["params"][0] == [repr(AT_BASELINE), repr(AT_FOUND)]
    assert len(list(path.parent.glob("*-*.json"))) == 2


def test_a_suite_that_measures_something_else_starts_a_new_history(repository: Path) -> None:
    exported(repository, example(repository))
    first = known(repository)[THROUGHPUT]["version"]
    exported(repository, example(repository, "two-1"), suite=SUITE.replace("32", "64"))
    assert known(repository)[THROUGHPUT]["version"] != first


def test_numbers_are_the_search_s_when_nothing_was_confirmed(repository: Path) -> None:
    records = [r for r in example(repository) if r.phase == "search"]
    found = values(exported(repository, records))
    assert found == {repr(AT_BASELINE): pytest.approx(1 / 9_000), repr(AT_FOUND): pytest.approx(1 / 22_000)}


def test_a_study_that_goes_on_at_a_later_commit_of_the_same_code_is_exported_whole(repository: Path) -> None:
    records = example(repository)
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "a README")
    later = git(repository, "rev-parse", "HEAD")
    study = write_study(repository, [*records[:-3], *(replace(r, commit=later) for r in records[-3:])])
    path = export(study, repository / "results" / "asv")
    assert path.name.startswith(later[:8])
    assert values(path)[repr(AT_BASELINE)] == pytest.approx(9e-5)


def test_a_finished_study_that_was_run_again_at_a_later_commit_stays_where_it_was_measured(repository: Path) -> None:
    study = write_study(repository, example(repository))
    manifest = json.loads((study / "manifest.json").read_text())
    manifest |= {"commit": "f" * 40, "dirty": True, "runs": [*manifest["runs"], {"commit": "f" * 40, "dirty": True}]}
    (study / "manifest.json").write_text(json.dumps(manifest))
    path = export(study, repository / "results" / "asv")
    assert path.name.startswith(git(repository, "rev-parse", "HEAD")[:8])


def test_a_failed_trial_is_shown_as_failed(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    failed = [record("s", commit, trial=1, params=FOUND, pinned="wide", state="failed", error="killed")]
    records = [r for r in example(repository) if r.trial == 0] + failed
    records = [r for r in records if r.phase == "search"]
    assert values(exported(repository, records))[repr(AT_FOUND)] is None


@pytest.mark.parametrize(
    ("times", "exported_value"),
    [([300.0, 240.0, math.nan], 300.0), ([240.0, math.nan, math.nan], None), ([math.nan, math.nan], None)],
)
def test_a_target_that_was_missed_counts_as_later_than_all_others(repository: Path, times, exported_value) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    more: dict[str, Any] = {"params": BASELINE, "baseline": True, "env_steps_per_second": 1e4}
    records = [record("s", commit, repeat=n, seconds_to_return=time, **more) for n, time in enumerate(times)]
    path = exported(repository, records, suite=SUITE.replace("20}", "20, target_return: 3000}"))
    assert values(path, REWARD.replace("negated_episode_return", "seconds_to_return")) == {
        repr(AT_BASELINE): exported_value
    }
    assert not any("success" in name for name in known(repository)), "nothing was to succeed"


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
    with pytest.raises(AsvExportError, match=message):
        export(make(repository), repository / "results" / "asv")
    assert not (repository / "results" / "asv").exists()


def test_a_window_in_which_nothing_happened_has_no_finite_value() -> None:
    idle = record("one-1", "abc", env_steps_per_second=0.0)
    assert TRACKED["track_seconds_per_env_step"][1](idle) == float("inf")
