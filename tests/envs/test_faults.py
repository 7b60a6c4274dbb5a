"""Numerical failures end one row's episode, are named, and do not touch the others."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from mujoco.batch import Batch

from tests.envs.cart import Cart
from unilab.envs import StepResult, make
from unilab.envs.mujoco_env import Array, MujocoVecEnv, State
from unilab.settings import SettingsError

ROWS, BAD = 4, 2
OTHERS = [0, 1, 3]


def new(name: str = "HalfCheetah", seed: int = 0, **cfg: float) -> MujocoVecEnv:
    env = make(name, ROWS, env_cfg_override=cfg, seed=seed, num_threads=2)
    assert isinstance(env, MujocoVecEnv)
    env.reset()
    return env


def actions(env: MujocoVecEnv, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (ROWS, env.action_dim)).astype(np.float32)


def assert_row_failed(result: StepResult, field: str, step: int, last_obs: np.ndarray) -> None:
    (fault,) = result.faults
    assert (fault.env_id, fault.step, fault.field) == (BAD, step, field)
    assert f"environment {BAD}, env step {step}: {field}" in fault.message
    assert (result.reward[BAD], result.terminated[BAD], result.truncated[BAD]) == (0, True, False)
    assert BAD in result.final_ids
    np.testing.assert_array_equal(result.final_obs[result.final_ids == BAD][0], last_obs[BAD])
    for array in (result.obs, result.reward, result.final_obs):
        assert np.isfinite(array).all()


@pytest.mark.parametrize("name", ["HalfCheetah", "Hopper", "Ant"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("qpos", np.nan), ("qpos", -np.inf), ("qvel", np.inf), ("qvel", 1e11)],
)
def test_bad_state_ends_the_row_alone(name: str, field: str, value: float) -> None:
    with new(name) as env, new(name) as healthy:
        before = env.step(actions(env, 1)).obs.copy()
        healthy.step(actions(env, 1))
        getattr(env, field)[BAD, 1] = value
        result, expected = env.step(actions(env, 2)), healthy.step(actions(env, 2))
        assert_row_failed(result, field, 2, before)
        for step in range(3, 8):
            np.testing.assert_array_equal(result.obs[OTHERS], expected.obs[OTHERS])
            np.testing.assert_array_equal(result.reward[OTHERS], expected.reward[OTHERS])
            result, expected = env.step(actions(env, step)), healthy.step(actions(env, step))
            assert result.faults == ()


def test_the_state_of_a_fault_replays_it() -> None:
    with new() as env:
        env.step(actions(env, 1))
        env.qvel[BAD, 0] = 5e9
        env.qvel[BAD, 4] = -9.9e9
        last = env.obs.copy()
        (fault,) = env.step(actions(env, 2)).faults
        assert fault.field in ("qpos", "qvel", "qacc")
        assert fault.state[1 : 1 + env.model.nq] == pytest.approx(env.before.qpos[BAD])
        replay = Batch(env.model, 1, 1)
        replay.state[0] = fault.state
        np.testing.assert_array_equal(replay.bind("ctrl")[0], actions(env, 2)[BAD])
        replay.step(nstep=env.settings.frame_skip)
        assert replay.warning[0, :, 1].any()
        assert np.isfinite(last).all()


def test_an_error_of_the_engine_ends_the_row_alone() -> None:
    with new() as env, new() as healthy:
        integrator = env.batch.expand("opt.integrator")
        before = env.step(actions(env, 1)).obs.copy()
        healthy.step(actions(env, 1))
        integrator[BAD] = 99  # there is none of this number: mj_step raises
        result, expected = env.step(actions(env, 2)), healthy.step(actions(env, 2))
        assert_row_failed(result, "simulation", 2, before)
        assert "integrator" in result.faults[0].message
        np.testing.assert_array_equal(result.obs[OTHERS], expected.obs[OTHERS])
        before = result.obs.copy()
        assert_row_failed(env.step(actions(env, 3)), "simulation", 3, before)
        integrator[BAD] = integrator[0]
        assert env.step(actions(env, 4)).faults == ()


def test_bad_reward_and_observation_of_a_task_are_found() -> None:
    push = np.zeros((ROWS, 1), dtype=np.float32)
    push[BAD] = 1
    for setting, field in (("sour_above", "reward"), ("blind_above", "observation")):
        with new("tests.envs.cart:Cart", **{setting: 0.5}) as env:
            steps = 0
            result = None
            while result is None or not result.faults:
                before = env.obs.copy()
                result = env.step(push)
                steps += 1
            assert 5 < steps < 200
            assert_row_failed(result, field, steps, before)


def test_all_rows_failing_at_once() -> None:
    with new() as env:
        env.qpos[:] = np.nan
        result = env.step(actions(env, 1))
        assert [fault.env_id for fault in result.faults] == list(range(ROWS))
        assert result.terminated.all() and np.isfinite(result.obs).all()
        assert env.step(actions(env, 2)).faults == ()


def test_set_state_refuses_what_is_not_finite() -> None:
    with new() as env, pytest.raises(ValueError, match="finite"):
        env.set_state(np.array([1]), np.full((1, env.model.nq), np.nan), np.zeros((1, env.model.nv)))


SCRIPT = """
import sys
import numpy as np
from unilab.envs import make
env = make(sys.argv[1], 2, seed=0, num_threads=1)
env.reset()
if sys.argv[1] == "HalfCheetah":
    assert len(env.step(np.full((2, 6), np.nan, dtype=np.float32)).faults) == 2
env.close()
"""


@pytest.mark.parametrize("name", ["HalfCheetah", "HalfCheetah-v5"])
def test_no_log_file_in_the_working_directory(tmp_path: Path, name: str) -> None:
    """A faulty simulation makes MuJoCo warn; its log file must not appear where the user works."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SCRIPT, name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ("CTRL" in done.stderr) == (name == "HalfCheetah"), "the warning itself is still shown"
    assert "settotalmass" not in done.stderr, "a deprecation in an installed model is not the user's business"
    assert list(tmp_path.iterdir()) == []


def test_a_log_file_that_the_user_chose_stays(tmp_path: Path) -> None:
    choose = (
        "import mujoco; log = mujoco.MjLogConfig.get(); log.logfile = 'mine.txt'; mujoco.MjLogConfig.set(log)\n"
        "from unilab.envs import make; make('Hopper', 1).close()\n"
        "assert mujoco.MjLogConfig.get().logto_file"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", choose], cwd=tmp_path, env=environment, check=True, timeout=60)


def test_a_state_that_goes_bad_unseen_by_observation_and_reward() -> None:
    """Ant observes and rewards nothing of y; a NaN that the last physics step leaves there is found all the same."""
    with new("Ant") as env:
        before = env.obs.copy()
        after_physics = env.after_physics

        def spoil() -> None:
            after_physics()
            env.qpos[BAD, 1] = np.nan

        env.after_physics = spoil  # type: ignore[method-assign]
        assert_row_failed(env.step(actions(env, 1)), "qpos", 1, before)


class Sourest(Cart):
    """Names its reward, a part of which fails in some rows."""

    def evaluate(self, before: State, actions: Array, state: State) -> tuple[Any, Array]:
        reward, ended = super().evaluate(before, actions, state)
        return {"alive": np.ones(self.num_envs), "sour": np.where(np.isnan(reward), np.nan, 2.0)}, ended


def test_a_row_that_fails_says_nothing_of_the_rewards_of_others() -> None:
    with Sourest(4, num_threads=1, seed=0, sour_above=0.0) as env:
        env.reset()
        for _ in range(5):
            env.step(np.zeros((4, 1), np.float32))
        means = env.metrics()
        assert means["reward/alive"] == pytest.approx(1.0) and means["reward/sour"] == pytest.approx(2.0)
    with Sourest(4, num_threads=1, seed=0, sour_above=-9.0) as env:
        env.reset()
        env.step(np.zeros((4, 1), np.float32))
        assert env.metrics() == {}, "nothing was measured"


SENSED = """
<mujoco><worldbody><body><joint name="x" type="slide" axis="1 0 0"/><geom size=".1" mass="1"/><site name="s"/></body>
</worldbody><actuator><motor joint="x" gear="10"/></actuator><sensor><framepos objtype="site" objname="s"/></sensor>
</mujoco>
"""


@dataclass(frozen=True)
class SensedState(State):
    place: Array


class Speedy(Cart):
    """Is rewarded for what a sensor has moved by since the step before."""

    def load_model(self) -> mujoco.MjModel:
        return mujoco.MjModel.from_xml_string(SENSED)

    def bind_state(self) -> State:
        return SensedState(self.qpos, self.qvel, self.batch.bind("sensordata"))

    def evaluate(self, before: Any, actions: Array, state: Any) -> tuple[Array, Array]:
        return (state.place - before.place)[:, 0], abs(state.qpos[:, 0]) > 5


def test_what_the_physics_computed_before_is_part_of_the_state() -> None:
    push = np.ones((3, 1), np.float32)
    with Speedy(3, num_threads=1, seed=0) as env, Speedy(3, num_threads=1, seed=1) as fresh:
        env.reset()
        fresh.reset()
        for _ in range(3):
            env.step(push)
        saved = env.state_dict()
        true = env.step(push).reward.copy()
        for other in (env, fresh):
            other.load_state_dict(saved)
            np.testing.assert_array_equal(other.step(push).reward, true)
        del saved["own"]["state.place"]
        with pytest.raises(SettingsError, match=r"by another version: state\.place differ"):
            env.load_state_dict(saved)
