"""Goals of ``tune``: each is a suite that is right, searches what it says, and can be run again from its file."""

from pathlib import Path

import pytest

from harness import cli
from harness.cli import run
from harness.files.yaml_file import to_yaml
from harness.predict import plan as plans
from harness.suite import recipes, schema
from harness.suite.recipes import GoalError, recipe
from harness.trainers import trainer as trainers

GIB = 2**30


def plan(trainer: str, goal: str, minutes: float | None = None) -> plans.Plan:
    return plans.complete(schema.parse(to_yaml(recipe("Hopper", trainer, goal, minutes, 16 * GIB))))


@pytest.mark.parametrize("trainer", ["appo", "sac", "td3"])
@pytest.mark.parametrize("goal", ["throughput", "time-to-return=3000", "memory=8GB"])
def test_each_goal_is_a_suite_that_searches_what_it_says(trainer: str, goal: str) -> None:
    made, changes = plan(trainer, goal), trainers.get(trainer).changes()
    learns = goal.startswith("time")
    assert {changes[name] for name in made.space.dimensions} == {"learning" if learns else "placement"}
    assert made.suite.learns == learns and made.suite.confirm is not None
    assert made.suite.name == f"tune_Hopper_{trainer}_{goal.replace('=', '-')}"
    assert made.suite.limits.minutes == (60 if learns else 10)
    assert made.suite.limits.trials == (10 if learns else 16) and made.again().confirm == 12
    assert (
        made.trials + made.again().second_look + made.again().confirm
    ) * made.repeat_seconds <= 60 * made.suite.limits.minutes, "all of which the time is enough for"


def test_a_bound_of_memory_holds_for_what_is_predicted_and_for_what_is_measured() -> None:
    constraints = plan("appo", "memory=4GiB").suite.constraints
    assert constraints.host_memory_fraction == 0.25 and constraints.metrics["peak_host_bytes"].max == 4 * GIB
    tight = plan("appo", "memory=100MB")
    assert not tight.fit(tight.baseline).fits
    assert plan("appo", "memory=64GB").suite.constraints.host_memory_fraction == 0.8


def test_time_to_return_shares_its_minutes_among_the_trials() -> None:
    long, short = (plan("sac", "time-to-return=1e3", minutes).suite.measure for minutes in (60, 30))
    assert long.target_return == 1000 and long.return_at.seconds == 157 and short.return_at.seconds == 75


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ("speed", r"expected throughput, time-to-return=RETURN or memory=SIZE"),
        ("throughput=3", "expected throughput,"),
        ("time-to-return", "such as time-to-return=3000 or memory=8GB"),
        ("time-to-return=high", "expected the return that is to be reached"),
        ("memory=8", "expected a size in MB, GB, MiB, GiB, as in memory=8GB"),
        ("memory=0GB", "expected a size"),
    ],
)
def test_a_goal_that_there_is_not_is_told(goal: str, words: str) -> None:
    with pytest.raises(GoalError, match=words):
        recipe("Hopper", "appo", goal, None, GIB)


def test_a_trainer_without_a_recipe_is_told() -> None:
    with pytest.raises(GoalError, match="'a:B' has no recipe; there is one for appo, sac, td3"):
        recipe("Hopper", "a:B", "time-to-return=1", None, GIB)


def test_tune_runs_what_its_suite_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    ran: list[plans.Plan] = []
    monkeypatch.setattr(run, "_run", lambda arguments, made, *others: ran.append(made) or 0)
    options = ["--trainer", "sac", "--minutes", "5", "--set", "fixed.num_envs=8", "--results", str(tmp_path)]
    assert cli.main(["tune", "Hopper", *options]) == 0
    (tmp_path / "suite.yaml").write_text(to_yaml(ran[0].suite.to_dict()))
    assert cli.main(["run", str(tmp_path / "suite.yaml"), "--results", str(tmp_path)]) == 0
    assert ran[0].folder(tmp_path) == ran[1].folder(tmp_path) and ran[1].suite.limits.minutes == 5
    assert ran[1].suite.fixed == {"num_envs": 8}
    assert cli.main(["tune", "Hoper"]) == 1
    assert "env: unknown environment 'Hoper'; did you mean 'Hopper'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["tune", "Hopper", "--goal", "time-to-return=3000", "--minutes", "nan"])
    assert "--minutes: expected a number above 0, got nan" in capsys.readouterr().err
    assert recipes.MINUTES["throughput"] == 10
