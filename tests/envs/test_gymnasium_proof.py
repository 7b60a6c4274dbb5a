"""The tasks against gymnasium's own: same states and actions in, same numbers out."""

import dataclasses
import inspect
from typing import Any

import gymnasium
import numpy as np
import pytest
from mujoco.batch import Batch

from unilab.envs import make
from unilab.envs.mujoco_env import MujocoVecEnv

ENDLESS = {"HalfCheetah": 1000, "HumanoidStandup": 1000, "Pusher": 100, "Reacher": 50, "Swimmer": 1000}
"""tasks that never terminate, and the steps of their episodes"""
FALLING = ["Ant", "Hopper", "Humanoid", "InvertedDoublePendulum", "InvertedPendulum", "Walker2d"]
TASKS = [*ENDLESS, *FALLING]


def own(name: str, num_envs: int, **cfg: Any) -> MujocoVecEnv:
    env = make(name, num_envs, env_cfg_override=cfg, seed=0, num_threads=2)
    assert isinstance(env, MujocoVecEnv)
    env.reset()
    return env


def place(env: MujocoVecEnv, row: int, reference: Any) -> np.ndarray:
    """Begin row's episode where gymnasium's began; the observation of the row."""
    data = reference.unwrapped.data
    return env.set_state(np.array([row]), data.qpos[None], data.qvel[None])[row]


def compare(name: str, steps: int, limit: int, rows: int = 1, **cfg: Any) -> tuple[int, int]:
    """Step ours and gymnasium's together; the number of terminations and of truncations seen."""
    references = [gymnasium.make(f"{name}-v5", max_episode_steps=limit, **cfg) for _ in range(rows)]
    ends = np.zeros(2, dtype=int)
    with own(name, rows + 1, max_episode_steps=limit, **cfg) as env:
        close = {"rtol": 1e-6, "atol": 1e-6}
        actions = np.zeros((rows + 1, env.action_dim), dtype=np.float32)
        for row, reference in enumerate(references):
            reference.action_space.seed(row)
            obs, _ = reference.reset(seed=row)
            np.testing.assert_allclose(place(env, row, reference), obs, **close)
        for _ in range(steps):
            expected = []
            for row, reference in enumerate(references):
                actions[row] = reference.action_space.sample()
                expected.append(reference.step(actions[row])[:4])
            result = env.step(actions)
            assert result.faults == ()
            seen = result.obs.copy()
            seen[result.final_ids] = result.final_obs
            for row, (obs, reward, terminated, truncated) in enumerate(expected):
                np.testing.assert_allclose(seen[row], obs, **close)
                np.testing.assert_allclose(result.reward[row], reward, **close)
                assert (result.terminated[row], result.truncated[row]) == (terminated, truncated)
            for row, (_, _, terminated, truncated) in enumerate(expected):
                if terminated or truncated:
                    ends += (terminated, truncated)
                    obs, _ = references[row].reset()
                    np.testing.assert_allclose(place(env, row, references[row]), obs, **close)
    for reference in references:
        reference.close()
    return int(ends[0]), int(ends[1])


@pytest.mark.parametrize("name", TASKS)
def test_thousand_random_steps(name: str) -> None:
    limit = ENDLESS.get(name, 1000)
    terminations, truncations = compare(name, steps=1000, limit=limit, rows=2)
    if name in ENDLESS:
        assert (terminations, truncations) == (0, 2 * 1000 // limit)
    else:
        assert terminations > 5


@pytest.mark.parametrize("name", TASKS)
def test_defaults_are_those_of_gymnasium(name: str) -> None:
    spec, signature = gymnasium.spec(f"{name}-v5"), inspect.signature(gymnasium.make(f"{name}-v5").unwrapped.__init__)
    with own(name, 1) as env:
        ours = dataclasses.asdict(env.settings)
    assert ours.pop("max_episode_steps") == spec.max_episode_steps
    theirs = {key: value.default for key, value in signature.parameters.items()}
    for key, value in ours.items():
        assert value == theirs.get(key, value), key
    missing = theirs.keys() - ours.keys() - {"xml_file", "default_camera_config", "kwargs", "uph_cost_weight"}
    assert not missing, "settings of gymnasium's that ours has not"


CHANGED: dict[str, dict[str, Any]] = {
    "HalfCheetah": {"frame_skip": 3, "forward_reward_weight": 2.0, "ctrl_cost_weight": 0.3},
    "Hopper": {
        "healthy_reward": 0.5,
        "healthy_state_range": (-3.0, 3.0),
        "healthy_z_range": (1.0, 1.4),
        "healthy_angle_range": (-0.1, 0.05),
        "ctrl_cost_weight": 0.2,
    },
    "Walker2d": {
        "terminate_when_unhealthy": False,
        "healthy_z_range": (1.1, 1.3),
        "healthy_angle_range": (-0.3, 0.3),
        "forward_reward_weight": 0.5,
    },
    "Ant": {
        "contact_force_range": (-30.0, 30.0),
        "contact_cost_weight": 1e-2,
        "main_body": "front_left_leg",
        "healthy_z_range": (0.4, 0.9),
        "healthy_reward": 2.0,
    },
    "Humanoid": {
        "forward_reward_weight": 2.0,
        "contact_cost_weight": 1e-4,
        "contact_cost_range": (0.5, 3.0),
        "healthy_z_range": (1.2, 1.45),
        "include_cinert_in_observation": False,
    },
    "HumanoidStandup": {
        "impact_cost_weight": 1e-4,
        "impact_cost_range": (0.5, 3.0),
        "include_cvel_in_observation": False,
        "include_qfrc_actuator_in_observation": False,
    },
    "InvertedDoublePendulum": {"healthy_reward": 3.0, "frame_skip": 2},
    "InvertedPendulum": {"frame_skip": 3},
    "Pusher": {"reward_near_weight": 2.0, "reward_dist_weight": 0.3, "reward_control_weight": 0.7, "frame_skip": 2},
    "Reacher": {"reward_dist_weight": 0.3, "reward_control_weight": 0.7, "frame_skip": 3},
    "Swimmer": {"forward_reward_weight": 2.0, "ctrl_cost_weight": 0.3, "frame_skip": 2},
}
WITHOUT_NOISE = ("Pusher", "Reacher")
"""gymnasium has no setting for the noise of their initial states"""
ALL_OBSERVED = ("InvertedDoublePendulum", "InvertedPendulum", *WITHOUT_NOISE)
"""no position is left out of their observations"""


@pytest.mark.parametrize("name", TASKS)
def test_changed_settings(name: str) -> None:
    cfg = dict(CHANGED[name])
    if name not in WITHOUT_NOISE:
        cfg["reset_noise_scale"] = 0.02
    if name not in ALL_OBSERVED:
        cfg["exclude_current_positions_from_observation"] = False
    compare(name, steps=200, limit=50, **cfg)


@pytest.mark.parametrize(
    ("name", "weight"), [("Ant", "contact"), ("Humanoid", "contact"), ("HumanoidStandup", "impact")]
)
def test_without_forces(name: str, weight: str) -> None:
    """Unobserved they still cost something; what has no use of them at all has a name of its own."""
    compare(name, steps=60, limit=50, include_cfrc_ext_in_observation=False)
    free = {"include_cfrc_ext_in_observation": False, f"{weight}_cost_weight": 0.0}
    compare(name, steps=60, limit=50, **free)
    with own(name, 2, **free) as changed, own(f"{name}NoForces", 2) as named:
        assert not (changed.persistent or named.persistent)
        for _ in range(30):
            actions = np.full((2, named.action_dim), 0.3, dtype=np.float32)
            ours, theirs = named.step(actions), changed.step(actions)
            np.testing.assert_array_equal(ours.obs, theirs.obs)
            np.testing.assert_array_equal(ours.reward, theirs.reward)


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("Pusher", "Reacher")])  # of several trees
def test_options_that_save_work_change_no_bit(name: str) -> None:
    """Random episodes on the model as its file has it, beside the environment's own."""
    with own(name, 32, max_episode_steps=None) as env:
        plain = Batch(env.load_model(), 32, 2)
        assert plain.model.opt.disableflags != env.model.opt.disableflags
        rng = np.random.default_rng(0)
        for _ in range(150):
            plain.state[:] = env.batch.state
            actions = rng.uniform(-1, 1, (32, env.action_dim)).astype(np.float32)
            plain.bind("ctrl")[:] = actions
            plain.step(nstep=env.settings.frame_skip)
            going = ~env.step(actions).terminated
            np.testing.assert_array_equal(env.batch.state[going], plain.state[going])


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance between the empirical distributions of two samples."""
    at = np.concatenate((a, b))
    below_a = np.searchsorted(np.sort(a), at, side="right") / a.size
    below_b = np.searchsorted(np.sort(b), at, side="right") / b.size
    return float(np.abs(below_a - below_b).max())


@pytest.mark.parametrize("name", TASKS)
def test_initial_states_have_the_same_distribution(name: str) -> None:
    reference = gymnasium.make(f"{name}-v5")
    reference.reset(seed=0)
    theirs = np.array([reference.reset()[0] for _ in range(600)]).astype(np.float32)
    with own(name, 600, max_episode_steps=1) as env:
        at_reset = env.obs.copy()
        after_an_episode = env.step(np.zeros((600, env.action_dim), dtype=np.float32)).obs
        for ours in (at_reset, after_an_episode):
            varying = theirs.std(axis=0) > 1e-6  # the rest are constants, or differ by rounding
            np.testing.assert_allclose(ours[:, ~varying], theirs[:, ~varying], rtol=1e-5, atol=1e-5)
            for column in np.flatnonzero(varying):
                # the two-sample test rejects at level 1e-5 beyond 2.47 * sqrt((n + m) / (n * m))
                distance = kolmogorov_smirnov(ours[:, column], theirs[:, column])
                assert distance < 2.47 * np.sqrt(2 / 600), (column, distance)
            scale, positions = env.settings.reset_noise_scale, env.model.nq
            uniform = {
                "Ant": np.arange(positions - 2),
                "HalfCheetah": np.arange(positions - 1),
                "Humanoid": np.arange(positions + env.model.nv - 2),
                "HumanoidStandup": np.arange(positions + env.model.nv - 2),
                "InvertedDoublePendulum": np.arange(1),
                "Pusher": np.arange(7, 14),
                "Reacher": np.arange(0),
            }.get(name, np.arange(env.obs_dim))
            offsets = ours[:, uniform] - theirs.mean(axis=0)[uniform]
            assert np.abs(offsets).max(initial=0) <= 1.1 * scale
            assert (offsets.max(axis=0) > 0.9 * scale).all() and (offsets.min(axis=0) < -0.9 * scale).all()
    reference.close()
