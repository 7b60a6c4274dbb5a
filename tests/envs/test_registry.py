from typing import Any

import gymnasium
import pytest

from tests.envs import cart
from unilab.envs import VecEnv, make, names, registry
from unilab.envs.gymnasium_adapter import GymnasiumVecEnv
from unilab.envs.mujoco_env import usable_cores
from unilab.settings import SettingsError


def kind(name: str, **cfg: Any) -> type[VecEnv]:
    with make(name, 2, env_cfg_override=cfg, seed=0, num_threads=1) as env:
        return type(env)


def test_names_of_the_tasks() -> None:
    gymnasium_has = {spec.name for spec in gymnasium.registry.values() if "envs.mujoco." in str(spec.entry_point)}
    without_forces = {"AntNoForces", "HumanoidNoForces", "HumanoidStandupNoForces"}
    robots = {f"Velocity-{robot}" for robot in ("Barkour", "G1", "Go1", "Go2", "H1", "Spot", "T1")}
    assert names() == sorted(gymnasium_has | without_forces | robots)


@pytest.mark.parametrize(
    ("name", "robot"),
    [
        ("Velocity-Go2", True),
        ("unilab.envs.robots.spot:SPOT", True),
        ("Ant", False),
        ("tests.envs.cart:Cart", False),
        ("Pendulum-v1", False),
        ("no_such_module:ROBOT", False),
    ],
)
def test_robots_are_told_from_other_environments(name: str, robot: bool) -> None:
    assert registry.is_robot(name, load=True) == robot
    assert registry.is_robot(name) == (robot and ":" not in name)


def carts(num_envs: int, *, num_threads: int | None, seed: int | None, frame_skip: int) -> VecEnv:
    return cart.Cart(num_envs, num_threads=num_threads, seed=seed, frame_skip=frame_skip)


def test_a_factory_may_need_settings_of_its_own() -> None:
    name = "tests.envs.test_registry:carts"
    assert kind(name, frame_skip=3) is cart.Cart
    for cfg, message in (({}, "'frame_skip'"), ({"frame_skip": 3, "x": 1}, "'x'")):
        with pytest.raises(ValueError, match=rf"carts\(\) .*expected a function .*{message}"):
            make(name, 2, env_cfg_override=cfg)


def test_module_attribute_names() -> None:
    assert kind("tests.envs.cart:Cart", frame_skip=3) is cart.Cart
    assert kind("tests.envs.cart:Countdown", steps=3) is GymnasiumVecEnv
    assert kind("gymnasium:Pendulum-v1") is GymnasiumVecEnv


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("HalfCheeta", "did you mean 'HalfCheetah'"),
        ("half_cheetah", "did you mean 'HalfCheetah'"),
        ("CartPole", "did you mean 'CartPole-v1'"),
        ("CartPol-v1", "did you mean 'CartPole-v1'"),
        ("xyz", "known: Ant, AntNoForces, HalfCheetah, Hopper, Humanoid, "),
        ("no_such_module:Env", "no module 'no_such_module'"),
        ("tests.no_such_module:Env", "no module 'tests.no_such_module'"),
        ("tests.envs.cart:Cat", "has no 'Cat'; did you mean 'Cart'"),
        ("tests.envs.cart:NOT_AN_ENVIRONMENT", "is a int"),
        ("tests.envs.cart:CartSettings", "must be a VecEnv or a gymnasium.Env"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, 2)


@pytest.mark.parametrize(
    ("name", "cfg", "message"),
    [
        ("HalfCheetah", {"ctrl_cost_wieght": 1}, "ctrl_cost_wieght: unknown setting; did you mean 'ctrl_cost_weight'"),
        ("HalfCheetah", {"frame_skip": 0}, "frame_skip: .*greater than or equal to 1, got 0"),
        ("Hopper", {"healthy_z_range": (2.0, 1.0)}, "healthy_z_range: .*lower bound must be below"),
        ("Hopper", {"max_episode_steps": "long"}, "max_episode_steps: .*integer"),
        ("Ant", {"main_body": "nose"}, "main_body: the model has no body 'nose'; it has: world, torso"),
        ("Ant", {"reset_noise_scale": float("nan")}, "reset_noise_scale: .*finite"),
        ("Ant", {"seed": 3}, "seed: is an argument of make"),
        ("Pendulum-v1", {"gravity": 3.0}, "Pendulum-v1 refused its settings: .*gravity"),
        ("tests.envs.cart:Countdown", {"stpes": 3}, "Countdown refused its settings: .*stpes"),
    ],
)
def test_bad_settings(name: str, cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make(name, 2, env_cfg_override=cfg)


def test_bad_sizes_and_backend() -> None:
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        make("Hopper", 0)
    with pytest.raises(ValueError, match=r"num_threads must be at least 1 .*, got 0"):
        make("Hopper", 1, num_threads=0)
    with pytest.raises(ValueError, match="unknown sim_backend 'bullet'; there is: mujoco"):
        make("Hopper", 1, sim_backend="bullet")


def test_all_usable_cores_by_default() -> None:
    with make("Hopper", 1) as env:
        assert env.num_threads == usable_cores()
