"""Going on from a checkpoint with settings that changed: each is used, or refused by its name."""

import copy

import pytest
import torch

from tests.algos.appo import test_runner as appo
from tests.algos.offpolicy import test_learners
from tests.algos.offpolicy import test_runner as offpolicy
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.offpolicy.config import SACConfig, TD3Config
from unilab.run.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from unilab.settings import flatten, names, parse

IN_TURNS = {"mode": "sync"} | appo.COUNTING
IN_PROCESS = {"workers": {"kind": "sequential"}, "save_replay": True}

APPO_FIXED = {
    "mode": "async",
    "env": "Hopper",
    "env_cfg": {"limit": 5},
    "seed": 1,
    "num_envs": 4,
    "obs_normalization": False,
    "stagger_episodes": False,
    "network.actor": [9],
    "network.critic": [9],
    "network.activation": "tanh",
    "network.init_noise_std": 0.5,
}
APPO_CHANGES = {
    "save_seconds": 5.0,
    "keep_checkpoints": 2,
    "eval_interval": 4,
    "eval_episodes": 3,
    "env_threads": 2,
    "inference_threads": 2,
    "learner_threads": 2,
    "learner_dtype": "bfloat16",
    "steps_per_env": 6,
    "num_slots": 3,
    "when_full": "drop_oldest",
    "algorithm.num_learning_epochs": 3,
    "algorithm.num_mini_batches": 3,
    "algorithm.clip_param": 0.1,
    "algorithm.gamma": 0.9,
    "algorithm.lam": 0.9,
    "algorithm.value_loss_coef": 0.5,
    "algorithm.entropy_coef": 0.02,
    "algorithm.learning_rate": 2e-4,
    "algorithm.max_grad_norm": 0.5,
    "algorithm.use_clipped_value_loss": False,
    "algorithm.value_normalization": False,
    "algorithm.schedule": "fixed",
    "algorithm.desired_kl": 0.02,
    "algorithm.adaptive_kl_factor": 1.3,
    "algorithm.adaptive_lr_factor": 1.2,
    "algorithm.optimizer": "adamw",
    "algorithm.tau": 0.5,
    "algorithm.target_update_freq": 2,
    "algorithm.off_policy_correction": "vtrace",
    "algorithm.vtrace_clip_rho": 0.9,
    "algorithm.vtrace_clip_c": 0.9,
    "algorithm.behavior_ratio_clip": 1.5,
}
SAC_FIXED = {
    "env": "Hopper",
    "env_cfg": {"limit": 5},
    "seed": 1,
    "num_envs": 2,
    "obs_normalization": True,
    "sync_collection": False,
    "network.actor": [9],
    "network.critic": [9],
    "network.layer_norm": True,
    "algorithm.n_step": 3,
    "algorithm.reward_scale": 2.0,
    "algorithm.num_critics": 3,
    "algorithm.num_atoms": 11,
    "algorithm.value_min": -1.0,
    "algorithm.value_max": 1.0,
}
SAC_CHANGES = {
    "save_seconds": 5.0,
    "keep_checkpoints": 2,
    "eval_interval": 4,
    "eval_episodes": 3,
    "env_threads": 2,
    "learner_threads": 1,
    "learner_dtype": "bfloat16",
    "replay_capacity": 90,
    "batch_size": 20,
    "learning_starts": 7,
    "updates_per_step": 3,
    "env_steps_per_sync": 2,
    "pipeline": "prefetch",
    "save_replay": False,
    "algorithm.gamma": 0.9,
    "algorithm.tau": 0.1,
    "algorithm.actor_learning_rate": 1e-4,
    "algorithm.critic_learning_rate": 2e-4,
    "algorithm.critic_weight_decay": 0.1,
    "algorithm.alpha_learning_rate": 4e-4,
    "algorithm.target_reduction": "mean",
    "algorithm.policy_frequency": 2,
    "algorithm.init_alpha": 0.5,
    "algorithm.max_alpha": 0.6,
    "algorithm.auto_alpha": False,
    "algorithm.target_entropy_scale": 0.5,
}
ONE_CHOICE = {
    "learner_device", "collector_device", "collector_cores", "learner_cores", "sim_backend",
    "algorithm.enable_compile", "algorithm.cuda_graphs",
}  # fmt: skip
"""settings that may have one value only on a machine with tests, or change nothing where one process does all"""


def used(content) -> dict:
    """Dotted names and values of the settings in a checkpoint."""
    kind = {"appo": APPOConfig, "sac": SACConfig}[content["trainer"]]
    return flatten(parse(kind, content["config"]))


@pytest.fixture(scope="module")
def appo_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("appo")
    appo.learn(3, folder, **IN_TURNS)
    return folder / "checkpoint.pt"


@pytest.fixture(scope="module")
def sac_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sac")
    offpolicy.learn("sac", 3, folder, **IN_PROCESS)
    return folder / "checkpoint.pt"


def test_each_setting_is_changed_or_refused_below():
    for config, known in ((APPOConfig, APPO_FIXED | APPO_CHANGES), (SACConfig, SAC_FIXED | SAC_CHANGES)):
        missing = set(names(config)) - set(known) - ONE_CHOICE
        others = {"stagger_episodes", "inference_threads", "preset"} if config is SACConfig else set()
        assert {name for name in missing if not name.startswith(("trace_", "workers."))} == others


@pytest.mark.parametrize("name", APPO_FIXED)
def test_appo_names_what_cannot_change(name, appo_checkpoint):
    with pytest.raises(CheckpointError, match=f"saved with {name} = .*start anew"):
        appo.learn(4, resume=appo_checkpoint, **IN_TURNS | {name: APPO_FIXED[name]})


@pytest.mark.parametrize("name", SAC_FIXED)
def test_sac_names_what_cannot_change(name, sac_checkpoint):
    more = {"replay_capacity": 100, "workers.kind": "collector"}  # so that the setting itself is a possible one
    with pytest.raises(CheckpointError, match=f"saved with {name} = .*start anew"):
        offpolicy.learn("sac", 4, resume=sac_checkpoint, **more | {name: SAC_FIXED[name]})


def test_a_preset_goes_on_with_the_settings_that_it_stands_for(sac_checkpoint, tmp_path):
    saved = used(load_checkpoint(sac_checkpoint))
    same = {name: saved[name] for name in SACConfig.__presets__["fast"]} | IN_PROCESS
    summary = offpolicy.learn("sac", 4, tmp_path, resume=sac_checkpoint, preset="fast", **same)
    assert summary.progress.iteration == 4
    assert used(load_checkpoint(tmp_path / "checkpoint.pt")) == saved | {"preset": "fast"}
    del same["algorithm.num_atoms"]
    with pytest.raises(CheckpointError, match=r"saved with algorithm\.num_atoms = 1, this run has 101; .*start anew"):
        offpolicy.learn("sac", 4, resume=sac_checkpoint, preset="fast", **same)


def test_episodes_that_go_on_began_as_they_did(sac_checkpoint):
    with pytest.raises(CheckpointError, match="saved with stagger_episodes = False"):
        offpolicy.learn("sac", 4, resume=sac_checkpoint, stagger_episodes=True)


def test_other_sizes_of_an_environment_are_refused(appo_checkpoint, tmp_path):
    content = load_checkpoint(appo_checkpoint)
    content["config"]["mode"] = "async"  # in which env_cfg may change
    save_checkpoint(tmp_path / "checkpoint.pt", content)
    with pytest.raises(CheckpointError, match=r"(?s)do not fit this run's; with env_cfg .*size mismatch"):
        appo.learn(4, resume=tmp_path / "checkpoint.pt", mode="async", env_cfg={"critic_dim": 3}, **appo.COUNTING)


def test_appo_goes_on_with_every_other_setting(appo_checkpoint, tmp_path):
    summary = appo.learn(5, tmp_path, resume=appo_checkpoint, **IN_TURNS | APPO_CHANGES)
    after = load_checkpoint(tmp_path / "checkpoint.pt")
    assert summary.progress.updates == 3 * 2 * 2 + 2 * 3 * 3
    assert summary.progress.env_steps == 3 * 64 + 2 * 48
    assert summary.progress.metrics["learning_rate"] == 2e-4
    (group,) = after["learner"]["optimizer"]["param_groups"]
    assert (group["lr"], group["weight_decay"]) == (2e-4, 0.01)  # AdamW's
    assert {name: used(after)[name] for name in APPO_CHANGES} == APPO_CHANGES


def test_an_adapted_learning_rate_goes_on_where_it_was_not_changed(appo_checkpoint, tmp_path):
    adapted = load_checkpoint(appo_checkpoint)["learner"]["learning_rate"]
    assert adapted != used(load_checkpoint(appo_checkpoint))["algorithm.learning_rate"]
    changes = {"algorithm.schedule": "fixed", "algorithm.entropy_coef": 0.02}
    first = appo.learn(4, tmp_path, resume=appo_checkpoint, **IN_TURNS | changes)
    assert first.progress.metrics["learning_rate"] == adapted
    again = appo.learn(5, resume=tmp_path / "checkpoint.pt", **IN_TURNS | changes)
    assert again.progress.metrics["learning_rate"] == adapted


def test_sac_goes_on_with_every_other_setting(sac_checkpoint, tmp_path):
    changes = SAC_CHANGES | {"workers.kind": "sequential"}
    summary = offpolicy.learn("sac", 5, tmp_path, resume=sac_checkpoint, **changes)
    after = load_checkpoint(tmp_path / "checkpoint.pt")
    assert summary.progress.samples == 3 * 2 * 16 + 2 * 3 * 20
    assert summary.progress.metrics["alpha"] == pytest.approx(0.5)
    (actor,) = after["learner"]["actor_optimizer"]["param_groups"]
    (critic,) = after["learner"]["critic_optimizer"]["param_groups"]
    assert (actor["lr"], critic["lr"]) == (1e-4, 2e-4)
    assert (actor["weight_decay"], critic["weight_decay"]) == (0.0, 0.1)
    assert {name: used(after)[name] for name in SAC_CHANGES} == SAC_CHANGES

    back = {"algorithm.auto_alpha": True, "algorithm.alpha_learning_rate": 5e-4}
    offpolicy.learn("sac", 7, tmp_path / "back", resume=tmp_path / "checkpoint.pt", **changes | back)
    learner = load_checkpoint(tmp_path / "back/checkpoint.pt")["learner"]
    assert [group["lr"] for group in learner["actor_optimizer"]["param_groups"]] == [1e-4, 5e-4]
    assert learner["log_alpha"].exp() != pytest.approx(0.5, rel=1e-6)


def test_td3_explores_and_learns_with_what_changed(tmp_path):
    offpolicy.learn("td3", 2, tmp_path, **IN_PROCESS)
    changes = {
        "algorithm.policy_frequency": 1,
        "algorithm.target_noise": 0.0,
        "algorithm.target_noise_clip": 0.1,
        "algorithm.exploration_noise_min": 0.0,
        "algorithm.exploration_noise_max": 0.0,
        "algorithm.actor_learning_rate": 1e-4,
    }
    assert set(changes) >= {n for n in names(TD3Config) if "noise" in n}
    offpolicy.learn("td3", 4, tmp_path / "on", resume=tmp_path / "checkpoint.pt", **IN_PROCESS | changes)
    learner = load_checkpoint(tmp_path / "on/checkpoint.pt")["learner"]
    assert learner["actor_optimizer"]["param_groups"][0]["lr"] == 1e-4
    assert learner["updates"] == 8


def as_if_on_cuda(state):
    """A learner's or collector's state as a CUDA device would have written it."""
    for part in state.values():
        if isinstance(part, dict) and "param_groups" in part:
            for group in part["param_groups"]:
                group["capturable"] = True
    state["generator"] = torch.zeros(16, dtype=torch.uint8)
    return state


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_a_learner_goes_on_from_another_kind_of_device(algorithm):
    stopped = test_learners.make(algorithm)
    for seed in range(4):
        stopped.update(test_learners.make_batch(seed))
    resumed = [test_learners.make(algorithm) for _ in range(2)]
    for learner in resumed:
        learner.load_state_dict(as_if_on_cuda(copy.deepcopy(stopped.state_dict())))
        learner.update(test_learners.make_batch(5))
    first, second = (test_learners.parameters(learner.critics) for learner in resumed)
    assert torch.equal(first, second)
    assert not torch.equal(first, test_learners.parameters(stopped.critics))


def test_a_collector_goes_on_from_another_kind_of_device(appo_checkpoint, tmp_path):
    content = load_checkpoint(appo_checkpoint)
    as_if_on_cuda(content["collection"]["collector"])
    save_checkpoint(tmp_path / "checkpoint.pt", content)
    for name in ("first", "second"):
        appo.learn(5, tmp_path / name, resume=tmp_path / "checkpoint.pt", **IN_TURNS)
    first, second = (appo.weights(tmp_path / name / "checkpoint.pt") for name in ("first", "second"))
    assert torch.equal(first, second)
