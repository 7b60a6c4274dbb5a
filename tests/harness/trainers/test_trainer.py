"""The trainers by name: settings, contradictions, budgets; and what plans make of contradictions."""

import math
from pathlib import Path

import pytest

from harness.files.yaml_file import InputError
from harness.measure.process import Outcome
from harness.predict import checks
from harness.predict import plan as plans
from harness.runs import training
from harness.trainers import trainer as trainers
from tests.algos.appo.counting_env import CountingEnv
from tests.harness.study.test_search import sweep
from unilab.run.progress import Progress
from unilab.settings import SettingsError

HEAD = "name: a\ntrainer: sac\nenv: HalfCheetah\n"
off_policy = pytest.mark.parametrize("name", ["sac", "td3"])


def suite(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(HEAD + text)
    return path


@pytest.mark.parametrize("name", ["appo", "sac", "td3"])
def test_defaults_are_accepted_and_have_devices_and_a_seed(name) -> None:
    trainer = trainers.get(name)
    defaults = trainer.defaults()
    trainer.check(defaults)
    trainer.check_together(defaults)
    assert {"seed", "env", *trainer.device_settings} <= defaults.keys()
    assert trainer.device_settings == ("collector_device", "learner_device")


def test_a_preset_is_part_of_a_suite_and_of_a_configuration(tmp_path: Path) -> None:
    path = suite(
        tmp_path, "fixed: {preset: fast, algorithm.n_step: 1}\nsearch: {num_envs: [64, 128], batch_size: [8]}\n"
    )
    plan = plans.make(path)
    assert plan.baseline["num_envs"] == 128  # the preset's
    settings = plan.settings(plan.baseline)
    whole = plan.trainer.complete(settings)
    assert [whole[name] for name in ("batch_size", "algorithm.n_step", "algorithm.num_atoms")] == [8, 1, 101]
    assert plan.trainer.complete(whole) == whole  # as a file that states every setting, best.yaml, says
    path.write_text("trainer: td3\nenv: Hopper\n")
    content = training.load(path, ["settings.preset=fast"]).content()
    assert (content["settings"]["algorithm.tau"], content["settings"]["num_envs"]) == (0.1, 128)
    with pytest.raises(InputError, match=r"--set: settings\.preset: Input should be 'fast', got 'slow'"):
        training.load(path, ["settings.preset=slow"])


def test_only_what_an_environment_judges_can_be_trained_for_success(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"measure\.judge: the environment HalfCheetah cannot be judged; leave it out"):
        plans.make(suite(tmp_path, "measure: {judge: {every_seconds: 9}}\n"))


class Judging(CountingEnv):
    """Says for how many episodes it was asked, and whether the training is over."""

    def judge(self, policy, episodes, seed):
        return {"success": policy(self.obs).shape == (1, 1), "episodes": episodes, "steps_before": self.steps_before}


def test_checkpoints_are_kept_by_time_and_judged_afterwards(tmp_path: Path) -> None:
    trainer = trainers.get("appo")
    settings = {"env": f"{__name__}:Judging", "mode": "sync", "num_envs": 4, "steps_per_env": 4}
    settings |= {"network.actor": [4], "network.critic": [4], "learner_threads": 1}
    seen: list[float] = []

    def more(progress: Progress) -> bool:
        seen.append(progress.wall_seconds)
        return seen[-1] - seen[0] < 0.6

    trainer.run(settings, more, log_dir=tmp_path, max_iterations=10**6, save_interval=0, keep_seconds=0.2)
    judgements = [play(7) for play in trainer.kept(settings, tmp_path)]
    seconds = [one for one, _ in judgements]
    assert len(seconds) >= 2 and seconds == sorted(set(seconds)) and seconds[-1] == seen[-1]
    assert judgements[0][1] == {"success": True, "episodes": 7, "steps_before": math.inf}


def test_each_trainer_has_its_own_settings() -> None:
    assert trainers.get("sac").defaults()["algorithm.target_reduction"] == "min"
    assert trainers.get("td3").defaults()["algorithm.target_reduction"] == "mean"
    trainers.get("td3").check({"algorithm.target_noise": 0.1})
    with pytest.raises(SettingsError, match=r"algorithm\.target_noise: unknown setting"):
        trainers.get("sac").check({"algorithm.target_noise": 0.1})


@pytest.mark.parametrize("trainer", ["sac", "td3", "harness.trainers.adapters.rsl_rl:PPO"])
def test_discrete_actions_are_refused_before_a_trial(trainer: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(f"name: s\ntrainer: {trainer}\nenv: CartPole-v1\nsearch: {{num_envs: [4, 8]}}\n")
    name = trainer.rpartition(":")[2].upper()
    with pytest.raises(InputError, match=rf"suite.yaml:3: env: 'CartPole-v1' has 2 discrete actions, for which {name}"):
        plans.make(path)


SUITE = "name: s\ntrainer: {trainer}\nenv: {env}\n"
FIXED = SUITE + "search: {{num_envs: [4, 8]}}\nfixed:\n  network.critic: [8]\n  network.actor: {actor}\n"
SEARCHED = SUITE + "fixed:\n  network: {{critic: [8]}}\nsearch:\n  network.actor: [[8], {actor}]\n"


@pytest.mark.parametrize("suite", [FIXED, SEARCHED])
@pytest.mark.parametrize(
    ("trainer", "env", "outputs"),
    [("appo", "HalfCheetah", 6), ("appo", "CartPole-v1", 2), ("sac", "Pendulum-v1", 2), ("td3", "Hopper", 3)],
)
def test_networks_are_tried_before_a_trial(trainer: str, env: str, outputs: int, suite: str, tmp_path: Path) -> None:
    path, factories = tmp_path / "suite.yaml", "tests.algos.networks.factories"

    def make(factory: str) -> plans.Plan:
        path.write_text(suite.format(trainer=trainer, env=env, actor=factory))
        return plans.make(path)

    for factory in (f"{factories}:gated", f"{{factory: '{factories}:gated', width: 4}}"):
        plan = make(factory)
        assert plan.trainer.budget(plan.settings(plan.baseline)) is not None
    with pytest.raises(InputError, match=rf"suite.yaml:7: .*network\.actor: .* expected \[2, {outputs}\]"):
        make(f"{factories}:one_output")
    with pytest.raises(InputError, match=r"suite.yaml:7: .*network\.actor: .*has no 'gatd'; did you mean 'gated'"):
        make(f"{factories}:gatd")


CALLED: list[str] = []


def not_a_trainer() -> None:
    CALLED.append("called")


class NotATrainer:
    def __init__(self) -> None:
        CALLED.append("made")


class NoRun(trainers.Trainer):
    def defaults(self):
        return {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("not_a_trainer", "expected a class that inherits from harness.trainers.Trainer"),
        ("NotATrainer", "expected a class that inherits from harness.trainers.Trainer"),
        ("CALLED", "expected a class that inherits from harness.trainers.Trainer"),
        ("NoRun", "lacks the methods run"),
        ("Nothing", "has no attribute 'Nothing'"),
    ],
)
def test_nothing_is_called_that_is_no_trainer(tmp_path, name, words) -> None:
    CALLED.clear()
    path = tmp_path / "suite.yaml"
    path.write_text(f"name: a\ntrainer: {__name__}:{name}\nenv: Ant\n")
    with pytest.raises(InputError, match=words):
        plans.make(path)
    assert CALLED == []


@off_policy
def test_settings_that_contradict_each_other_are_found(name) -> None:
    trainer = trainers.get(name)
    trainer.check({"pipeline": "device"})  # by itself it may go with what comes
    with pytest.raises(SettingsError, match="pipeline: 'device' keeps the replay buffer on an accelerator"):
        trainer.check_together({"pipeline": "device"})
    trainer.check_together({"pipeline": "device", "learner_device": "cuda"})
    with pytest.raises(SettingsError, match="replay_capacity: 2000 transitions are too few"):
        trainer.check_together({"replay_capacity": 2000})
    trainer.check_together({"replay_capacity": 2000, "learning_starts": 10})


@off_policy
def test_budget_is_that_of_the_settings(name) -> None:
    trainer = trainers.get(name)
    small, large = (trainer.budget({"replay_capacity": capacity}) for capacity in (100_000, 200_000))
    assert small is not None and large is not None
    assert large.shm_bytes - small.shm_bytes == pytest.approx(100_000 * 43 * 4, abs=8192)


def test_warm_up_lasts_until_the_ring_has_been_wrapped_or_learning_has_begun() -> None:
    assert trainers.get("appo").warmup_iterations({"num_slots": 7}) == 7
    assert trainers.get("appo").warmup_iterations({"num_slots": 7, "mode": "sync"}) == 1
    assert trainers.get("sac").warmup_iterations({"replay_capacity": 200_000}) == 0


@pytest.mark.parametrize("name", ["appo", "sac", "td3"])
def test_threads_are_those_that_a_runner_will_use(name) -> None:
    stated = {"env_threads": 3, "inference_threads": 2, "learner_threads": 5}
    assert trainers.get(name).threads(stated) == {"env": 3, "inference": 2, "learner": 5}
    assert all(count >= 1 for count in trainers.get(name).threads({}).values())


def test_threads_are_those_of_all_workers() -> None:
    stated = {"env_threads": 3, "inference_threads": 2, "learner_threads": 5}
    for kind, env, inference in (("processes", 12, 4), ("sequential", 3, 1), ("ray", 3, 1)):
        threads = trainers.get("sac").threads({**stated, "workers.kind": kind, "workers.count": 4})
        assert threads == {"env": env, "inference": inference, "learner": 5}, kind


def test_a_pipeline_that_no_device_allows_drops_out_of_the_search(tmp_path) -> None:
    plan = plans.make(suite(tmp_path, "search:\n  learner_device: [cpu, 'cuda:7']\n  pipeline: [device, prefetch]\n"))
    choices = {name: dimension.choices for name, dimension in plan.space.dimensions.items()}
    assert choices == {"learner_device": ("cpu",), "pipeline": ("prefetch",)}
    device, pipeline = plan.dropped
    assert device == "learner_device: cuda:7 (not on this machine)"
    assert pipeline.startswith("pipeline: device ('device' keeps the replay buffer on an accelerator, but")
    assert plan.baseline == {"learner_device": "cpu", "pipeline": "prefetch"}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("fixed: {pipeline: device}\n", 4, "fixed.pipeline: 'device' keeps the replay buffer on an accelerator"),
        ("baseline:\n  pipeline: device\n", 5, "baseline.pipeline: 'device' keeps"),
        ("search:\n  pipeline: [device]\n", 5, "'device' keeps"),
        ("fixed: {replay_capacity: 100}\n", 4, "fixed.replay_capacity: 100 transitions are too few"),
        ("fixed: {learning_starts: 100000}\n", None, "baseline: replay_capacity: 1000000 transitions are too few"),
    ],
)
def test_what_contradicts_without_a_choice_is_refused(tmp_path, text, line, words) -> None:
    with pytest.raises(InputError) as caught:
        plans.make(suite(tmp_path, text))
    assert words in str(caught.value)
    assert line is None or f"suite.yaml:{line}: " in str(caught.value)


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan as on a machine with an accelerator."""
    monkeypatch.setattr(checks, "check_device", lambda name, setting: name)


SEARCH = "search:\n  learner_device: [cpu, cuda]\n  pipeline: [auto, device]\n"


def test_where_a_device_allows_it_the_pipeline_stays(tmp_path, with_cuda) -> None:
    plan = plans.make(suite(tmp_path, SEARCH))
    assert plan.space.dimensions["pipeline"].choices == ("auto", "device")
    assert plan.dropped == ()
    memory = dict(plan.memory())  # the pipeline on the device does not go with the baseline's
    assert memory["largest"].device_bytes > memory["baseline"].device_bytes == 0


def test_a_contradicting_choice_fails_its_trial_only(tmp_path, with_cuda) -> None:
    plan = plans.make(suite(tmp_path, SEARCH), ["sampler.name=grid", "limits.trials=4"])
    records = sweep(plan, tmp_path, measured)
    states = {(r.params["learner_device"], r.params["pipeline"]): (r.state, r.error) for r in records}
    state, error = states.pop(("cpu", "device"))
    assert state == "failed" and error is not None and error.startswith("pipeline: 'device' keeps")
    assert list(states.values()) == 3 * [("complete", None)]


def measured(*_: object) -> Outcome:
    return Outcome("complete", result={"env_steps_per_second": 1.0})


@pytest.mark.parametrize(
    ("trainer", "settings", "expected"),
    [
        ("appo", {}, True),
        ("appo", {"learner_device": "cuda"}, False),
        ("appo", {"env": "CartPole-v1"}, True),  # gymnasium's own
        ("appo", {"env": "tests.envs.cart:Countdown"}, False),  # nobody knows what it does
        ("sac", {"workers.kind": "processes"}, True),
        ("sac", {"workers.kind": "ray"}, False),
        ("td3", {"collector_device": "cuda"}, False),
        ("harness.trainers.adapters.sb3:PPO", {"env": "Ant"}, True),
        ("harness.trainers.adapters.sb3:PPO", {"device": "cuda"}, False),
    ],
)
def test_only_work_on_the_cpus_of_this_machine_stands_still(trainer: str, settings: dict, expected: bool) -> None:
    assert trainers.get(trainer).pausable(settings) is expected
