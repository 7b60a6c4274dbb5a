"""The robots' models as they are edited for training."""

from pathlib import Path

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
  <body name="leg"><geom name="tip" size=".1"/>{more}<joint name="hip"{range}/></body></body></worldbody>
  <actuator>{actuator}</actuator></mujoco>
"""
KNOWN = {"free": "<freejoint/>", "actuator": "<motor joint='hip'/>", "more": "", "range": " range='-1 1'"}


@pytest.mark.parametrize(
    ("parts", "feet_names", "problem"),
    [
        ({"free": "", "actuator": ""}, ("tip",), "expected a free joint first"),
        ({"free": "<freejoint/>", "actuator": ""}, ("tip",), r"expected an actuator for each of \['hip'\]"),
        ({}, ("toe",), "foot 'toe' is neither"),
        ({"more": "<geom size='.1'/>"}, ("tip", "leg"), "feet with as many geoms each; .* {'tip': 1, 'leg': 2}"),
        ({}, (), "there are no feet"),
        ({}, ("tip", "tip"), r"a gait with a number for each of 2 feet; got \(0.0,\)"),
        ({"range": ""}, ("tip",), r"a range of angles; \['hip'\] have none"),
    ],
)
def test_models_of_another_kind(tmp_path, parts, feet_names, problem) -> None:
    file = tmp_path / "arm.xml"
    file.write_text(ARM.format(**KNOWN | parts))
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


LEG = """
<mujoco><compiler angle="{angle}"/><worldbody><body name="trunk" pos="0 0 1">{inertial}<freejoint/>
  <geom size=".1" mass="2"/><geom name="shell" size=".1" mass="3" contype="0" conaffinity="0"/>
  <body name="leg" pos="0 0 -.2">{inertial}<geom name="shin" size=".05" mass="1"/>
    <joint name="hip" axis="0 1 0" range="{range}"/>
    <geom name="tip" pos="0 0 -.2" size=".05" mass=".5"/></body></body></worldbody>
  <actuator><motor joint="hip" gear="{gear}" ctrlrange="{controls}"/></actuator></mujoco>
"""
PLAIN = {"angle": "radian", "range": "-0.7853981633974483 0.7853981633974483", "gear": "1", "controls": "-20 20",
         "inertial": ""}  # fmt: skip


def leg(folder: Path, **changes: str) -> Robot:
    file = folder / "leg.xml"
    file.write_text(LEG.format(**PLAIN | changes))
    return Robot(file, ("tip",), (0.0,), {"hip": 0.2}, {".*": 30.0}, {".*": 1.0}, 0.1)


@pytest.mark.parametrize("inertial", ["", '<inertial pos="0 0 .1" mass="4" diaginertia=".1 .2 .3"/>'])
@pytest.mark.parametrize("contacts", ["feet", "all"])
def test_what_touches_nothing_keeps_its_mass(tmp_path: Path, contacts: str, inertial: str) -> None:
    one = leg(tmp_path, inertial=inertial)
    raw, model = mujoco.MjModel.from_xml_path(str(one.file())), build(one, contacts, 0.6)  # type: ignore[arg-type]
    assert model.ngeom < raw.ngeom + 1, "some were deleted"
    for field in ("body_mass", "body_inertia", "body_ipos"):
        np.testing.assert_allclose(getattr(model, field), getattr(raw, field), rtol=1e-12)


def test_a_geom_that_is_called_like_a_foot_is_none(tmp_path: Path) -> None:
    one = leg(tmp_path)
    one.file().write_text(one.file().read_text().replace('"shin"', '"foot_pad"'))
    model = build(one, "feet", 0.6)
    assert [model.geom(i).name for i in range(model.ngeom) if model.geom_conaffinity[i]] == ["foot_0_0"]


@pytest.mark.parametrize(
    "changes", [{"gear": "20", "controls": "-1 1"}, {"angle": "degree", "range": "-45 45"}, {"gear": "-1"}]
)
def test_a_robot_in_other_units_is_the_same_robot(tmp_path: Path, changes: dict[str, str]) -> None:
    plain, other = build(leg(tmp_path), "all", 0.6), build(leg(tmp_path, **changes), "all", 0.6)
    for field in ("jnt_range", "actuator_ctrlrange", "actuator_forcerange", "actuator_gear"):
        np.testing.assert_allclose(getattr(other, field), getattr(plain, field), atol=1e-12)
    assert plain.actuator_forcerange.tolist() == [[-20, 20]]


@pytest.mark.parametrize("name", tried(VELOCITY))
def test_no_motor_gives_more_than_it_can(name: str) -> None:
    one = robot(name)
    model, original = build(one, "feet", 0.6), mujoco.MjSpec.from_file(str(one.file())).compile()
    ranges = original.jnt_actfrcrange[1:]
    limited = original.jnt_actfrclimited[1:].astype(bool)
    assert model.actuator_forcelimited.all() and not model.jnt_actfrclimited.any()
    np.testing.assert_array_equal(model.actuator_forcerange[limited], ranges[limited])
