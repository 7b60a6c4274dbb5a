"""``train``: what it leaves in its folder, and what it does not replace."""

import json
import re
import resource
import signal
import sys

import altair as alt
import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from harness import cli
from harness.report import training_run
from harness.report.page.curves import POINTS
from harness.runs import training
from tests.algos.appo.counting_env import CountingEnv
from unilab.run.checkpoint import load_checkpoint

ENV = "tests.algos.appo.counting_env:CountingEnv"
SETTINGS = """\
  {mode: sync, num_envs: 8, steps_per_env: 8, network.actor: [4], network.critic: [4], env_threads: 1,
   learner_threads: 1, algorithm.num_learning_epochs: 1}
"""
CONFIG = f"trainer: appo\nenv: {ENV}\nsettings:\n{SETTINGS}"
OF_ENV = (ENV, "--set", f"settings={SETTINGS}")


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Runs the verb in a folder of its own; exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG)

    def run(*arguments):
        capsys.readouterr()
        code = cli.main(["train", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "c"


def iteration(path):
    return load_checkpoint(path)["progress"]["iteration"]


def test_a_folder_with_a_checkpoint_is_resumed_or_overwritten_never_silently(train, folder):
    assert train("c.yaml", "--iterations", 2)[0] == 0
    before = (folder / "checkpoint.pt").read_bytes()
    code, out, err = train("c.yaml", "--iterations", 1)
    assert code == 1 and "writing" not in out
    assert "runs/c: holds checkpoint.pt of another run" in err
    assert all(option in err for option in ("--resume", "--overwrite", "--out"))
    assert (folder / "checkpoint.pt").read_bytes() == before
    assert train("c.yaml", "--iterations", 5, "--resume")[0] == 0
    assert iteration(folder / "checkpoint.pt") == 5
    assert train("c.yaml", "--iterations", 3, "--overwrite")[0] == 0
    assert iteration(folder / "checkpoint.pt") == 3
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1, "TensorBoard would draw both runs as one"


def test_the_checkpoint_of_another_run_is_not_replaced_by_one_that_goes_on_from_elsewhere(train, folder, tmp_path):
    for name in ("one", "two"):
        assert train("c.yaml", "--iterations", 1, "--out", name)[0] == 0
    code, _, err = train("c.yaml", "--iterations", 2, "--out", "two", "--resume", "one/checkpoint.pt")
    assert code == 1 and "--overwrite" in err and "--resume" not in err
    assert train("c.yaml", "--iterations", 2, "--out", "three", "--resume", "one")[0] == 0
    assert iteration(tmp_path / "three" / "checkpoint.pt") == 2


def test_the_metrics_of_a_run_go_when_another_replaces_it_and_stay_when_it_goes_on(train, folder):
    def iterations():
        return pd.read_csv(folder / "curve.csv")["iteration"].tolist()

    assert train("c.yaml", "--iterations", 1, "--out", "other")[0] == 0
    assert train("c.yaml", "--iterations", 1)[0] == 0
    assert train("c.yaml", "--iterations", 3, "--resume", "--overwrite")[0] == 0
    assert iterations()[0] == 1 and len(list(folder.glob("events.out.tfevents.*"))) == 2
    assert train("c.yaml", "--iterations", 2, "--resume", "other/checkpoint.pt", "--overwrite")[0] == 0
    assert iterations() == [2] and len(list(folder.glob("events.out.tfevents.*"))) == 1


def test_the_folder_is_named_after_what_is_trained(train, tmp_path):
    code, _, err = train("Walker2d", "--set", "settings.env=Hopper", "--iterations", 1)
    assert code == 1 and err == "error: --set: settings.env: the environment is set by 'env' at the top\n"
    assert train("Walker2d", "--set", f"env={ENV}", "--set", f"settings={SETTINGS}", "--iterations", 1)[0] == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["appo-tests.algos.appo.counting_env-CountingEnv"]


FOREIGN = "tests.harness.trainers.adapters.fake_driver:FakeForeign"


@pytest.mark.parametrize("seeds", [(), ("--seeds", 2)])
def test_a_package_that_starts_anew_each_time_is_not_resumed_and_nobody_says_so(seeds, train, tmp_path, monkeypatch):
    arguments = (ENV, "--trainer", FOREIGN, "--iterations", 1, *seeds)
    said = f"error: --resume: {FOREIGN} starts anew each time; leave --resume out\n"
    assert train(*arguments, "--resume") == (1, "", said)
    monkeypatch.setattr(training, "exit_code", lambda summary: 130)
    _, out, _ = train(*arguments)
    assert "--resume" not in out
    code, _, err = train(*arguments)
    assert code == 1 and "of another run; --overwrite replaces it, --out names another folder" in err


def test_an_environment_is_trained_in_without_a_file(train, tmp_path):
    assert train(*OF_ENV, "--iterations", 2)[0] == 0
    folder = tmp_path / "runs" / "appo-tests.algos.appo.counting_env-CountingEnv"
    kept = YAML(typ="safe").load(folder / "config.yaml")
    assert kept["trainer"] == "appo" and kept["env"] == ENV and kept["settings"]["num_envs"] == 8
    assert iteration(folder / "checkpoint.pt") == 2
    assert train(folder.relative_to(tmp_path), "--resume", "--iterations", 3)[0] == 0
    code, _, err = train("Hopper", "--trainer", "td3", "--set", "settings.num_env=8")
    assert code == 1 and "--set: settings.num_env: " in err and "'num_envs'" in err


def test_what_is_neither_file_nor_environment_is_told_with_near_names(train, tmp_path):
    (tmp_path / "results" / "my_suite" / "aaaa").mkdir(parents=True)
    (tmp_path / "results" / "my_suite" / "aaaa" / "suite.yaml").write_text("")
    told = "is no file, no folder of a run, no study in results and no environment; did you mean"
    for given, near in (("HalfCheeta", "HalfCheetah"), ("my_suit", "my_suite")):
        assert train(given) == (1, "", f"error: {given}: {told} '{near}'?\n")
    told = "error: train Hoper: env: unknown environment 'Hoper'; did you mean 'Hopper'?\n"
    assert train("Hoper", "--trainer", "sac") == (1, "", told)
    assert "unknown trainer 'sacc'; did you mean 'sac'?" in train("Hopper", "--trainer", "sacc")[2]
    assert "c.yaml: --trainer sac: is for an environment" in train("c.yaml", "--trainer", "sac")[2]
    assert "missing.yaml: cannot be read: No such file" in train("missing.yaml")[2]


@pytest.mark.parametrize("setting", ["settings.env_cfg.frame_skp=3", "settings.env_cfg={frame_skp: 3}"])
def test_a_wrong_setting_of_an_environment_is_told_before_anything_is_written(setting, train, tmp_path):
    code, out, err = train("HalfCheetah", "--set", setting)
    told = "error: --set: settings.env_cfg.frame_skp: unknown setting; did you mean 'frame_skip'?\n"
    assert (code, out, err) == (1, "", told)
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize("trainer", ["appo", "harness.trainers.adapters.sb3:PPO"])
def test_a_robot_without_its_model_is_told_before_anything_is_written(trainer, train, tmp_path, monkeypatch):
    monkeypatch.delenv("MENAGERIE_ROOT", raising=False)
    monkeypatch.setattr("unilab.envs.robots.models.DATA_WHEELS", ("no-such-wheel", "nor-this-one"))
    monkeypatch.setitem(sys.modules, "mujoco_menagerie", None)
    code, out, err = train("Velocity-Go1", "--trainer", trainer)
    assert (code, out) == (1, "")
    assert err.startswith("error: train Velocity-Go1: env: the model of unitree_go1 is not on this machine (")
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_several_seeds_train_in_folders_of_their_own_and_have_an_interval(train, folder):
    code, out, _ = train("c.yaml", "--seeds", 5, "--iterations", 2, "--set", "settings.seed=3")
    assert code == 0 and "seed 7, 5 of 5:" in out
    assert "seed 3: return 3.5 (runs/c/seed-3)\n" in out
    assert "\nreturn 3.5, interquartile mean of 5 seeds; 95 % interval 3.5 to 3.5\n" in out
    for seed in range(3, 8):
        assert iteration(folder / f"seed-{seed}" / "checkpoint.pt") == 2
        assert YAML(typ="safe").load(folder / f"seed-{seed}" / "config.yaml")["settings"]["seed"] == seed
    assert "seed-3: holds checkpoint.pt of another run" in train("c.yaml", "--seeds", 2, "--iterations", 2,
                                                                 "--set", "settings.seed=3")[2]  # fmt: skip
    # one that is there goes on, others begin
    code, out, _ = train("c.yaml", "--seeds", 2, "--iterations", 3, "--set", "settings.seed=7", "--resume", "--json")
    assert code == 0 and [iteration(folder / f"seed-{seed}" / "checkpoint.pt") for seed in (6, 7, 8)] == [2, 3, 3]
    told = json.loads(out)
    assert [one["mean_return"] for one in told["seeds"]] == [3.5, 3.5]
    assert told["mean_return"] == 3.5 and told["interval"] is None


def test_several_seeds_need_a_length_and_a_policy_that_is_played(train, tmp_path):
    (tmp_path / "blind.yaml").write_text("trainer: tests.harness.study.test_environments:Blind\nenv: Fake\n")
    told = train("blind.yaml", "--seeds", 2, "--iterations", 1)
    assert told[0] == 1 and "Blind' is not evaluated by this harness" in told[2]
    assert "Add --minutes M or --iterations N" in train("c.yaml", "--seeds", 2)[2]
    refused = train("c.yaml", "--seeds", 2, "--iterations", 1, "--resume", "c.pt")
    assert refused[0] == 1 and "leave out the name behind --resume" in refused[2]


def test_a_resume_needs_a_checkpoint(train):
    code, _, err = train("c.yaml", "--resume")
    assert code == 1 and "runs/c/checkpoint.pt: no such checkpoint" in err


def test_the_end_says_where_things_are_and_how_to_go_on(train, folder):
    out = train("c.yaml", "--iterations", 20)[1]
    assert out.startswith("writing to runs/c; Ctrl-C ends it with a checkpoint\n")
    for line in (
        "checkpoint: runs/c/checkpoint.pt",
        "best by return: runs/c/best.pt",
        "Try it: python -m harness eval runs/c/checkpoint.pt",
        "Go on with it: python -m harness train runs/c --resume",
        "Look at it: python -m harness report runs/c",
        "All metrics: tensorboard --logdir runs/c",
    ):
        assert line in out.splitlines()
    assert train("runs/c", "--resume", "--iterations", 22)[0] == 0  # as it says
    assert iteration(folder / "checkpoint.pt") == 22


def test_a_run_keeps_its_configuration_and_its_curve(train, folder):
    code, out, _ = train("c.yaml", "--iterations", 4, "--set", "settings.seed=7", "--json")
    assert code == 0 and json.loads(out)["folder"] == "runs/c"
    kept = YAML(typ="safe").load(folder / "config.yaml")
    assert kept["trainer"] == "appo" and kept["settings"]["seed"] == 7 and kept["settings"]["num_slots"] == 1
    curve = pd.read_csv(folder / "curve.csv")
    assert curve["iteration"].tolist() == [1, 4]  # the first, and the last
    assert curve["env_steps"].tolist() == [64, 256] and curve["episode_return"].notna().all()
    assert train("runs/c", "--resume", "--iterations", 6)[0] == 0
    assert pd.read_csv(folder / "curve.csv")["iteration"].tolist() == [1, 4, 5, 6]


def test_what_an_earlier_run_left_stays_until_the_first_iteration_is_done(train, folder):
    assert train("c.yaml", "--iterations", 2)[0] == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ArithmeticError, match="planned failure"):
        train(
            "c.yaml", "--overwrite", "--set", "settings.env_cfg={fail_at: 900}", "--set", "settings.steps_per_env=999"
        )
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_what_cannot_be_evaluated_is_one_line(train, tmp_path, capsys):
    (tmp_path / "model.zip").write_bytes(b"PK\x05\x06" + bytes(18))  # an empty archive
    for name, words in (("c.yaml", "not a checkpoint of this program"), (".", "checkpoint.pt: no such checkpoint"),
                        ("model.zip", "not a checkpoint of this program")):  # fmt: skip
        assert cli.main(["eval", name]) == 1
        err = capsys.readouterr().err
        assert words in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["eval", "c.pt", "--seed", "-1"], ["run", "c.yaml", "--seed", "-1"]])
def test_a_negative_seed_is_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "expected a whole number, 0 or more, got -1" in capsys.readouterr().err


@pytest.mark.parametrize("trainer", ["appo", "sac", "harness.trainers.adapters.sb3:PPO"])
def test_a_negative_seed_is_a_wrong_setting(trainer, train, tmp_path):
    (tmp_path / "seed.yaml").write_text(f"trainer: {trainer}\nenv: Hopper\nsettings: {{seed: -1}}\n")
    code, _, err = train("seed.yaml")
    assert code == 1 and "seed.yaml:3: settings.seed: Input should be greater than or equal to 0, got -1" in err


def test_evaluating_for_long_shows_progress(train, folder, monkeypatch, capsys):
    assert train("c.yaml", "--iterations", 1)[0] == 0
    monkeypatch.setattr("harness.report.live.PLAIN_SECONDS", 0)
    assert cli.main(["eval", str(folder), "--episodes", "6", "--num-envs", "2"]) == 0
    captured = capsys.readouterr()
    assert re.search(r"^4 of 6 episodes, 1\d steps, return 3.5, .* left$", captured.err, re.MULTILINE)
    assert "over 6 episodes" in captured.out
    assert cli.main(["eval", str(folder), "--episodes", "1"]) == 0
    assert capsys.readouterr().out.endswith(": return 4.0 in 1 episode\n"), "one return has neither spread nor range"


class Judging(CountingEnv):
    """It is always solved."""

    def judge(self, policy, episodes, seed):
        return {"success": True}


@pytest.mark.parametrize(("episodes", "said"), [(2, True), (256, False)])
def test_success_of_few_episodes_is_told_with_the_number_that_is_meant(train, folder, capsys, episodes, said):
    assert train("c.yaml", "--iterations", 1, "--set", f"env={__name__}:Judging")[0] == 0
    assert cli.main(["eval", str(folder), "--episodes", str(episodes)]) == 0
    assert ("success is meant over 256 episodes: --episodes 256" in capsys.readouterr().out) == said


def test_report_makes_a_page_of_a_run(train, folder, capsys):
    options = ("--set", "settings.eval_interval=2", "--set", "settings.eval_episodes=4")
    assert train("c.yaml", "--iterations", 20, *options)[0] == 0
    assert cli.main(["report", "runs/c", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["html"] == "runs/c/report.html" and written["studies"] == ["runs/c"]
    assert "appo on tests.algos.appo.counting_env:CountingEnv" in (folder / "report.html").read_text()
    text = (folder / "report.md").read_text()
    assert "**3.5** return at the end, evaluation" in text
    evaluation = text.partition("**Return, evaluation:**")[2].splitlines()[0]  # the first one may come later
    assert re.search(r"3\.5 at the end, at best 3\.5 after [\d,]+ env steps", evaluation), evaluation
    assert "1,280 env steps in" in text and "best.pt, checkpoint.pt" in text
    assert "python -m harness train runs/c --resume" in text and "num_slots: 1" in text


def test_a_page_of_a_run_has_its_curve(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    seconds = np.arange(1000) / 10
    evaluated = np.where(seconds < 50, np.nan, np.where(seconds < 80, 7.0, 9.0))
    frame = pd.DataFrame(
        {"iteration": range(1, 1001), "env_steps": 100 * seconds, "wall_seconds": seconds, "updates": 1,
         "episode_return": seconds, "eval_return": evaluated}
    )  # fmt: skip
    frame.to_csv(tmp_path / "curve.csv", index=False)
    page = training_run.page(tmp_path)
    assert {name: len(rows) for name, rows in page.data.items()} == {
        "return_wall_seconds": POINTS + 2, "return_env_steps": POINTS + 2, "speed": POINTS,
    }  # fmt: skip
    played = [(row["x"], row["y"]) for row in page.data["return_wall_seconds"] if row["name"] == "evaluation"]
    assert played == [(50, 7), (80, 9)]
    assert {row["y"] for row in page.data["speed"]} == {100}
    for chart in page.sections[0].charts:
        alt.Chart.from_dict(dict(chart.spec))  # as the schema of Vega-Lite has it
    assert page.first_screen.command is None and page.sections[-1].code[0].caption == "config.yaml"
    for saved, offered in (("model.zip", False), ("checkpoint.pt", True)):  # of another package; of this project
        (tmp_path / saved).touch()
        page = training_run.page(tmp_path)
        assert saved in dict(page.first_screen.facts)["Checkpoints"]
        assert (page.first_screen.command is not None) == offered
        assert any("harness eval" in code.text for code in page.sections[-1].code) == offered
    (tmp_path / "curve.csv").write_text("")
    assert training_run.page(tmp_path).first_screen.headline == "No result"


@pytest.fixture
def file_size():
    """Sets the size that no file may exceed, which is as good as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("size", "file", "what"),
    [(15_000, "checkpoint.pt", "the checkpoint cannot be written: File too large"),
     (3_000, "events.out.tfevents", "the metrics cannot be written: File too large")],
)  # fmt: skip
def test_a_full_disk_stops_training_with_one_line(size, file, what, train, folder, file_size):
    file_size(size)
    code, _, err = train("c.yaml", "--iterations", 7)
    assert code == 1 and len(err.splitlines()) == 1
    assert err.startswith(f"error: runs/c/{file}") and what in err
    assert "Nothing was saved before" in err and not list(folder.glob("*.pt"))


def test_a_disk_that_fills_up_keeps_what_was_saved_before(train, folder, file_size):
    assert train("c.yaml", "--iterations", 2)[0] == 0
    size = (folder / "checkpoint.pt").stat().st_size
    file_size(size - 100)
    code, _, err = train("c.yaml", "--iterations", 3, "--resume")
    assert code == 1 and len(err.splitlines()) == 1
    assert "go on with it: python -m harness train runs/c --resume" in err
    assert iteration(folder / "checkpoint.pt") == 2


@pytest.mark.parametrize(
    ("out", "words"),
    [("c.yaml", "c.yaml: Not a directory"), ("c.yaml/deeper", "c.yaml: Not a directory"), ("/proc/nothing", "No such")],
)  # fmt: skip
def test_out_that_is_no_folder_or_cannot_be_one_is_said(out, words, train, tmp_path):
    code, _, err = train("c.yaml", "--iterations", 1, "--out", out)
    assert code == 1 and len(err.splitlines()) == 1
    assert err.startswith(f"error: {out}: cannot be written") and words in err and "--out" in err
