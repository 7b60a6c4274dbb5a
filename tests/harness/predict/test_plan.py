import itertools
import math
import tracemalloc
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness import cli
from harness.files.yaml_file import InputError, to_yaml
from harness.predict import plan as plans
from harness.predict import ranking
from harness.predict.ceilings import Ceilings, Measured
from harness.predict.next_trial import next_trial
from harness.stats.inference import LEVEL, needed_pairs
from harness.suite import schema
from harness.suite.space import Space
from harness.trainers import evidence, own
from harness.trainers.rounds import Cost
from tests.harness.predict.test_throughput import throughput

HEAD = "name: a\ntrainer: appo\nenv: HalfCheetah\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (HEAD + "fixed: {num_env: 3}\n", 4, "did you mean 'num_envs'?"),
        (HEAD + "fixed:\n  env_cfg: {frame_skp: 3}\n", 5, "fixed.env_cfg.frame_skp: unknown setting; did you mean"),
        (HEAD + "search:\n  env_cfg: [{}, {frame_skp: 3}]\n", 5, "frame_skp: unknown setting; did you mean"),
        (HEAD + "fixed:\n  num_envs: 0\n", 5, "fixed.num_envs: Input should be greater than or equal to 1, got 0"),
        (HEAD + "search:\n  learner_dtype: [float32, float16]\n", 5, "'float16'"),
        (HEAD + "search:\n  num_envs: {low: 0, high: 9}\n", 5, "greater than or equal to 1"),
        (HEAD + "search:\n  algorithm.learning_rat: [0.1]\n", 5, "did you mean 'algorithm.learning_rate'?"),
        (HEAD + "baseline: {algorithm.gamma: 2}\n", 4, "less than or equal to 1"),
        (HEAD + "search: {num_envs: [8, 16]}\nbaseline: {num_envs: 12}\n", 5, "12 is not in the search space"),
        (HEAD + "fixed: {num_envs: 8}\nsearch: {num_envs: [8, 16]}\n", 5, "fixed as well"),
        (HEAD + "search:\n  algorithm.gamma: {low: 0.9, high: 0.99}\nsampler: {name: grid}\n", 5, "needs a step"),
        (HEAD + "fixed: &all {num_env: 8}\nbaseline:\n  <<: *all\n", 5, "baseline.num_env: the trainer"),
        (HEAD.replace("appo", "apo"), 2, "did you mean 'appo'?"),
        (HEAD.replace("appo", "nowhere:Trainer"), 2, "No module named 'nowhere'"),
        (HEAD.replace("HalfCheetah", "HalfCheeta"), 3, "did you mean 'HalfCheetah'?"),
    ],
)
def test_settings_are_checked_against_the_trainer(tmp_path, text: str, line: int, words: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        plans.make(path)
    assert f"suite.yaml:{line}: " in str(caught.value)
    assert words in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["suite.yaml"]


WRONG = """\
nmae: a
trainer: sac
env: HalfCheeta
fixed: {algorithm: {gamma: 2}, updates_per_step: "1"}
search:
  algorithm:
    learning_rate: [0.1]
    num_critics: [2, 3]
  num_envs: {lo: 8, high: 16}
  batch_size: ["128", "256"]
baseline: {polcy: {layer_norm: true}}
objectives: [episode_return, bogus]
limits: {trails: 3, minutes: much}
"""
TOLD = """\
suite.yaml:1: nmae: unknown key; did you mean 'name'?
suite.yaml:3: env: unknown environment 'HalfCheeta'; did you mean 'HalfCheetah'?
suite.yaml:4: fixed.algorithm.gamma: Input should be less than or equal to 1, got 2
suite.yaml:4: fixed.updates_per_step: expected a whole number, got the string '1': write it unquoted
suite.yaml:7: search.algorithm.learning_rate: the trainer 'sac' has no such setting; did you mean \
'algorithm.actor_learning_rate', 'algorithm.alpha_learning_rate' or 'algorithm.critic_learning_rate'?
suite.yaml:9: search.num_envs.lo: unknown key; did you mean 'low'?
suite.yaml:10: search.batch_size: expected a whole number, got the string '128': write it unquoted
suite.yaml:11: baseline.polcy: the trainer 'sac' has no such setting;
suite.yaml:12: objectives.1.metric: unknown metric 'bogus'; known: async_efficiency,
suite.yaml:13: limits.minutes: Input should be a valid number, unable to parse string as a number, got 'much'
suite.yaml:13: limits.trails: unknown key; did you mean 'trials'?
--set: limits.trial: unknown key; did you mean 'trials'?
--set: num_slots: unknown key; a setting of the trainer is set as fixed.num_slots;
"""


def test_all_mistakes_are_told_at_once(tmp_path) -> None:
    (tmp_path / "suite.yaml").write_text(WRONG)
    with pytest.raises(InputError) as caught:
        plans.make(tmp_path / "suite.yaml", ["num_slots=3", "limits.trial=3"])
    first, *told = str(caught.value).replace(f"{tmp_path}/", "").splitlines()
    assert first == "13 mistakes:"
    for line in TOLD.splitlines():
        assert [one for one in told if one.strip().startswith(line)], f"{line}\nis not in\n" + "\n".join(told)


def test_a_wrong_value_in_a_list_is_one_mistake(tmp_path) -> None:
    (tmp_path / "suite.yaml").write_text(HEAD + "objectives: [env_steps_per_secnd]\n")
    with pytest.raises(InputError) as caught:
        plans.make(tmp_path / "suite.yaml")
    assert [part.key for part in caught.value.parts] == ["objectives.0.metric"]
    (tmp_path / "suite.yaml").write_text(HEAD + "objectives: []\n")
    with pytest.raises(InputError, match=r"objectives: .* at least 1 item"):
        plans.make(tmp_path / "suite.yaml")


def test_settings_may_be_nested_and_set_changes_them_however_they_are_written(tmp_path) -> None:
    nested, dotted = tmp_path / "nested.yaml", tmp_path / "dotted.yaml"
    nested.write_text(HEAD + "fixed: {algorithm: {gamma: 0.9}}\nsearch: {algorithm: {lam: {low: 0.8, high: 0.9}}}\n")
    dotted.write_text(HEAD + "fixed: {algorithm.gamma: 0.9}\nsearch: {algorithm.lam: {low: 0.8, high: 0.9}}\n")
    one, other = plans.make(nested), plans.make(dotted)
    assert one.suite == other.suite and one.study_id == other.study_id
    assert list(one.space.dimensions) == ["algorithm.lam"]
    for path in (nested, dotted):
        changed = plans.make(path, ["fixed.algorithm.gamma=0.8", "search.algorithm.lam=[0.7]"])
        assert changed.suite.fixed == {"algorithm.gamma": 0.8} and changed.space.ends("algorithm.lam") == (0.7,)


def test_absent_device_drops_out_of_the_search_and_is_an_error_when_asked_for(make_plan) -> None:
    plan = make_plan("search.device=[cpu, 'cuda:7']")
    assert plan.space.ends("device") == ("cpu",)
    assert plan.dropped == ("device: cuda:7 (not on this machine)",)
    assert plan.study_id == make_plan("search.device=[cpu]").study_id
    for asked in ("fixed.device='cuda:7'", "search.device=['cuda:7']", "baseline.device='cuda:7'"):
        with pytest.raises(InputError, match="there is no device 'cuda:7' on this machine"):
            make_plan(asked)


def test_baseline_is_completed_from_defaults_or_the_first_value(make_plan) -> None:
    plan = make_plan("search.mode=[sync, async]", "search.inner.rate=[3.0, 2.0]", "baseline.seed=4")
    assert plan.baseline == {"speed": 20, "mode": "async", "inner.rate": 3.0, "seed": 4}
    assert plan.settings(plan.baseline)["env"] == "Fake"


def test_trials_and_time(make_plan) -> None:
    plan = make_plan("limits.trials=9", "measure.repeats=2", "confirm={top: 2, repeats: 3}")
    assert plan.space.size == 4
    assert plan.trials == 4  # no more configurations than there are
    assert plan.again().confirm == 2 * 3 + 4  # two candidates, and the baseline at both ends of two blocks
    assert plan.again().second_look == 3 * 2  # three candidates for two places
    assert plan.seconds == pytest.approx(24 * (plans.PROCESS_SECONDS + 0.3) - 4 * 2 * 0.15)  # first looks take half
    assert make_plan("search.inner.rate={low: 0.1, high: 0.2}").space.size == math.inf


def test_a_budget_of_return_at_decides_how_long_a_repeat_is(make_plan) -> None:
    assert make_plan("measure={warmup_seconds: 1, return_at: {seconds: 40}}").repeat_seconds == 46
    assert make_plan("measure={return_at: {env_steps: 1000}}").repeat_seconds == 30  # trial_timeout_seconds


def test_memory_of_baseline_and_corners(make_plan) -> None:
    plan = make_plan("search.host_bytes=[1000, 2000000000000000]", "baseline.host_bytes=1000")
    rows = dict(plan.memory())
    assert rows["baseline"].fits and rows["smallest"].fits
    assert not rows["largest"].fits
    assert rows["largest"].host_bytes == 2_000_000_000_000_000
    assert "ring" in rows["largest"].reason


@pytest.mark.parametrize(
    "name",
    [
        "smoke", "appo_throughput", "appo_reward", "offpolicy_throughput", "offpolicy_reward", "learning_appo",
        "learning_sac", "learning_td3", "learning_rest", "go1_velocity", "g1_forward", "time_to_walk",
    ],
)  # fmt: skip
def test_shipped_suites_are_valid_and_fit(name: str) -> None:
    plan = plans.make(f"suites/{name}.yaml")
    assert plan.suite.name == name
    assert plan.fit(plan.baseline).fits


@pytest.mark.parametrize("file", sorted(Path("suites").glob("*.yaml")), ids=lambda file: file.stem)
def test_confirmations_of_shipped_suites_can_show_a_difference(file: Path) -> None:
    suite = schema.read(file).suite
    if suite.confirm is None or file.stem == "smoke" or file.stem.endswith("_grid"):  # grids judge searches
        return
    candidates = suite.confirm.top + len(suite.pinned)
    assert suite.confirm.repeats >= needed_pairs(LEVEL / candidates)


@pytest.mark.parametrize("name", ["appo_reward", "offpolicy_reward"])
def test_reward_suites_repeat_their_configurations(name: str) -> None:
    plan = plans.make(f"suites/{name}.yaml")
    assert plan.trials == 2 and plan.suite.measure.repeats == 5
    assert 10 * 200 < plan.seconds <= 60 * 60


def test_the_size_of_a_wide_range_is_counted_not_listed() -> None:
    wide = Space({
        "num_envs": IntDistribution(1, 5_000_000), "b": FloatDistribution(0.0, 1e6, step=0.5),
        "c": CategoricalDistribution(["x", "y"]),
    })  # fmt: skip
    tracemalloc.start()
    size, first = wide.size, list(itertools.islice(wide.grid(), 3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 5_000_000 * 2_000_001 * 2 and peak < 2**20
    assert first == [{"num_envs": 1, "b": b, "c": c} for b, c in ((0.0, "x"), (0.0, "y"), (0.5, "x"))]


def test_nested_settings_are_read_as_in_train(make_plan) -> None:
    nested = make_plan("fixed={inner: {rate: 2.0}, layers: [3]}", "baseline={speed: 20, inner: {}}")
    dotted = make_plan("fixed.inner.rate=2.0", "fixed.layers=[3]")
    assert nested.suite.fixed == {"inner.rate": 2.0, "layers": [3]} and nested.study_id == dotted.study_id
    with pytest.raises(InputError, match=r"fixed\.inner\.rate: is there twice") as caught:
        make_plan("fixed={inner: {rate: 2.0}, inner.rate: 3.0}")
    assert "no such setting" not in str(caught.value)


def test_an_error_in_nested_settings_names_its_line(tmp_path) -> None:
    path = tmp_path / "nested.yaml"
    path.write_text(HEAD + "fixed:\n  algorithm:\n    gamma: 2\n")
    with pytest.raises(InputError, match=r":6: fixed\.algorithm\.gamma: "):
        plans.make(path)


def test_what_is_pinned_is_completed_from_the_baseline_and_is_in_the_search_space(make_plan) -> None:
    space = ("search={speed: [20, 40], inner.rate: [1.0, 2.0]}", "baseline={speed: 20, inner.rate: 2.0, seed: 4}")
    plan = make_plan(*space, "pinned={fast: {speed: 40}, slow: {inner: {rate: 1.0}}}", "confirm={top: 1, repeats: 6}")
    assert plan.pinned == {"fast": {"speed": 40, "inner.rate": 2.0}, "slow": {"speed": 20, "inner.rate": 1.0}}
    assert plan.study_id == make_plan(*space).study_id, "a study may be extended by it"
    assert plan.again(3).confirm == make_plan(*space, "confirm={top: 1, repeats: 6}").again(3).confirm + 12
    for wrong, problem in (("speed: 50", "50 is not in the search space"), ("seed: 5", "only what is searched")):
        with pytest.raises(InputError, match=problem):
            make_plan(*space, f"pinned={{other: {{{wrong}}}}}")


def test_a_plan_shows_what_is_pinned(suite_file, capsys) -> None:
    assert cli.main(["plan", str(suite_file), "--set", "pinned={fast: {speed: 80}}"]) == 0
    assert "pinned:   fast: speed=80" in capsys.readouterr().out


# -- search: {placement: auto}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with so many cores, which may have products of bfloat16; no table says what learns as well."""
    monkeypatch.setattr(evidence, "shipped", tuple)

    def of(cores: int, bfloat16: bool = True) -> None:
        monkeypatch.setattr(own, "usable_cores", lambda: cores)
        monkeypatch.setattr(own, "computes_bfloat16", lambda: bfloat16)

    return of


AUTO = HEAD + "search: {placement: auto, num_envs: [64, 128], num_slots: [1, 3]}\n"


def test_auto_is_what_the_trainer_and_the_machine_give_beside_what_the_suite_states(tmp_path, machine) -> None:
    path = tmp_path / "auto.yaml"
    path.write_text(AUTO + "fixed: {mode: async}\nbaseline: {learner_dtype: bfloat16, learner_threads: 3}\n")

    def searched() -> dict[str, tuple]:
        plan = plans.make(path)
        return {name: plan.space.ends(name) for name in plan.space.dimensions if not name.endswith("_device")}

    machine(2)
    assert searched() == {
        "num_envs": (64, 128), "num_slots": (1, 3), "when_full": ("wait", "drop_oldest"),
        "learner_dtype": ("bfloat16", "float32"), "env_threads": (None, 1), "learner_threads": (3, None, 1),
        "collector_cores": (None, 1), "learner_cores": (None, 1),
    }  # fmt: skip
    machine(16, bfloat16=False)
    assert searched()["env_threads"] == (None, 4, 8, 12)
    assert searched()["learner_dtype"] == ("bfloat16", "float32"), "the baseline says so"
    machine(1)
    assert searched()["env_threads"] == (None,)


def test_a_study_keeps_what_auto_became(machine) -> None:
    machine(2)
    plan = plans.make("suites/appo_throughput.yaml")
    assert plan.notes == (
        "search.placement is auto, which is here: mode, num_slots, when_full, collector_device, learner_device, "
        "learner_dtype, collector_cores, learner_cores, env_threads, learner_threads",
    )
    as_run = to_yaml(plan.suite.to_dict())
    machine(16, bfloat16=False)
    again = plans.complete(schema.parse(as_run))
    assert again.suite == plan.suite and again.study_id == plan.study_id and again.notes == ()
    assert plans.make("suites/appo_throughput.yaml").study_id != plan.study_id


def test_threads_that_the_cores_of_their_side_give_anyway_are_no_other_configuration() -> None:
    trainer = own.APPOTrainer()
    for threads in (None, 1):
        stated = {"collector_cores": 1, "env_threads": threads}
        assert "env_threads" in trainer.idle(stated) and "learner_threads" not in trainer.idle(stated)
    assert "env_threads" not in trainer.idle({"collector_cores": 1, "env_threads": 2})
    assert not {"env_threads", "learner_threads"} & trainer.idle({})
    assert {"collector_cores", "learner_cores"} <= trainer.idle({"mode": "sync"})


def test_cores_that_are_not_there_are_a_mistake_with_its_line(tmp_path) -> None:
    path = tmp_path / "cores.yaml"
    path.write_text(HEAD + "fixed: {collector_cores: [0, 9999]}\n")
    with pytest.raises(InputError, match=r"fixed.collector_cores: this process may not run on \[9999\]; it may on"):
        plans.make(path)


@pytest.mark.parametrize("name", ["appo", "sac", "td3"])
def test_auto_changes_placement_alone(name: str) -> None:
    trainer = own.APPOTrainer() if name == "appo" else own.SACTrainer() if name == "sac" else own.TD3Trainer()
    found = trainer.placements({})
    assert {trainer.changes()[setting] for setting in found} == {"placement"}
    assert "learner_threads" in trainer.idle({"learner_device": "cuda"}), "which has no threads to choose"
    for setting, values in found.items():
        assert values[0] == trainer.defaults()[setting]
        for value in values:
            trainer.check({setting: value})


def test_compilation_is_tried_where_there_is_a_gpu(monkeypatch) -> None:
    assert "algorithm.enable_compile" not in own.SACTrainer().placements({}) or "cuda" in own.available_devices()
    monkeypatch.setattr(own, "available_devices", lambda: ["cpu", "cuda"])
    assert own.APPOTrainer().placements({})["algorithm.enable_compile"] == (False, True)


def test_a_trainer_that_does_not_say_what_auto_is_is_told_with_its_line(suite_file) -> None:
    suite_file.write_text(suite_file.read_text().replace("  speed: [10, 20, 40, 80]", "  placement: auto"))
    with pytest.raises(InputError, match=r"fake.yaml:5: search\.placement: the trainer .* does not say what auto is"):
        plans.make(suite_file)


@pytest.mark.parametrize(("suite", "kind"), [("appo", "gradient"), ("offpolicy", "update")])
def test_the_search_begins_with_bfloat16_where_it_was_measured_to_be_faster(suite: str, kind: str, machine) -> None:
    machine(2)
    plan = plans.make(f"suites/{suite}_throughput.yaml")
    assert plan.baseline["learner_dtype"] == "float32" and plan.baseline["learner_threads"] is None
    found = ranking.candidates(plan, 2)
    needed = Ceilings("m", 2).missing(ranking.parts(found))
    assert len(needed) <= 20, "their measuring takes a part of the time"
    halves = {"bfloat16": 0.01, "float32": 0.02}
    seconds = [halves[part.settings["learner_dtype"]] if part.kind == kind else 0.001 for part in needed]
    costs = [Measured(part, Cost(s, s)) for part, s in zip(needed, seconds, strict=True)]
    known = ranking.Prediction(plan, Ceilings("m", 2, measured=costs), found)
    first = next_trial(plan, known.ranking, [(plan.configurations[0], 1000.0)])
    assert first is not None and first.params["learner_dtype"] == "bfloat16"
    fast, slow = (throughput(known, plan.settings({"learner_dtype": dtype})) for dtype in halves)
    assert fast > 1.3 * slow
