"""A robot's model made ready for training: ground, contacts, gains, sensors and solver, edited with MjSpec."""

import math
from typing import Any, Literal

import mujoco
import numpy as np

from unilab.envs.robots.robot import Robot, by_joint
from unilab.envs.tasks.velocity.terrain import Ground

GROUND = "ground"
TRUNK_POSITIONS, TRUNK_VELOCITIES = 7, 6
"""of the free trunk; they come before those of the joints"""
Contacts = Literal["feet", "all"]


def build(
    robot: Robot, contacts: Contacts, friction: float, ground: Ground | None = None, *, visible: bool = False
) -> mujoco.MjModel:
    """The robot on the ground.

    Its joints have position actuators with the robot's gains. Geom ``foot_i_j`` is geom j of foot i, and the sensor of
    this name says whether it touches the ground. If everything may touch it, the last sensor says so of the trunk.

    Args:
        robot: whose model is loaded.
        contacts: "feet": only feet and ground touch; "all": what touches in the robot's own model.
        friction: of the ground with everything.
        ground: its heights; None: it is flat.
        visible: keep geoms that touch nothing, for pictures; without them the same simulation takes less time.

    Raises:
        SettingsError: the model is not on this machine.
        ValueError: the model is not of the kind that ``Robot`` describes, or lacks something that is named there.
    """
    spec = mujoco.MjSpec.from_file(str(robot.file()))
    _keep_masses(spec)
    _set_joints(spec, robot)
    for element in [*spec.sensors, *spec.keys]:
        spec.delete(element)
    own = set[str]()
    for i, geoms in enumerate(_feet(spec, robot)):
        for j, geom in enumerate(geoms):
            geom.name = f"foot_{i}_{j}"
            own.add(geom.name)
            _sense_ground(spec, geom.name, mujoco.mjtObj.mjOBJ_GEOM)
    if contacts == "all":
        _sense_ground(spec, spec.joints[0].parent.name, mujoco.mjtObj.mjOBJ_BODY)
    for geom in list(spec.geoms):
        if contacts == "feet":
            geom.contype, geom.conaffinity = 0, int(geom.name in own)
        if not (visible or geom.contype or geom.conaffinity):
            spec.delete(geom)
    used = {geom.meshname for geom in spec.geoms}
    for mesh in [one for one in spec.meshes if one.name not in used]:
        spec.delete(mesh)  # reading it would take most of the time
    surface: dict[str, Any] = {
        "name": GROUND, "contype": 1, "conaffinity": int(contacts == "all"), "friction": [friction, 0.02, 0.01],
        "condim": 3, "priority": 2,  # above the feet's: its friction and softness count
    }  # fmt: skip
    if ground is None:
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.05], **surface)
    else:
        ground.add_to(spec, **surface)
    if visible:
        _paint(spec)
    option = spec.option
    option.timestep, option.iterations, option.ls_iterations = robot.timestep, robot.iterations, robot.ls_iterations
    option.integrator, option.cone = mujoco.mjtIntegrator.mjINT_EULER, mujoco.mjtCone.mjCONE_PYRAMIDAL
    option.impratio = 1
    # With the few iterations that are enough here, a solver that starts from damped accelerations diverges.
    option.disableflags |= mujoco.mjtDisableBit.mjDSBL_EULERDAMP.value
    return spec.compile()


def standing(model: mujoco.MjModel, robot: Robot) -> np.ndarray:
    """Positions [nq] of the robot in its pose, its lowest foot on flat ground."""
    data = mujoco.MjData(model)
    data.qpos[:TRUNK_POSITIONS] = 0, 0, 10, 1, 0, 0, 0
    data.qpos[TRUNK_POSITIONS:] = by_joint(robot.pose, [model.joint(i).name for i in range(1, model.njnt)])
    mujoco.mj_forward(model, data)
    ground = model.geom(GROUND).id
    clearances = [mujoco.mj_geomDistance(model, data, ground, i, 20.0, None) for i in feet(model).flat]
    data.qpos[2] -= min(clearances)
    return data.qpos.copy()


def feet(model: mujoco.MjModel) -> np.ndarray:
    """Geoms of the feet of a model that ``build`` made, [feet, geoms of a foot]."""
    rows: dict[str, list[int]] = {}
    for name in (model.sensor(i).name for i in range(model.nsensor)):
        if name.startswith("foot_"):
            rows.setdefault(name.split("_")[1], []).append(model.geom(name).id)
    return np.array([*rows.values()])


def foot_joints(model: mujoco.MjModel) -> np.ndarray:
    """[feet, joints] whether the foot, and no other, hangs on the joint."""
    bodies = model.geom_bodyid[feet(model)[:, 0]]
    hangs = np.array([np.isin(model.jnt_bodyid[1:], _chain(model, int(body))) for body in bodies])
    return hangs & (hangs.sum(axis=0) == 1)


def _chain(model: mujoco.MjModel, body: int) -> list[int]:
    """A body and all that it hangs on."""
    return [body, *_chain(model, int(model.body_parentid[body]))] if body else [0]


def _sense_ground(spec: Any, name: str, kind: mujoco.mjtObj) -> None:
    """Add a sensor that gives more than 0 while the geom, or a geom of the body, touches the ground."""
    spec.add_sensor(
        name=name,
        type=mujoco.mjtSensor.mjSENS_CONTACT,
        objtype=kind,
        objname=name,
        reftype=mujoco.mjtObj.mjOBJ_BODY,  # the world's own geoms; XBODY would be all that hangs on it
        refname="world",
        intprm=[1 << mujoco.mjtConDataField.mjCONDATA_FOUND.value, 0, 1],
    )


def _paint(spec: Any) -> None:
    """Make the ground a chequerboard, on which motion is seen, below a sky."""
    kinds, patterns = mujoco.mjtTexture, mujoco.mjtBuiltin
    dark, light = [0.25, 0.3, 0.35], [0.35, 0.4, 0.45]
    spec.add_texture(
        name=GROUND, type=kinds.mjTEXTURE_2D, builtin=patterns.mjBUILTIN_CHECKER, rgb1=dark, rgb2=light,
        width=256, height=256,
    )  # fmt: skip
    spec.add_texture(
        name="sky", type=kinds.mjTEXTURE_SKYBOX, builtin=patterns.mjBUILTIN_GRADIENT, rgb1=[0.5, 0.65, 0.8],
        rgb2=[0.9, 0.95, 1], width=256, height=256,
    )  # fmt: skip
    textures = [""] * mujoco.mjtTextureRole.mjNTEXROLE.value
    textures[mujoco.mjtTextureRole.mjTEXROLE_RGB.value] = GROUND
    spec.add_material(name=GROUND, textures=textures, texrepeat=[1, 1], texuniform=True)
    spec.geom(GROUND).material = GROUND
    spec.worldbody.add_light(pos=[0, 0, 5], dir=[0.3, 0.2, -1], type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)


def _foot(spec: Any, robot: Robot, name: str) -> list[Any]:
    """The geoms of the foot that is the geom of this name, or the body."""
    geom, body = spec.geom(name), spec.body(name)
    geoms = [geom] if geom else [one for one in body.geoms if one.contype or one.conaffinity] if body else []
    if not geoms:
        raise ValueError(f"{robot.model}: foot '{name}' is neither a geom nor a body with geoms that touch anything")
    return geoms


def _feet(spec: Any, robot: Robot) -> list[list[Any]]:
    """The geoms of each foot."""
    feet = [_foot(spec, robot, name) for name in robot.feet]
    counts = {name: len(geoms) for name, geoms in zip(robot.feet, feet, strict=True)}
    if len(set(counts.values())) != 1:
        raise ValueError(f"{robot.model}: expected feet with as many geoms each; there are {counts or 'no feet'}")
    if len(robot.gait) != len(feet):
        raise ValueError(f"{robot.model}: expected a gait with a number for each of {len(feet)} feet; got {robot.gait}")
    return feet


def _keep_masses(spec: Any) -> None:
    """Give bodies the masses that their geoms have, so that they keep them when geoms are deleted."""
    inferred = spec.compiler.inertiafromgeom
    if inferred == mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_FALSE:
        return
    bodies = spec.bodies[1:]
    if inferred == mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_AUTO and all(one.explicitinertial for one in bodies):
        return
    model = spec.compile()
    for one in bodies:
        one.mass, one.ipos, one.iquat = model.body_mass[one.id], model.body_ipos[one.id], model.body_iquat[one.id]
        one.inertia, one.fullinertia, one.explicitinertial = model.body_inertia[one.id], [np.nan] * 6, True
    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_FALSE


def _set_joints(spec: Any, robot: Robot) -> None:
    """Give the joints position actuators and the robot's constants."""
    free, *joints = spec.joints
    driven = [actuator.target for actuator in spec.actuators]
    hinge = mujoco.mjtJoint.mjJNT_HINGE
    if free.type != mujoco.mjtJoint.mjJNT_FREE or any(joint.type != hinge for joint in joints):
        raise ValueError(f"{robot.model}: expected a free joint first, and then hinges only")
    names = [joint.name for joint in joints]
    if names != driven:
        raise ValueError(f"{robot.model}: expected an actuator for each of {names}, in this order; there are {driven}")
    if boundless := [joint.name for joint in joints if not joint.range[0] < joint.range[1]]:
        raise ValueError(f"{robot.model}: expected joints with a range of angles; {boundless} have none")
    kp, kd = by_joint(robot.kp, names), by_joint(robot.kd, names)
    armature, frictionloss = by_joint(robot.armature, names, np.nan), by_joint(robot.frictionloss, names, np.nan)
    for i, (joint, actuator) in enumerate(zip(joints, spec.actuators, strict=True)):
        strength = actuator.forcerange.copy()
        if not strength.any() and actuator.biastype == mujoco.mjtBias.mjBIAS_NONE:
            strength = actuator.ctrlrange.copy()  # a motor is controlled by its torque
        strength = np.sort(strength * actuator.gear[0])
        if joint.actfrcrange.any():  # the torque that acts, and not one that the joint cuts off
            strength = np.clip(strength, *joint.actfrcrange) if strength.any() else joint.actfrcrange.copy()
        joint.actfrcrange, joint.actfrclimited = (0, 0), mujoco.mjtLimited.mjLIMITED_FALSE
        actuator.set_to_position(kp=kp[i])
        actuator.gear = [1, 0, 0, 0, 0, 0]  # targets are angles of the joint
        unit = math.pi / 180 if spec.compiler.degree else 1.0  # the compiler converts joints, not controls
        actuator.ctrlrange, actuator.ctrllimited = joint.range * unit, mujoco.mjtLimited.mjLIMITED_TRUE
        if strength.any():
            actuator.forcerange, actuator.forcelimited = strength, mujoco.mjtLimited.mjLIMITED_TRUE
        joint.damping = [kd[i], 0, 0]
        if np.isfinite(armature[i]):
            joint.armature = armature[i]
        if np.isfinite(frictionloss[i]):
            joint.frictionloss = frictionloss[i]
