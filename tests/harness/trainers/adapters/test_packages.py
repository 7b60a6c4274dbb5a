"""The real packages behind their adapters: what is counted is what they did, and defaults are theirs."""

import importlib
import inspect
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.predict import plan as plans
from harness.trainers import trainer as trainers
from harness.trainers.adapters.drivers import sb3
from harness.trainers.adapters.sb3 import constructor_arguments
from unilab.run.progress import Progress
from unilab.settings import SettingsError, nest


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """As many as before: drivers set those of their process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


SUITES = Path(__file__).resolve().parents[4] / "suites"
EPISODES = {"env_cfg": {"max_episode_steps": 5}}
SB3 = {"n_envs": 2, "policy.net_arch": [8], **EPISODES}
OFF_POLICY = SB3 | {"learning_starts": 10, "buffer_size": 1000, "batch_size": 16, "gradient_steps": 3}
NETWORKS = {"actor.hidden_dims": [8], "critic.hidden_dims": [8], **EPISODES}


def package(name: str) -> Any:
    """Seconds of work, so only where it is used: each process of a test run imports all files of tests."""
    return importlib.import_module(name)


def train(name: str, settings: dict[str, Any], log_dir: Path, iterations: int = 4) -> Progress:
    trainer = trainers.get(name)
    trainer.check(settings)
    trainer.check_together(settings)
    summary = trainer.run(settings, lambda _: True, log_dir=log_dir, max_iterations=iterations, keep_seconds=1e-6)
    assert summary.stopped_by == "iterations"
    assert len(trainer.kept(settings, log_dir)) == summary.progress.iteration
    assert -20 < trainer.evaluate(settings, log_dir, 2) < 20, "what was trained plays without noise"
    return summary.progress


def assert_plausible(progress: Progress) -> None:
    assert progress.wall_seconds > 0 and progress.learner_busy_seconds > 0
    assert -20 < progress.episode_return < 20, "five steps of HalfCheetah with hardly trained actions"


def assert_in_turns(progress: Progress) -> None:
    assert_plausible(progress)
    assert progress.episode_length == 5 and progress.episodes > 0
    assert progress.collected_env_steps == progress.env_steps and progress.policy_lag_mean == 0
    assert 0 < progress.collector_busy_seconds == progress.learner_wait_seconds
    assert progress.collector_busy_seconds + progress.learner_busy_seconds <= progress.wall_seconds


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_sb3_ppo(tmp_path, vec_env) -> None:
    settings = SB3 | {"n_steps": 8, "batch_size": 4, "n_epochs": 3, "vec_env": vec_env, "normalize": vec_env == "dummy"}
    progress = train("harness.trainers.adapters.sb3:PPO", settings, tmp_path)
    assert_in_turns(progress)
    n = progress.iteration
    assert (progress.env_steps, progress.updates, progress.samples) == (16 * n, 12 * n, 48 * n)
    model = package("stable_baselines3").PPO.load(tmp_path / "model.zip")
    assert model.n_steps == 8 and model.policy.mlp_extractor.policy_net[0].out_features == 8


@pytest.mark.parametrize("env", ["AntNoForces", "unilab.envs.tasks.ant:AntNoForces"])
def test_sb3_trains_in_environments_that_gymnasium_does_not_have(tmp_path, env) -> None:
    settings = {"env": env, "n_envs": 3, "n_steps": 8, "batch_size": 12, "n_epochs": 1}
    trainer = trainers.get("harness.trainers.adapters.sb3:PPO")
    settings |= {"normalize": "observations", "policy.net_arch": [8], **EPISODES}
    summary = trainer.run(settings, lambda _: True, log_dir=tmp_path, max_iterations=3, keep_seconds=1e-6)
    assert (summary.progress.env_steps, summary.progress.episode_length) == (72, 5)
    normalized = pickle.loads((tmp_path / "normalize.pkl").read_bytes())
    assert normalized.norm_obs and not normalized.norm_reward
    assert -20 < trainer.evaluate(settings, tmp_path, 2) < 20
    seen = np.random.default_rng(0).normal(size=(4, 27)).astype(np.float32)
    first, last = (trainer._kept[place][1](seen) for place in (0, -1))
    assert first.shape == (4, 8) and not np.array_equal(first, last), "kept as it was"
    with pytest.raises(ValueError, match="neither gymnasium nor this project has it"):
        sb3.gymnasium_id("Nowhere")
    assert sb3.gymnasium_id("gymnasium.envs.mujoco:Ant-v5") == "gymnasium.envs.mujoco:Ant-v5"


class StoppedWithin:
    """A reporter that is asked to stop a few env steps into the rollout after the first report."""

    def __init__(self, steps: int) -> None:
        self.left, self.reports = steps, 0

    def start(self) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> bool:
        self.reports += 1
        return True

    @property
    def stopping(self) -> bool:
        self.left -= self.reports > 0
        return self.left <= 0 < self.reports


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_sb3_keeps_its_model_when_it_is_stopped_within_a_long_rollout(tmp_path, name) -> None:
    own = {"n_steps": 500, "batch_size": 500, "n_epochs": 1} if name == "PPO" else OFF_POLICY | {"train_freq": 500}
    trainer = trainers.get(f"harness.trainers.adapters.sb3:{name}")
    settings = nest(trainer.defaults() | SB3 | own | {"threads": torch.get_num_threads()})
    report = StoppedWithin(7)
    {"PPO": sb3.train_ppo, "SAC": sb3.train_sac}[name](settings, report, tmp_path)
    model = getattr(package("stable_baselines3"), name).load(tmp_path / "model.zip")
    assert report.reports == 1 and model.num_timesteps == 2 * (500 + 7)


@pytest.mark.parametrize("name", ["SAC", "TD3"])
def test_sb3_off_policy(tmp_path, name) -> None:
    progress = train(f"harness.trainers.adapters.sb3:{name}", OFF_POLICY | {"action_noise": 0.1}, tmp_path)
    assert_in_turns(progress)
    n = progress.iteration
    assert (progress.env_steps, progress.updates, progress.samples) == (10 + 2 * n, 3 * n, 48 * n)
    assert set(progress.metrics) == {"latest_return"}
    assert (tmp_path / "model.zip").exists()


def test_rsl_rl_ppo(tmp_path) -> None:
    settings = NETWORKS | {"num_envs": 4, "num_steps_per_env": 8, "algorithm.num_learning_epochs": 3}
    progress = train("harness.trainers.adapters.rsl_rl:PPO", settings, tmp_path)
    assert_in_turns(progress)
    n = progress.iteration
    assert (progress.env_steps, progress.updates, progress.samples) == (32 * n, 12 * n, 96 * n)
    model = torch.load(tmp_path / "model.pt", weights_only=True)
    assert model["actor_state_dict"]["mlp.0.weight"].shape == (8, 17)


def test_rsl_rls_critic_sees_what_is_privileged(tmp_path) -> None:
    settings = NETWORKS | {"env": "tests.algos.appo.counting_env:CountingEnv", "num_envs": 4, "num_steps_per_env": 8}
    settings["env_cfg"] = {"critic_dim": 3}
    trainer = trainers.get("harness.trainers.adapters.rsl_rl:PPO")
    trainer.run(settings, lambda _: True, log_dir=tmp_path, max_iterations=2)
    model = torch.load(tmp_path / "model.pt", weights_only=True)
    shapes = [model[f"{name}_state_dict"]["mlp.0.weight"].shape for name in ("actor", "critic")]
    assert shapes == [(8, 1), (8, 3)]


def test_unilab_rl_appo(tmp_path) -> None:
    settings = NETWORKS | {
        "num_envs": 4,
        "steps_per_env": 8,
        "replay_queue_size": 2,
        "algorithm.num_learning_epochs": 3,
    }
    progress = train("harness.trainers.adapters.unilab_rl:APPO", settings, tmp_path)
    assert_plausible(progress)
    n = progress.iteration
    assert progress.updates == 12 * n
    assert progress.env_steps % 32 == 0 and progress.env_steps > 0
    assert 96 <= progress.samples <= 192 * n, "each update goes over one or two rollouts, three times"
    assert math.isnan(progress.collector_busy_seconds)
    model = torch.load(tmp_path / "model.pt", weights_only=True)
    assert model["actor"]["mlp.0.weight"].shape == (8, 17)


def defaults_of(function: Any) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def same(ours: Any, theirs: Any) -> bool:
    return list(ours) == list(theirs) if isinstance(ours, tuple) else bool(ours == theirs)


@pytest.mark.parametrize("name", ["PPO", "SAC", "TD3"])
def test_sb3_settings_are_the_constructors_arguments(name) -> None:
    theirs = defaults_of(getattr(package("stable_baselines3"), name))
    ours = constructor_arguments(nest(trainers.get(f"harness.trainers.adapters.sb3:{name}").defaults()))
    chosen = {"seed": 0, "device": "cpu"}  # a measurement has both
    differing = {key: value for key, value in ours.items() if theirs[key] != (chosen | {key: value})[key]}
    assert differing == chosen
    left_out = {
        "policy", "env", "action_noise", "rollout_buffer_class", "rollout_buffer_kwargs", "replay_buffer_class",
        "replay_buffer_kwargs", "tensorboard_log", "policy_kwargs", "verbose", "_init_setup_model",
    }  # fmt: skip
    assert theirs.keys() - ours.keys() <= left_out


@pytest.mark.parametrize(
    ("trainer", "prefix", "theirs"),
    [
        ("rsl_rl:PPO", "algorithm", "rsl_rl.algorithms:PPO"),
        ("rsl_rl:PPO", "critic", "rsl_rl.models:MLPModel"),
        ("unilab_rl:APPO", "algorithm", "uni_rl.algos.appo.learner:APPOLearner"),
        ("unilab_rl:APPO", "critic", "rsl_rl.models:MLPModel"),
    ],
)
def test_other_settings_are_their_classes_arguments(trainer, prefix, theirs) -> None:
    ours = nest(trainers.get(f"harness.trainers.adapters.{trainer}").defaults())[prefix]
    module, _, name = theirs.partition(":")
    known = defaults_of(getattr(package(module), name))
    assert ours and {key for key, value in ours.items() if not same(value, known[key])} == set()


def test_unilab_rl_runner_settings() -> None:
    known = defaults_of(package("uni_rl.algos.appo.runner").APPORunner)
    ours = trainers.get("harness.trainers.adapters.unilab_rl:APPO").defaults()
    assert all(ours[name] == known[name] for name in ("num_envs", "steps_per_env", "replay_queue_size"))


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("sb3:PPO", {"n_step": 1}, r"n_step: unknown setting; did you mean 'n_steps'\?"),
        ("sb3:SAC", {"n_epochs": 1}, "n_epochs: unknown setting"),
        ("rsl_rl:PPO", {"algorithm.lambda": 0.9}, r"did you mean 'algorithm\.lam"),
        ("unilab_rl:APPO", {"steps_per_env": 0}, "steps_per_env: Input should be greater than"),
    ],
)
def test_wrong_settings(name, setting, words) -> None:
    with pytest.raises(SettingsError, match=words):
        trainers.get(f"harness.trainers.adapters.{name}").check(setting)


@pytest.mark.parametrize("name", ["sb3_ppo", "rsl_rl_ppo", "unilab_rl_appo", "trainers", "time_to_walk"])
def test_shipped_suites(name) -> None:
    plan = plans.make(SUITES / f"{name}.yaml")
    assert plan.dropped == (), "every choice goes with the others and with what is installed"
    assert plan.seconds <= 60 * plan.suite.limits.minutes
