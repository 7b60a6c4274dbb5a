"""The robots' models as they are edited for training."""

import mujoco
import numpy as np
import pytest

from tests.envs.robots.here import VELOCITY, needs_go1, robot, tried
from unilab.envs.robots.robot import Robot
from unilab.envs.tasks.velocity.scene import build, feet, standing


@pytest.mark.parametrize("name", tried(VELOCITY))
@pytest.mark.parametrize("contacts", ["feet", "all"])
def test_robots_stand_as_the_menagerie_has_made_them(name: str, contacts: str) -> None:
    one = robot(name)
    model = build(one, contacts, 0.6)  # type: ignore[arg-type]
    original = mujoco.MjSpec.from_file(str(one.file()))
    bodies = {body.name: body.mass for body in original.bodies}
    assert len(bodies) == model.nbody
    for body in range(1, model.nbody):
        assert model.body_mass[body] == pytest.approx(bodies[model.body(body).name])
    assert len(one.feet) == len(one.gait) == len(feet(model))
    assert set(model.actuator_biastype) == {mujoco.mjtBias.mjBIAS_AFFINE.value}
    np.testing.assert_array_equal(model.actuator_gainprm[:, 0], -model.actuator_biasprm[:, 1])
    assert not model.actuator_biasprm[:, 2].any(), "all damping is the joints'"
    assert model.actuator_forcelimited.all() or model.jnt_actfrclimited[1:].all(), "no torque is without bounds"
    data = mujoco.MjData(model)
    data.qpos[:] = standing(model, one)
    assert data.qpos[2] > 1.5 * one.fallen_height
    data.ctrl[:] = data.qpos[7:]
    low, high = model.actuator_ctrlrange.T
    assert (low <= data.ctrl).all() and (data.ctrl <= high).all()
    for _ in range(round(0.2 / model.opt.timestep)):
        mujoco.mj_step(model, data)
    assert data.sensordata[: feet(model).size].reshape(len(one.feet), -1).any(axis=1).all(), (
        "all feet are on the ground"
    )
    assert np.isfinite(data.qpos).all() and data.qpos[2] > one.fallen_height


@needs_go1
def test_pictures_have_what_the_simulation_leaves_out() -> None:
    one = robot("Velocity-Go1")
    simulated, seen = build(one, "feet", 0.6), build(one, "feet", 0.6, visible=True)
    assert simulated.ngeom == 5 and simulated.nmesh == 0
    assert seen.ngeom > 50 and seen.nmesh > 0
    assert (simulated.nq, simulated.nu, simulated.nsensordata) == (seen.nq, seen.nu, seen.nsensordata)


ARM = """
<mujoco><worldbody><body name="trunk"><geom size=".1"/>{free}
  <body name="leg"><geom name="tip" size=".1"/><joint name="hip"/></body></body></worldbody>
  <actuator>{actuator}</actuator></mujoco>
"""


@pytest.mark.parametrize(
    ("parts", "feet_names", "problem"),
    [
        ({"free": "", "actuator": ""}, ("tip",), "expected a free joint first"),
        ({"free": "<freejoint/>", "actuator": ""}, ("tip",), r"expected an actuator for each of \['hip'\]"),
        ({"free": "<freejoint/>", "actuator": "<motor joint='hip'/>"}, ("toe",), "foot 'toe' is neither"),
    ],
)
def test_models_of_another_kind(tmp_path, parts, feet_names, problem) -> None:
    file = tmp_path / "arm.xml"
    file.write_text(ARM.format(**parts))
    with pytest.raises(ValueError, match=problem):
        build(Robot(file, feet_names, (0.0,), {}, {".*": 1.0}, {".*": 1.0}, 0.1), "feet", 0.6)


@needs_go1
def test_what_touches_the_robot_itself_is_not_the_ground() -> None:
    model = build(robot("Velocity-Go1"), "all", 0.6)
    data, random, seen = mujoco.MjData(model), np.random.default_rng(0), 0
    for _ in range(200):
        data.qpos[:7] = 0, 0, 5, 1, 0, 0, 0
        data.qpos[7:] = random.uniform(*model.jnt_range[1:].T)
        mujoco.mj_forward(model, data)
        seen += data.ncon > 0
        assert not data.sensordata.any()
    assert seen
