"""The evaluation tells those that walk from those that do not."""

import dataclasses

import numpy as np
import pytest

from tests.envs.robots.here import needs_go1
from unilab.envs.robots.go1 import GO1
from unilab.envs.tasks.velocity.evaluation import SECONDS, Following, follow, planar_velocity, tilt
from unilab.envs.tasks.velocity.rotation import down_in_body, in_body
from unilab.envs.tasks.velocity.scene import Contacts
from unilab.envs.tasks.velocity.task import with_robot
from unilab.envs.vec_env import FloatArray

VelocityGo1 = with_robot(GO1)
SHORT = {"episodes": 16, "seconds": 10.0, "num_threads": 1}


def stand(obs: FloatArray) -> FloatArray:
    return np.zeros((len(obs), 12), np.float32)


@needs_go1
def test_a_standing_robot_does_not_walk() -> None:
    outcome = follow(stand, VelocityGo1, stepping=0.0, **SHORT)  # type: ignore[arg-type]
    assert outcome.falls == 0 and not outcome.walks
    assert 0.35 < outcome.velocity_error < 0.65 and 0.3 < outcome.turn_error < 0.65, "the mean sizes of commands"
    again = follow(stand, VelocityGo1, stepping=0.0, **SHORT)  # type: ignore[arg-type]
    assert again == outcome


@needs_go1
def test_steps_on_the_spot_are_not_walking() -> None:
    assert not follow(stand, VelocityGo1, **SHORT).walks  # type: ignore[arg-type]


@needs_go1
def test_a_command_may_be_given_and_the_ground_is_flat() -> None:
    cfg = {"stepping": 0.0, "judged_command": (0.5, 0.0, 0.2), "terrain": "stairs", "history": 2}
    outcome = follow(stand, VelocityGo1, **SHORT, **cfg)  # type: ignore[arg-type]
    assert outcome.falls == 0 and outcome.velocity_error == pytest.approx(0.5, abs=0.01)
    assert outcome.turn_error == pytest.approx(0.2, abs=0.01)


@needs_go1
def test_a_random_policy_falls() -> None:
    random = np.random.default_rng(0)

    def act(obs: FloatArray) -> FloatArray:
        return random.uniform(-3, 3, (len(obs), 12)).astype(np.float32)

    outcome = follow(act, VelocityGo1, **SHORT)  # type: ignore[arg-type]
    assert outcome.falls > 0.9 and not outcome.walks
    assert outcome.velocity_error < 0.8, "after a fall the velocity counts as 0"


@needs_go1
def test_settings_of_the_training_do_not_make_it_easier() -> None:
    easy = {"forward": (-0.1, 0.1), "turn": (-0.1, 0.1), "standing_fraction": 1.0, "command_seconds": 0.14}
    strict = follow(stand, VelocityGo1, stepping=0.0, **SHORT, **easy)  # type: ignore[arg-type]
    assert strict.velocity_error > 0.35


@needs_go1
@pytest.mark.parametrize(("contacts", "falls"), [("feet", 1.0), ("all", 0.0)])
def test_a_trunk_that_touches_nothing_lies_on_the_ground_by_its_height(contacts: Contacts, falls: float) -> None:
    low = with_robot(dataclasses.replace(GO1, fallen_height=10.0))
    outcome = follow(stand, low, episodes=2, seconds=1.1, num_threads=1, judged_contacts=contacts)
    assert outcome.falls == falls


@needs_go1
def test_a_policy_acts_as_often_as_it_was_trained_to() -> None:
    acted = []

    def act(obs: FloatArray) -> FloatArray:
        acted.append(len(obs))
        return stand(obs)

    follow(act, VelocityGo1, episodes=2, seconds=2.0, num_threads=1, frame_skip=10)
    assert acted == [2] * 50, "steps of 0.04 s"
    with pytest.raises(ValueError, match=r"above 1, when errors begin to count, got 0\.5"):
        follow(act, VelocityGo1, episodes=2, seconds=0.5)


@pytest.mark.parametrize(
    ("outcome", "walks"),
    [
        (Following(0.25, 0.3, 0.05), True),
        (Following(0.26, 0.1, 0.0), False),
        (Following(0.1, 0.31, 0.0), False),
        (Following(0.1, 0.1, 0.06), False),
    ],
)
def test_what_is_called_walking(outcome: Following, walks: bool) -> None:
    assert outcome.walks == walks
    assert SECONDS == 20.0, "of each episode"


def test_rotations_agree_with_those_of_scipy() -> None:
    random = np.random.default_rng(0)
    qpos, qvel = random.standard_normal((50, 19)), random.standard_normal((50, 18))
    qpos[:, 3:7] /= np.sqrt((qpos[:, 3:7] ** 2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(in_body(np, qpos[:, 3:7], qvel[:, :3])[:, :2], planar_velocity(qpos, qvel)[:, :2])
    down = down_in_body(np, qpos[:, 3:7])
    np.testing.assert_allclose(down, in_body(np, qpos[:, 3:7], np.tile([0.0, 0.0, -1.0], (50, 1))), atol=1e-12)
    np.testing.assert_allclose(np.degrees(np.arccos(-down[:, 2])), tilt(qpos[:, 3:7]))
