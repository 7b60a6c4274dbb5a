"""The command line as a user has it: real processes, signals, exit codes, files."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import psutil
import pytest

from harness import cli
from harness.measure.record import read_records
from harness.study.folder import Study
from tests.harness.report.studies import make_record, write_study

REPOSITORY = Path(__file__).parents[3]
PATIENCE = 60
"""seconds, with what ends by itself on any machine"""


def start(*arguments: object, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", "harness", *map(str, arguments)], cwd=REPOSITORY,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
    )  # fmt: skip


def ended(process: subprocess.Popen) -> tuple[str, str]:
    """What a process that is to end printed; if it does not end, where it stands is in what it printed."""
    try:
        return process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        return process.communicate()


def harness(*arguments: object) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def endless(suite_file: Path, tmp_path: Path) -> list[str]:
    """Arguments with which every trial goes on until it is stopped, and says that it has started."""
    fifo = tmp_path / "started"
    os.mkfifo(fifo)
    return ["run", str(suite_file), "--results", str(tmp_path / "r"), "--set", f"fixed.marker={fifo}"]


def wait_for_trial(tmp_path: Path) -> int:
    """The process id of a trial, as soon as one has started."""
    return int((tmp_path / "started").read_text().split()[0])


def test_every_verb_has_help(capsys) -> None:
    verbs = re.findall(r"^    ([a-z-]+) ", cli.parser().format_help(), re.MULTILINE)
    assert len(verbs) > 10
    for verb in verbs:
        with pytest.raises(SystemExit) as end:
            cli.main([verb, "--help"])
        assert end.value.code == 0
        assert "--json" in capsys.readouterr().out


def test_a_wrong_suite_is_one_line_and_creates_nothing(tmp_path, capsys) -> None:
    (tmp_path / "bad.yaml").write_text("name: a\ntrainer: appo\nenv: Ant\nserach: {}\n")
    told = f"error: {tmp_path / 'bad.yaml'}:4: serach: unknown key; did you mean 'search'?\n"
    assert harness("validate", tmp_path / "bad.yaml") == (1, "", told)
    for verb in ("run", "plan"):
        assert cli.main([verb, str(tmp_path / "bad.yaml")]) == 1
        assert capsys.readouterr() == ("", told)
    assert cli.main(["validate", str(tmp_path / "bad.yaml"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["kind"] == "InputError"
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_shipped_suite_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["validate", "smoke"]) == 0
    assert cli.main(["list", "--json"]) == 0
    suites = json.loads(capsys.readouterr().out.partition("\n")[2])["suites"]
    assert "appo_throughput" in suites and suites == sorted(suites)
    assert cli.main(["validate", "smokee"]) == 1 and cli.main(["plan", "other/smoke.yaml"]) == 1
    assert capsys.readouterr().err.count("is no file and no shipped suite; shipped are: appo_grid, ") == 2
    (tmp_path / "smoke").write_text("name: mine\n")
    assert cli.main(["validate", "smoke"]) == 1
    assert "smoke: env: is missing" in capsys.readouterr().err, "a file of that name goes first"


def test_init_writes_a_suite_that_is_right_and_replaces_none(tmp_path, capsys) -> None:
    file = tmp_path / "my suite.yaml"
    assert cli.main(["init", str(file)]) == 0
    assert cli.main(["plan", str(file), "--results", str(tmp_path)]) == 0
    assert "my_suite/" in capsys.readouterr().out
    before = file.read_text()
    assert cli.main(["init", str(file)]) == 1 and file.read_text() == before
    assert "is there already; name another file" in capsys.readouterr().err


def test_settings_are_told_with_meaning_and_default(capsys) -> None:
    assert cli.main(["settings", "appo"]) == 0
    text = capsys.readouterr().out
    assert "num_slots: whole number ≥ 1; default 1; changes placement\n    rollouts that the ring can hold" in text
    assert cli.main(["settings", "tests.harness.fake_trainer:FakeTrainer", "--json"]) == 0
    entry = {"name": "env", "values": "text", "default": "Fake", "meaning": "", "changes": ""}
    assert entry in json.loads(capsys.readouterr().out)
    assert cli.main(["settings", "ppo"]) == 1
    assert "unknown trainer 'ppo'" in capsys.readouterr().err


def test_wrong_usage_is_exit_code_2(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["measure"])
    assert end.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


UNUSED = ("torch", "mujoco", "gymnasium", "pandas", "scipy.stats")


@pytest.mark.parametrize(
    ("command", "libraries"),
    [
        ("validate suites/smoke.yaml", UNUSED),
        ("validate suites/offpolicy_reward.yaml", UNUSED),
        ("list", UNUSED),
        ("plan suites/smoke.yaml", ("torch._dynamo", "sympy", "tensorboard", "pandas", "scipy.stats")),
    ],
)
def test_nobody_waits_for_libraries_that_are_not_used(command: str, libraries: tuple[str, ...]) -> None:
    script = f"import sys, harness.cli as c; c.main({command.split()}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert "harness.cli" in loaded and not {*libraries} & {*loaded}


def test_measuring_what_a_process_takes_is_announced_on_stderr(tmp_path, monkeypatch, capsys) -> None:
    from unilab.algos.torch.memory import processes

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(processes, "_measure", lambda: processes.FALLBACK)
    announced = []
    for _ in range(2):
        assert cli.main(["plan", "smoke", "--json", "--results", str(tmp_path)]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["suite"] == "smoke"
        announced.append(err.count("measuring what a process takes on this machine, once: about 15 s"))
    assert announced == [1, 0]


@pytest.mark.parametrize("command", ["installed", "-m"])
def test_modules_in_the_working_directory_are_found(tmp_path, command: str) -> None:
    """By the script that pip makes of the entry point as by ``python -m``."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "own.py").write_text("from tests.harness.fake_trainer import FakeTrainer as Own\n")
    (tmp_path / "work" / "suite.yaml").write_text("name: a\ntrainer: own:Own\nenv: Fake\n")
    entry = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]["unilab-harness"]
    module, _, function = entry.partition(":")
    (tmp_path / "unilab-harness").write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    start = ["-m", "harness"] if command == "-m" else [str(tmp_path / "unilab-harness")]
    done = subprocess.run(
        [sys.executable, *start, "validate", "suite.yaml"], cwd=tmp_path / "work", capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_plan_starts_and_creates_nothing(suite_file, tmp_path, capsys) -> None:
    arguments = [str(suite_file), "--results", str(tmp_path / "r"), "--trials", "2", "--seed", "3", "--minutes", "9"]
    assert cli.main(["plan", *arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["trials"] == 2 and content["baseline"] == {"speed": 20}
    assert content["memory"][0] == {
        "what": "baseline", "fits": True, "host_bytes": 1000, "expected_host_bytes": 1000, "shm_bytes": 0,
        "device_bytes": 0, "reason": None,
    }  # fmt: skip
    assert cli.main(["plan", *arguments]) == 0
    assert "2 trials of 4 configurations" in capsys.readouterr().out
    assert not (tmp_path / "r").exists()


def test_run_leaves_all_files_and_run_again_has_nothing_to_do(suite_file, tmp_path, capsys) -> None:
    arguments = ["run", str(suite_file), "--results", str(tmp_path / "r"), "--trials", "2", "--json"]
    assert cli.main(arguments) == 0
    content = json.loads(capsys.readouterr().out)
    folder = Path(content["folder"])
    assert folder.parent == tmp_path / "r" / "fake"
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{8}", folder.name)  # of the suite, of the code that it runs
    files = {"suite.yaml", "manifest.json", "trials.jsonl", "trials.csv", "curves.csv", "best.yaml", "logs"}
    assert files | {"report.html", "report.md"} <= {path.name for path in folder.iterdir()}
    assert list(pd.read_csv(folder / "trials.csv")["trial"]) == [0, 1]
    assert {"trial", "repeat", "wall_seconds", "env_steps", "loss"} <= set(pd.read_csv(folder / "curves.csv").columns)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"commit", "dirty", "machine", "versions", "command"} <= set(manifest) and len(manifest["runs"]) == 1
    before = (folder / "trials.jsonl").read_bytes()
    assert cli.main(arguments) == 0
    assert (folder / "trials.jsonl").read_bytes() == before
    assert len(json.loads((folder / "manifest.json").read_text())["runs"]) == 2
    assert cli.main(["validate", str(folder / "suite.yaml")]) == 0
    capsys.readouterr()
    assert cli.main([*arguments, "--name", "tuesday"]) == 0 and cli.main(arguments) == 0
    capsys.readouterr()
    for name in ("tuesday", folder.name):
        assert cli.main(["show", name, "--results", str(tmp_path / "r"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == content
    assert cli.main([*arguments, "--name", "fake"]) == 1
    assert "--name fake: a suite of that name has studies" in capsys.readouterr().err
    assert cli.main(["list", "--results", str(tmp_path / "r"), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["studies"][0]["trials"] == 2 and "HalfCheetah" in listed["environments"]

    study = ["--results", str(tmp_path / "r"), folder.parent.name]
    for named in ([str(folder / "best.yaml")], study):
        assert cli.main(["train", *named, "--iterations", "7", "--out", str(tmp_path / "t")]) == 0
        assert "after 7 iterations" in capsys.readouterr().out


def test_a_study_of_another_machine_is_refused_and_stays_as_it_is(suite_file, tmp_path, capsys) -> None:
    arguments = ["run", str(suite_file), "--results", str(tmp_path / "r"), "--trials", "1"]
    assert cli.main(arguments) == 0
    (path,) = (tmp_path / "r").glob("fake/*/trials.jsonl")
    (record,) = read_records(path)
    path.write_text(json.dumps(record.flat() | {"machine": "elsewhere"}) + "\n")
    before = path.read_bytes()
    capsys.readouterr()
    assert cli.main([*arguments[:-1], "2"]) == 1
    error = capsys.readouterr().err
    assert "on another machine or with other cores (elsewhere; this is " in error and "--results DIR" in error
    assert path.read_bytes() == before


def test_run_where_nothing_can_be_measured_fails(suite_file, tmp_path, capsys) -> None:
    arguments = ["run", str(suite_file), "--results", str(tmp_path), "--trials", "1", "--set", "fixed.behaviour=fail"]
    assert cli.main(arguments) == 1
    out = capsys.readouterr().out
    assert "failed: ValueError: the physics exploded in environment 3" in out
    assert "No trial was measured to its end" in out


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_and_the_next_run_finishes_it(endless, tmp_path, signum: int, code: int) -> None:
    process = start(*endless, "--set", "fixed.behaviour=endless")
    trial = wait_for_trial(tmp_path)
    process.send_signal(signum)
    out, err = ended(process)
    assert process.returncode == code, err
    assert "run the same command again to go on" in out
    assert not psutil.pid_exists(trial)
    assert list((tmp_path / "r").rglob("trials.jsonl")) == []


def test_a_second_signal_kills_at_once(endless, tmp_path) -> None:
    process = start(*endless, "--set", "fixed.behaviour=deaf")
    trial = wait_for_trial(tmp_path)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    out, err = ended(process)
    assert process.returncode in (130, 143), err
    assert "run the same command again" not in out  # as the orderly end says, which waits for the trial
    psutil.wait_procs([psutil.Process(trial)] if psutil.pid_exists(trial) else [], timeout=PATIENCE)
    assert not psutil.pid_exists(trial)


def test_trials_die_with_a_killed_harness_and_the_next_run_finishes_each_once(suite_file, tmp_path) -> None:
    fifo = tmp_path / "started"
    os.mkfifo(fifo)
    arguments = ["run", str(suite_file), "--results", str(tmp_path / "r"), "--set", f"fixed.marker={fifo}"]
    process = start(*arguments)
    wait_for_trial(tmp_path)  # the baseline
    trial = psutil.Process(wait_for_trial(tmp_path))  # it waits for the fifo's reader, so the baseline is recorded
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs([trial], timeout=PATIENCE)
    assert not alive
    records = next((tmp_path / "r").rglob("trials.jsonl"))
    assert [r.trial for r in read_records(records)] == [0]
    again = start(*arguments)
    wait_for_trial(tmp_path)
    wait_for_trial(tmp_path)
    _, err = ended(again)
    assert again.returncode == 0, err
    assert [(r.trial, r.state) for r in read_records(records)] == [(0, "complete"), (1, "complete"), (2, "complete")]


def test_a_killed_trial_is_recorded_and_the_study_goes_on(suite_file, tmp_path) -> None:
    arguments = [suite_file, "--results", tmp_path / "r", "--set", "search={behaviour: [good, die]}"]
    code, _, err = harness("run", *arguments, "--set", "baseline={}", "--trials", "2")
    assert code == 0, err
    records = read_records(next((tmp_path / "r").rglob("trials.jsonl")))
    assert [r.state for r in records] == ["complete", "failed"]
    assert records[1].error.startswith("killed by SIGKILL")


def test_a_second_harness_on_the_study_is_refused_and_told_who_has_it(endless, tmp_path) -> None:
    process = start(*endless, "--set", "fixed.behaviour=endless")
    wait_for_trial(tmp_path)
    code, _, err = harness(*endless, "--set", "fixed.behaviour=endless")
    assert code == 1 and f"process {process.pid} on " in err
    process.send_signal(signal.SIGTERM)
    _, err = ended(process)
    assert process.returncode == 143, err


def test_a_run_goes_on_after_unreadable_lines(suite_file, tmp_path, capsys) -> None:
    arguments = ["run", str(suite_file), "--results", str(tmp_path / "r"), "--trials", "1"]
    assert cli.main(arguments) == 0
    path = next((tmp_path / "r").rglob("trials.jsonl"))
    path.write_bytes(path.read_bytes() + b'{"trial": 1, "repe')
    capsys.readouterr()
    assert cli.main([*arguments, "--trials", "2"]) == 0
    assert "trials.jsonl.bad-1" in capsys.readouterr().out.replace("\n", "")
    assert [r.trial for r in read_records(path)] == [0, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trainer: appo\nenv: Ant\nsettings: {num_envs: 0}\n", "c.yaml:3: settings.num_envs: Input should be greater"),
        ("trainer: appo\nenv: Ant\nsetings: {}\n", "c.yaml:3: setings: unknown key; did you mean 'settings'?"),
        ("trainer: appo\n", "env: is missing"),
        ("trainer: apo\nenv: Ant\n", "c.yaml:1: trainer: unknown trainer 'apo'"),
        ("trainer: appo\nenv: Antt\n", "c.yaml:2: env: unknown environment 'Antt'; did you mean 'Ant'?"),
        (
            "trainer: appo\nenv: Ant\nsettings: {learner_device: 'cuda:9'}\n",
            "_device: there is no device 'cuda:9'",
        ),
        (
            "trainer: appo\nenv: Ant\nnum_envs: 5\n",
            "c.yaml:3: num_envs: unknown key; it is a setting of the trainer: settings.n",
        ),
        (
            "trainer: sac\nenv: Antt\nsettings:\n  num_envs: '8'\n  algorithm: {learning_rate: 1, gamma: 7}\n",
            "settings.algorithm.learning_rate: unknown setting; did you mean 'algorithm.actor_learning_rate', "
            "'algorithm.alpha_learning_rate' or 'algorithm.critic_learning_rate'?\n",
        ),
        ("trainer: sac\nenv: Antt\nsettings:\n  num_envs: '8'\n  algorithm: {gamma: 7}\n", "error: 3 mistakes:\n"),
    ],
)
def test_train_refuses_a_wrong_configuration(tmp_path, capsys, text: str, words: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert cli.main(["train", str(path), "--out", str(tmp_path / "out")]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_of_the_other_kind_names_the_verb_that_takes_it(tmp_path, capsys) -> None:
    suite, configuration = tmp_path / "my suite.yaml", tmp_path / "my config.yaml"
    suite.write_text("name: a\ntrainer: appo\nenv: Ant\nsearch: {num_envs: [8]}\nlimits: {trials: 3}\n")
    configuration.write_text("trainer: appo\nenv: Ant\nsettings: {num_envs: 8}\n")
    for verb, given, meant in (
        ("train", suite, "run"), ("run", configuration, "train"), ("plan", configuration, "train"),
        ("validate", configuration, "train"),
    ):  # fmt: skip
        assert cli.main([verb, str(given)]) == 1
        error = capsys.readouterr().err
        assert error.endswith(f"python -m harness {meant} '{given}'\n") and error.count("\n") == 1


def test_a_setting_on_the_command_line_is_told_where_it_stands(tmp_path, capsys) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("trainer: appo\nenv: Ant\n")
    assert cli.main(["train", str(path), "--set", "num_envs=5"]) == 1
    error = "error: --set: num_envs: unknown key; it is a setting of the trainer: settings.num_envs\n"
    assert capsys.readouterr().err == error


def test_check_env_says_what_is_wrong(capsys) -> None:
    assert cli.main(["check-env", "tests.envs.mistaken:ArrayReward"]) == 1
    assert "wrong: ArrayReward: step() returned as the reward an array of shape (1,)" in capsys.readouterr().out
    assert cli.main(["check-env", "tests.envs.cart:Cart", "--set", "max_episode_steps=null"]) == 0
    said = capsys.readouterr().out
    assert "note: it has no time limit" in said and "observation [1], action [1], no time limit; nothing wrong" in said
    assert cli.main(["check-env", "tests.envs.mistaken:RewardAlone", "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem.startswith("RewardAlone: evaluate() returned an array of shape (2,)")


@pytest.mark.parametrize("verb", ["validate", "plan", "run", "train"])
def test_an_environment_is_tried_before_anything_is_started(tmp_path, capsys, verb: str) -> None:
    text = "trainer: sac\nenv: tests.envs.mistaken:RewardAlone\n" + ("" if verb == "train" else "name: a\n")
    (tmp_path / "c.yaml").write_text(text)
    out = {"train": ["--out", str(tmp_path / "out")], "validate": []}.get(verb, ["--results", str(tmp_path / "out")])
    assert cli.main([verb, str(tmp_path / "c.yaml"), *out]) == 1
    assert "c.yaml:2: env: RewardAlone: evaluate() returned an array of shape (2,)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_a_plan_says_that_returns_may_never_come(tmp_path, capsys) -> None:
    (tmp_path / "s.yaml").write_text("name: a\ntrainer: sac\nenv: tests.envs.mistaken:Endless\n")
    for limit, said in (("{}", True), ("{max_episode_steps: 9}", False)):
        assert cli.main(["validate", str(tmp_path / "s.yaml"), "--set", f"fixed.env_cfg={limit}"]) == 0
        assert ("note: tests.envs.mistaken:Endless: it has no time limit" in capsys.readouterr().out) is said
    (tmp_path / "s.yaml").write_text("name: a\ntrainer: sac\nenv: nowhere:Env\n")
    assert cli.main(["validate", str(tmp_path / "s.yaml")]) == 1
    assert "s.yaml:3: env: environment 'nowhere:Env': no module 'nowhere'" in capsys.readouterr().err


def test_machine_and_clean(capsys) -> None:
    assert cli.main(["machine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cores_usable"] >= 1
    assert cli.main(["clean", "--json"]) == 0
    assert "removed" in json.loads(capsys.readouterr().out)


def test_train_refuses_what_does_not_fit(tmp_path, capsys) -> None:
    path = tmp_path / "c.yaml"
    trainer = "tests.harness.fake_trainer:FakeTrainer"
    path.write_text(f"trainer: {trainer}\nenv: Fake\nsettings: {{host_bytes: 9000000000000000}}\n")
    assert cli.main(["train", str(path), "--out", str(tmp_path / "out")]) == 1
    assert "host needs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_study_is_found_by_id_name_suite_and_path_and_the_newest_without_a_name(tmp_path, capsys) -> None:
    for id, more in (("aaaa", {"name": "mine"}), ("bbbb", {}), ("cccc", {})):
        folder = write_study(tmp_path / "made_up" / id, [make_record(0), make_record(1)])
        run = {"started_at": f"2026-11-2{len(id)}T10:00:0{'abc'.index(id[0])}+00:00"}
        (folder / "manifest.json").write_text(json.dumps({"runs": [run], **more}))
    (tmp_path / "made_up" / "bbbb" / "best.yaml").unlink()
    options = ["--results", str(tmp_path)]
    found = {"aaaa": "aaaa", "mine": "aaaa", "made_up/bbbb": "bbbb", "made_up": "cccc", str(folder): "cccc"}
    for name, id in found.items():
        assert cli.main(["show", name, *options, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["study"] == id
    assert cli.main(["report", *options]) == 0 and "made_up/cccc/report.html" in capsys.readouterr().out
    assert cli.main(["list", "mine", *options]) == 0
    assert re.fullmatch(r"studies:\n  \S*/aaaa \(mine\)  2 trials, .*\n", capsys.readouterr().out)
    assert cli.main(["show", *options]) == 0
    shown = capsys.readouterr().out
    assert "made_up/cccc" in shown and "Limited now by" in shown and "partly the luckiest" in " ".join(shown.split())
    assert shown.endswith(f"Train with it: python -m harness train {folder / 'best.yaml'}\n")
    assert cli.main(["best", *options]) == 0
    assert capsys.readouterr().out == (folder / "best.yaml").read_text()
    assert cli.main(["best", "bbbb", *options]) == 1 and "has no best.yaml" in capsys.readouterr().err
    assert cli.main(["show", "other", *options]) == 1
    assert "other: is no study (" in (err := capsys.readouterr().err) and "made_up/aaaa, made_up/bbbb" in err
    assert cli.main(["show", "--results", str(tmp_path / "nowhere")]) == 1
    assert "nowhere: there are no studies yet; python -m harness run SUITE makes one" in capsys.readouterr().err


def test_a_study_is_deleted_unless_it_runs_or_the_name_stands_for_several(tmp_path, capsys, monkeypatch) -> None:
    results = tmp_path / "r"
    for id in ("aaaa", "bbbb"):
        write_study(results / "made_up" / id, [make_record(0)])
    remove = ["rm", "--results", str(results)]
    assert cli.main([*remove, "made_up"]) == 1
    assert "stands for 2 studies; name one of them" in capsys.readouterr().err
    with Study(results / "made_up" / "aaaa"):
        assert cli.main([*remove, "aaaa"]) == 1
    assert f"process {os.getpid()} on " in capsys.readouterr().err
    assert cli.main([*remove, "aaaa"]) == 0, "nothing is asked in a pipe"
    assert f"deleted {results / 'made_up' / 'aaaa'}: 5 files, " in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", answers := io.StringIO("n\ny\n"))
    monkeypatch.setattr(answers, "isatty", lambda: True)
    assert cli.main([*remove, "made_up"]) == 1 and (results / "made_up" / "bbbb").is_dir()
    assert "made_up/bbbb with all that is in it? [y/N] error: nothing was deleted" in capsys.readouterr().err
    assert cli.main([*remove, "made_up"]) == 0 and list(results.iterdir()) == []
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "suite.yaml").write_text("name: mine\n")
    assert cli.main([*remove, str(tmp_path / "own"), "--yes"]) == 1
    assert "no run made it; not deleted" in capsys.readouterr().err and (tmp_path / "own" / "suite.yaml").exists()


def test_report_of_one_study_and_of_several(tmp_path, capsys) -> None:
    for name in ("aaaa", "bbbb"):
        write_study(tmp_path / "made_up" / name, [make_record(0), make_record(1)])
    options = ["--results", str(tmp_path), "--json"]
    assert cli.main(["report", "made_up/aaaa", *options]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["html"] == str(tmp_path / "made_up" / "aaaa" / "report.html")
    assert Path(written["html"]).stat().st_size == written["bytes"]
    assert "made\\_up" in Path(written["markdown"]).read_text()
    assert cli.main(["report", "--compare", "made_up", *options]) == 0
    written = json.loads(capsys.readouterr().out)
    assert len(written["studies"]) == 2 and written["html"] == str(tmp_path / "comparison.html")
    assert "2 studies side by side" in Path(written["html"]).read_text()
    (tmp_path / "made_up" / "broken").mkdir()
    (tmp_path / "made_up" / "broken" / "suite.yaml").write_text("name: [")
    assert cli.main(["report", "--compare", "made_up", *options]) == 0
    written = json.loads(capsys.readouterr().out)
    assert len(written["studies"]) == 2 and "made_up/broken/suite.yaml" in written["left_out"][0]
    assert cli.main(["report", "--compare", "made_up/broken", *options]) == 1
    assert cli.main(["report", "nothing", *options]) == 1
    assert "is no study" in capsys.readouterr().err


def test_a_watched_run_ends_with_a_page_that_stays_as_it_is(suite_file, tmp_path, capsys) -> None:
    arguments = ["run", str(suite_file), "--results", str(tmp_path / "r"), "--trials", "1", "--watch", "--json"]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    page = Path(json.loads(captured.out)["folder"]) / "report.html"
    assert captured.err.count(f"{page} (open it in a browser") == 2
    assert "keeps itself current" in captured.err and "data-watched" not in page.read_text()


def test_ctrl_c_while_a_verb_is_being_loaded_shows_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    from harness.measure import host

    monkeypatch.setattr(host, "describe", interrupted)
    assert cli.main(["machine"]) == 130
