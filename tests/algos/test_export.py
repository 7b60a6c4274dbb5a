"""Policies as ONNX files: what they compute, what they say, and what is refused."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from harness import cli
from tests.algos.test_evaluate import write
from tests.envs.robots.here import VELOCITY, tried
from unilab import load_policy
from unilab.algos.torch.appo.actor_critic import Actor
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.export import ExportError, export_onnx
from unilab.algos.torch.offpolicy.config import CONFIGS
from unilab.algos.torch.offpolicy.networks.policies import build_actor
from unilab.envs import make
from unilab.settings import parse

HERE = "tests.algos.test_export"


class Branching(nn.Linear):
    """What it computes depends on the numbers that it is given."""

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows) * (2 if rows.sum() > 0 else 3)


class Drawing(nn.Linear):
    """It draws random numbers."""

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows) + torch.randn(rows.shape[0], 1)


class Rounding(nn.Linear):
    """It computes with numbers for which ONNX Runtime has no multiplication on a CPU."""

    def forward(self, rows: Tensor) -> Tensor:
        return (rows.bfloat16() @ self.weight.T.bfloat16()).float()


def branching(obs_dim: int, output_dim: int) -> nn.Module:
    return Branching(obs_dim, output_dim)


def drawing(obs_dim: int, output_dim: int) -> nn.Module:
    return Drawing(obs_dim, output_dim)


def rounding(obs_dim: int, output_dim: int) -> nn.Module:
    return Rounding(obs_dim, output_dim)


@pytest.fixture
def checkpoint(tmp_path):
    """Makes a checkpoint whose normalizer has learned something; its path."""

    def made(trainer, env, network=(8,), **settings):
        torch.manual_seed(0)
        given = {"env": env, "network": {"actor": network, "critic": [8]}, "obs_normalization": True, **settings}
        config = parse({"appo": APPOConfig, **CONFIGS}[trainer], given)
        with make(env, 1, env_cfg_override=config.env_cfg) as one:
            dims = one.dims
        actor = Actor(config, dims) if trainer == "appo" else build_actor(config, dims.obs, dims.action)
        actor.normalizer.update(2 * torch.randn(50, dims.obs) + 1)
        for parameter in actor.parameters():  # whose actions are not all near zero
            parameter.data += 0.3 * torch.randn_like(parameter)
        write(tmp_path / "checkpoint.pt", trainer, config, actor)
        return tmp_path / "checkpoint.pt"

    return made


def metadata(path):
    return {one.key: one.value for one in onnx.load(path).metadata_props}


@pytest.mark.parametrize(
    ("trainer", "env", "network"),
    [
        ("appo", "Hopper", (8,)),
        ("appo", "CartPole-v1", (8,)),
        ("appo", "Pendulum-v1", "tests.algos.networks.factories:gated"),
        ("appo", "InvertedPendulum", "unilab.algos.torch.networks.rsl_rl:mlp_model"),
        ("sac", "InvertedPendulum", (8,)),
        ("td3", "Pendulum-v1", (8,)),
    ],
)
def test_a_file_acts_as_eval_does(checkpoint, tmp_path, trainer, env, network):
    source = checkpoint(trainer, env, network)
    told = export_onnx(source, tmp_path / "policy.onnx")
    assert (told["trainer"], told["env"], told["observations"]) == (trainer, env, 10_000)
    assert 0 <= told["difference"] < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "policy.onnx"]
    onnx.checker.check_model(onnx.load(tmp_path / "policy.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    policy = load_policy(source)
    for rows in (1, 7):
        obs = np.random.default_rng(rows).normal(1, 3, (rows, policy.obs_dim)).astype(np.float32)
        (actions,) = session.run(["actions"], {"obs": obs})
        np.testing.assert_allclose(actions, policy(obs), rtol=1e-4, atol=1e-4)
        assert actions.shape == (rows, policy.action_dim)
    said = metadata(tmp_path / "policy.onnx")
    assert (said["trainer"], said["env"]) == (trainer, env)
    assert len(said["settings_digest"]) == 16 and said["env_steps"] == "40"
    if env == "Hopper":
        assert json.loads(said["joint_names"]) == ["thigh_joint", "leg_joint", "foot_joint"]
        assert json.loads(said["step_seconds"]) == pytest.approx(0.008)
        assert json.loads(said["action_low"]) == [-1, -1, -1]
    if env == "CartPole-v1":
        assert said["num_actions"] == "2" and "action_low" not in said


def test_the_digest_is_that_of_the_settings(checkpoint, tmp_path):
    digests = []
    for rate in (1e-3, 2e-3):
        source = checkpoint("appo", "InvertedPendulum", algorithm={"learning_rate": rate})
        digests.append(export_onnx(source, tmp_path / "policy.onnx")["metadata"]["settings_digest"])
    assert digests[0] != digests[1]


@pytest.mark.parametrize("name", tried(VELOCITY)[:1])
def test_a_robots_file_says_what_the_robot_needs(checkpoint, tmp_path, name):
    export_onnx(checkpoint("appo", name), tmp_path / "policy.onnx")
    said = metadata(tmp_path / "policy.onnx")
    with make(name, 1) as env:
        joints, names = json.loads(said["joint_names"]), json.loads(said["observation_names"])
        assert joints == [env.model.joint(i).name for i in range(1, env.model.njnt)]
        assert len(names) == len(set(names)) == env.obs_dim
        for key in ("default_pose", "joint_low", "joint_high", "action_scale", "kp", "kd"):
            assert len(json.loads(said[key])) == len(joints), key
        assert json.loads(said["step_seconds"]) == pytest.approx(env.dt)
        np.testing.assert_allclose(json.loads(said["default_pose"]), env.init_qpos[7:])
        np.testing.assert_allclose(json.loads(said["kp"]), env.model.actuator_gainprm[:, 0])
        # the formula of docs/python.md
        env.reset()
        env.state.command[:] = 0.5, 0.0, 0.0
        lift = np.clip(np.sin(2 * np.pi * (env.state.phase[0] - np.array(json.loads(said["gait"])))), 0, None)
        actions = np.linspace(-1, 1, len(joints), dtype=np.float32)[None]
        targets = np.array(json.loads(said["default_pose"])) + np.array(json.loads(said["action_scale"])) * actions[0]
        targets += lift @ np.array(json.loads(said["swing"]))
        np.testing.assert_allclose(env.apply_action(actions)[0], targets, rtol=1e-6)


@pytest.mark.parametrize(
    ("network", "problem"),
    [
        ("branching", "cannot be exported: "),
        ("drawing", "does not compute what PyTorch does: "),
        ("rounding", "ONNX Runtime .* cannot run the file: "),
    ],
)
def test_a_network_that_does_not_fit_into_a_file_is_refused(checkpoint, tmp_path, network, problem):
    source = checkpoint("appo", "InvertedPendulum", f"{HERE}:{network}")
    with pytest.raises(ExportError, match=problem):
        export_onnx(source, tmp_path / "policy.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_verb_writes_and_says_what_is_missing(checkpoint, tmp_path, monkeypatch, capsys):
    source, file = str(checkpoint("td3", "InvertedPendulum")), str(tmp_path / "policy.onnx")
    assert cli.main(["export", source, "--onnx", file, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["onnx"] == file and told["metadata"]["trainer"] == "td3"
    assert cli.main(["export", source, "--onnx", str(tmp_path / "none" / "policy.onnx")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert cli.main(["export", source, "--onnx", str(tmp_path)]) == 1
    assert "is a folder; name a file" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path / "none.pt"), "--onnx", file]) == 1
    assert "no such checkpoint" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else sys)
    assert cli.main(["export", source, "--onnx", file]) == 1
    assert "needs onnxruntime, which this interpreter has not: pip install -e '.[onnx]'" in capsys.readouterr().err
