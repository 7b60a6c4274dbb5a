"""The task ``Velocity``, with the Unitree Go1 unless a test says otherwise."""

import csv
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from harness import cli
from tests.envs.contract import check_vec_env
from tests.envs.robots.here import VELOCITY, needs_go1, tried
from unilab.envs import VecEnv, make
from unilab.envs.tasks.velocity.task import Velocity, with_robot
from unilab.envs.tasks.velocity.terrain import CELL
from unilab.errors import UserError
from unilab.settings import SettingsError

pytestmark = needs_go1


def go1(rows: int = 4, *, seed: int | None = 0, num_threads: int = 1, **cfg: Any) -> Velocity:
    env = make("Velocity-Go1", rows, env_cfg_override=cfg, seed=seed, num_threads=num_threads)
    assert isinstance(env, Velocity)
    return env


def stand(env: VecEnv) -> np.ndarray:
    return np.zeros((env.num_envs, env.action_dim), np.float32)


def test_it_keeps_the_contract_with_commands_that_change() -> None:
    check_vec_env(partial(go1, command_seconds=0.08))


EVERYTHING = {
    "friction": (0.4, 1.0), "trunk_mass": (-1.0, 1.0), "masses": (0.9, 1.1), "centre_of_mass": 0.05,
    "gains": (0.9, 1.1), "damping": (0.9, 1.1), "armature": (0.9, 1.1), "motor_strength": (0.8, 1.0),
    "push": 0.5, "push_seconds": 0.06, "latency": 2, "noise": 1.0,
}  # fmt: skip


def test_it_keeps_the_contract_with_everything_randomized() -> None:
    check_vec_env(partial(go1, command_seconds=0.08, randomize=EVERYTHING, history=2, terrain="rough"))


def test_feet_begin_to_swing_in_the_order_of_the_gait() -> None:
    gait = (0.0, 0.25, 0.5, 0.75)
    with go1() as env, with_robot(replace(env.robot, gait=gait))(4, num_threads=1, seed=0) as other:
        other.reset()
        other.state.phase[:] = np.array(gait) + 0.01
        lifted = other._wanted_heights(other.state, 1.0)
        assert (np.diag(lifted) > 0).all() and (np.diag(lifted) < 0.1).all(), "each has just begun at its own time"
        assert (lifted > 0.9).sum() == 4, "the one before is up"


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("trunk_mass", (-10.0, 1.0)), ("trunk_mass", (0.0, math.inf)),
        ("masses", (-0.1, 0.1)), ("gains", (0.0, 1.0)), ("friction", (-0.1, 1.0)),
        ("motor_strength", (-1.0, 1.0)), ("damping", (-1.0, 1.0)), ("armature", (-1.0, 1.0)),
    ],
)  # fmt: skip
def test_robots_that_cannot_be_are_refused(name: str, bounds: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=name):
        go1(randomize={name: bounds})


def test_durations_without_an_end_are_refused() -> None:
    with pytest.raises(UserError, match="command_seconds"):
        go1(command_seconds=math.inf)
    with pytest.raises(UserError, match="push_seconds"):
        go1(randomize={"push": 0.5, "push_seconds": math.inf})


def test_a_closed_robot_has_no_threads_left() -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    env = go1(num_threads=3, randomize=EVERYTHING)
    env.reset()
    env.step(stand(env))
    assert threads() >= before + 2
    env.close()
    assert threads() == before and not env.carried


def test_the_state_of_another_robot_is_refused() -> None:
    with go1() as env, make("Velocity-Spot", 4, num_threads=1, seed=0) as other:
        env.reset()
        state = env.state_dict()
        with pytest.raises(UserError, match=r"of Velocity of unitree_go1.*is Velocity of boston_dynamics_spot"):
            other.load_state_dict(state)


def test_the_state_of_a_robot_with_other_settings_is_refused() -> None:
    gains, strength = {"gains": (0.9, 1.1)}, {"motor_strength": (0.9, 1.1)}
    with go1(randomize=gains) as env, go1(randomize=strength) as other:
        env.reset()
        state, before = env.state_dict(), other.reset()[0].copy()
        assert env.critic_dim == other.critic_dim
        with pytest.raises(UserError, match=r"other settings.*gainprm.*make the environment with"):
            other.load_state_dict(state)
        np.testing.assert_array_equal(other.obs, before)


def test_a_model_of_ones_own_is_the_same_robot_in_each_folder(tmp_path: Path) -> None:
    with go1() as env:
        robot, model = env.robot, env.robot.file()
    folders = tmp_path / "here", tmp_path / "there"
    for folder in folders:
        shutil.copytree(model.parent, folder)
    here, there = (with_robot(replace(robot, model=folder / model.name)) for folder in folders)
    with here(4, num_threads=1, seed=0) as env, there(4, num_threads=1, seed=1) as moved:
        env.reset()
        moved.load_state_dict(env.state_dict())
        np.testing.assert_array_equal(moved.obs, env.obs)


def test_actions_take_effect_after_the_delay_that_was_drawn() -> None:
    with go1(rows=60, stepping=0.0, randomize={"latency": 2}) as env:
        env.reset()
        delays = env.state.drawn[:, -1].astype(int)
        assert sorted(set(delays)) == [0, 1, 2] and env.critic is not None
        assert (env.critic == delays[:, None]).all(axis=0).any(), "the critic sees it"
        sent = np.zeros((60, 12)), np.zeros((60, 12))
        for step in range(1, 5):
            action = np.full((60, 12), step / 10, np.float32)
            sent = action, *sent[:2]
            targets = env.apply_action(action) - env.init_qpos[7:]
            np.testing.assert_allclose(targets, 0.25 * np.stack(sent)[delays, np.arange(60)], atol=1e-12)
            np.testing.assert_array_equal(env.state.action, action), "it observes what it sent"


def test_the_critic_sees_what_was_drawn() -> None:
    with go1(rows=3, randomize={"gains": (0.9, 1.1), "centre_of_mass": 0.05, "push": 0.5, "push_seconds": 0.02}) as env:
        env.reset()
        models = [env.batch.get_model(row) for row in range(3)]
        gains = [one.actuator_gainprm[:, 0] / env.model.actuator_gainprm[:, 0] - 1 for one in models]
        shifts = [one.body_ipos[1] - env.model.body_ipos[1] for one in models]
        np.testing.assert_allclose(env.state.drawn[:, 1:], np.hstack([shifts, gains]), atol=1e-12)
        env.step(stand(env))
        seen = np.hstack([env.state.drawn, env.state.push]).astype(np.float32)
        assert env.critic is not None and (env.state.push != 0).all()
        np.testing.assert_array_equal(env.critic[:, -seen.shape[1] :], seen)


def test_the_policy_sees_the_steps_before() -> None:
    with go1(history=3, randomize={"noise": 1.0}) as env:
        obs = env.reset()[0].copy()
        np.testing.assert_array_equal(obs, np.tile(obs[:, :47], 3)), "nothing was before"
        for _ in range(4):
            before, obs = obs, env.step(stand(env)).obs.copy()
            np.testing.assert_array_equal(obs[:, 47:], before[:, :94])
            assert (obs[:, :3] != before[:, :3]).all()
        env.set_state(np.array([2]), env.init_qpos[None], np.zeros((1, env.model.nv)))
        np.testing.assert_array_equal(env.obs[2], np.tile(env.obs[2, :47], 3))
        np.testing.assert_array_equal(env.obs[1], obs[1])
        names = env.deployment()["observation_names"]
        assert len(set(names)) == len(names) == env.obs_dim
        assert names.index("gyro.x[-2]") == 2 * names.index("gyro.x[-1]") == 94


@pytest.mark.parametrize("kind", ["rough", "stairs"])
def test_ground_that_is_not_flat_repeats_itself(kind: Any) -> None:
    with go1(rows=8, terrain=kind, stepping=0.0, reset_noise_scale=0.0) as env:
        env.reset()
        assert env._ground is not None and np.ptp(env._ground.heights) > 0.04
        data, down, random = mujoco.MjData(env.model), np.array([0.0, 0.0, -1.0]), np.random.default_rng(0)
        data.qpos[2] = 50
        mujoco.mj_forward(env.model, data)
        for place in CELL * np.rint(random.uniform(-4.9, 4.9, (50, 2)) / CELL):
            geom = np.zeros(1, np.int32)
            hit = mujoco.mj_ray(env.model, data, np.array([*place, 9.0]), down, None, 1, -1, geom, None)
            assert 9 - hit == pytest.approx(env._ground.under(place), abs=1e-6), "as the simulation has it"
        for _ in range(40):
            env.step(stand(env))
        heights = env.state.feet[:, :, 2] - env.state.ground[:, 1:]
        assert (heights > 0).all() and np.median(heights) < 0.06, "it stands there"
        qpos, qvel = env.qpos[:1].copy(), np.zeros((1, env.model.nv))
        qpos[0, :3], qvel[0, 0] = [3.99, 0, 0.6], 2.0
        env.set_state(np.array([0]), qpos, qvel)
        result = env.step(stand(env))
        assert -4.01 < env.qpos[0, 0] < -3.9 and not result.faults
        assert abs(env.state.feet[0] - env.before.feet[0]).max() < 0.2, "the feet come along"
        env.step(stand(env))
        assert abs(env.state.feet[0] - env.before.feet[0]).max() < 0.2


def test_each_episode_has_a_model_of_its_own() -> None:
    with go1(rows=400, randomize=EVERYTHING) as env:
        env.reset()
        models = [env.batch.get_model(row) for row in range(400)]
        original = env.model
        extra = np.array([one.body_mass[1] - original.body_mass[1] for one in models])
        assert -1 <= extra.min() < -0.9 and 0.9 < extra.max() <= 1
        friction = np.array([one.geom("ground").friction[0] for one in models])
        np.testing.assert_array_equal(env.state.drawn[:, 0], friction)
        assert 0.4 <= friction.min() < 0.45 and 0.95 < friction.max() <= 1
        for one in models:
            np.testing.assert_allclose(one.actuator_gainprm[:, 0], -one.actuator_biasprm[:, 1])
            strength = one.actuator_forcerange / original.actuator_forcerange
            assert ((strength >= 0.8) & (strength <= 1)).all()
            assert one.body_subtreemass[1] == pytest.approx(one.body_mass[1:].sum()), "constants follow"
        before = env.state.drawn[:, 0].copy()
        env.set_state(np.array([3]), env.init_qpos[None], np.zeros((1, env.model.nv)))
        assert np.flatnonzero(before != env.state.drawn[:, 0]).tolist() == [3], "of one new episode alone"


def test_the_critic_sees_without_noise() -> None:
    with go1(reset_noise_scale=0.0, randomize={"noise": 1.0}) as env:
        obs, critic = env.reset()
        assert critic is not None
        error = obs[:, :30] - critic[:, :30]
        assert (error != 0).all() and (abs(error[:, :3]) <= 0.2001).all() and (abs(error[:, 3:6]) <= 0.0501).all()
        np.testing.assert_array_equal(obs[:, 30:47], critic[:, 30:47])


def test_pushes_come_when_they_are_due() -> None:
    with go1(rows=2, randomize={"push": 1.0, "push_seconds": 0.2}) as env, go1(rows=2) as calm:
        for one in (env, calm):
            one.reset()
        for step in range(1, 11):
            env.step(stand(env))
            calm.step(stand(calm))
            assert np.array_equal(env.qvel, calm.qvel) == (step < 10)
        assert abs(env.qvel - calm.qvel)[:, :2].max() > 0.1


@pytest.mark.parametrize("name", tried(VELOCITY))
def test_every_robot_steps(name: str) -> None:
    with make(name, 8, seed=0, num_threads=1) as env:
        env.reset()
        random = np.random.default_rng(0)
        for _ in range(25):
            actions = random.uniform(-1, 1, (8, env.action_dim)).astype(np.float32)
            result = env.step(actions)
            assert result.faults == ()
        assert np.isfinite(env.obs).all() and abs(env.obs).max() < 100
        assert env.critic_dim > env.obs_dim


def test_commands_are_within_their_ranges_and_one_in_ten_is_to_stand() -> None:
    with go1() as env:
        drawn = env.commands(20_000, env.rng)
        standing = ~drawn.any(axis=1)
        assert 0.09 < standing.mean() < 0.11
        np.testing.assert_allclose(drawn.max(axis=0), [1, 0.5, 1], atol=0.01)
        np.testing.assert_allclose(drawn.min(axis=0), [-1, -0.5, -1], atol=0.01)


def test_commands_change_after_their_time_and_are_rewarded_as_they_were_observed() -> None:
    with go1(rows=2, command_seconds=0.06, standing_fraction=0.0) as env:
        env.reset()
        seen = [env.state.command[0, 0]]
        for _ in range(6):
            env.step(stand(env))
            np.testing.assert_allclose(env.obs[:, -5:-2], env.state.command, rtol=1e-6)
            seen.append(env.state.command[0, 0])
        assert len(set(seen[:3])) == 1 and len(set(seen[3:6])) == 1 and len(set(seen)) == 3
        error = ((env.before.command[:, :2] - velocity(env)[:, :2]) ** 2).sum(axis=1)
        terms, _ = env.evaluate(env.before, stand(env), env.state)
        np.testing.assert_allclose(terms["track_velocity"], env.dt * np.exp(-error / 0.25), rtol=1e-6)


def velocity(env: Velocity) -> np.ndarray:
    """Of the trunks in their frames, by MuJoCo's own rotations."""
    result = np.zeros((env.num_envs, 3))
    for row in range(env.num_envs):
        inverse = np.zeros(4)
        mujoco.mju_negQuat(inverse, env.qpos[row, 3:7])
        mujoco.mju_rotVecQuat(result[row], env.qvel[row, :3], inverse)
    return result


def test_commands_have_their_full_size_after_the_training() -> None:
    with go1(curriculum_steps=10, curriculum_start=0.2, standing_fraction=0.0) as env:
        env.steps_before = math.inf
        env.reset()
        assert abs(env.commands(2000, env.rng)).max(axis=0) == pytest.approx([1.0, 0.5, 1.0], rel=0.05)


def test_commands_grow_with_progress() -> None:
    with go1(curriculum_steps=10, curriculum_start=0.2, standing_fraction=0.0) as env:
        env.reset()
        assert abs(env.commands(2000, env.rng)).max(axis=0) == pytest.approx([0.2, 0.1, 0.2], rel=0.05)
        for _ in range(5):
            env.step(stand(env))
        assert abs(env.commands(2000, env.rng)).max(axis=0) == pytest.approx([0.6, 0.3, 0.6], rel=0.05)
        for _ in range(10):
            env.step(stand(env))
        assert abs(env.commands(2000, env.rng)).max(axis=0) == pytest.approx([1.0, 0.5, 1.0], rel=0.05)


def test_the_observation_of_a_robot_that_stands() -> None:
    with go1(reset_noise_scale=0.0, stepping=0.0) as env:
        obs, critic = env.reset()
        assert critic is not None
        np.testing.assert_allclose(obs[:, :3], 0, atol=1e-6)
        np.testing.assert_allclose(obs[:, 3:6], [[0, 0, -1]] * 4, atol=1e-6)
        np.testing.assert_allclose(obs[:, 6:42], 0, atol=1e-6)
        np.testing.assert_array_equal(critic[:, :47], obs)
        for _ in range(10):
            env.step(stand(env))
        assert (env.state.contact == 1).all() and (env.state.air_time == 0).all()
        assert (env.obs[:, 6:18] != 0).any(), "gravity pulls it down a little"


def test_a_fall_ends_the_episode_and_costs() -> None:
    with go1(rows=2) as env:
        env.reset()
        qpos = np.tile(env.init_qpos, (1, 1))
        qpos[0, 3:7] = np.cos(0.6), np.sin(0.6), 0, 0  # on its side by 69 degrees
        env.set_state(np.array([1]), qpos, np.zeros((1, env.model.nv)))
        result = env.step(stand(env))
        assert result.terminated.tolist() == [False, True] and result.faults == ()
        assert result.reward[1] < -0.9 and result.reward[0] > -0.5


def test_every_term_of_the_reward_is_among_the_metrics() -> None:
    with go1(rows=2, reward={"air_time": 0.0, "slip": -0.2}) as env:
        env.reset()
        total = sum(float(env.step(stand(env)).reward.mean()) for _ in range(5)) / 5
        metrics = env.metrics()
        terms = {name: value for name, value in metrics.items() if name.startswith("reward/")}
        assert sum(terms.values()) == pytest.approx(total, rel=1e-5)
        assert {"reward/track_velocity", "reward/gait", "reward/slip"} <= terms.keys()
        assert "reward/air_time" not in terms, "a term without weight is not computed"
        assert metrics["velocity_error"] > 0 and metrics["turn_error"] > 0


def test_contacts_of_everything_make_the_same_robot() -> None:
    with go1(contacts="all", stepping=0.0) as env:
        env.reset()
        for _ in range(20):
            assert not env.step(stand(env)).terminated.any()


def test_legs_step_in_a_trot_before_anything_is_learned() -> None:
    with go1(rows=2, standing_fraction=0.0, reset_noise_scale=0.0) as env:
        env.reset()
        env.state.phase[:] = 0.25
        offsets = env.apply_action(stand(env)) - env.init_qpos[7:]
        lifted, on_ground = [0, 0.3, -0.6], [0, 0, 0]
        np.testing.assert_allclose(offsets[0], [*lifted, *on_ground, *on_ground, *lifted], atol=1e-12)
        env.state.phase[:] = 0.75
        offsets = env.apply_action(stand(env)) - env.init_qpos[7:]
        np.testing.assert_allclose(offsets[0], [*on_ground, *lifted, *lifted, *on_ground], atol=1e-12)
        env.state.command[:] = 0
        assert (env.apply_action(stand(env)) == env.init_qpos[7:]).all(), "who is to stand does not step"


def test_terms_that_sum_over_joints_and_feet_are_what_they_say() -> None:
    weights = {"joint_limits": -1.0, "stand_still": -0.5, "torque": -2e-4, "air_time": 1.5}
    with go1(rows=8, reward=weights, standing_fraction=0.5) as env:
        env.reset()
        rng, seen = np.random.default_rng(0), dict.fromkeys(weights, 0.0)
        low, high = env.model.jnt_range[1:].T
        spare = 0.025 * (high - low)  # 5 % of the range, half of it at either end
        for _ in range(60):
            env.step(rng.uniform(-3, 3, (8, 12)).astype(np.float32))
            before, state = env.before, env.state
            terms, _ = env.evaluate(before, stand(env), state)
            for row in range(8):
                moving = float(np.linalg.norm(before.command[row]) > 0.05)
                joints, torques = state.qpos[row, 7:], state.torque[row]
                beyond = [
                    max(0, least + s - q) + max(0, q - most + s)
                    for q, least, most, s in zip(joints, low, high, spare, strict=True)
                ]
                flights = zip(before.air_time[row], state.contact[row], strict=True)
                expected = {
                    "joint_limits": sum(beyond),
                    "stand_still": (1 - moving)
                    * sum(abs(q - p) for q, p in zip(joints, env.init_qpos[7:], strict=True)),
                    "torque": math.sqrt(sum(t * t for t in torques)) + sum(map(abs, torques)),
                    "air_time": moving * sum(air + env.dt - 0.1 for air, touches in flights if touches and air > 0),
                }
                for name, value in expected.items():
                    assert terms[name][row] == pytest.approx(weights[name] * env.dt * value, rel=1e-9, abs=1e-12), name
                    seen[name] += abs(value)
        assert all(seen.values()), "each of them was there"


def test_unknown_terms_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"reward\.gate: unknown setting; did you mean"):
        go1(reward={"gate": 1.0})


CONFIG = """\
trainer: appo
env: Velocity-Go1
settings: {mode: sync, num_envs: 8, steps_per_env: 8, env_threads: 1, learner_threads: 1}
"""


def test_it_trains_and_its_metrics_have_the_terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "go1.yaml").write_text(CONFIG)
    assert cli.main(["train", "go1.yaml", "--iterations", "2"]) == 0
    with (tmp_path / "runs" / "go1" / "curve.csv").open() as file:
        *_, last = csv.DictReader(file)
    assert float(last["env_steps"]) == 128
    assert float(last["reward/track_velocity"]) > 0 and float(last["velocity_error"]) > 0
