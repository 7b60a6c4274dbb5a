"""Do the gait of a policy and its falls depend on what touches the ground, or on the solver's iterations?

    python benchmarks/gaits.py CHECKPOINT [--episodes 256] [--seconds 20] [--json]

A robot trains with contacts of its feet alone and with few iterations of the solver, because both take less time. Here
its policy is judged, as `harness eval` does, in simulations that spend more: each with the same starts and commands.
Beside the errors and falls stand two figures of the gait: how much of the time a foot is on the ground, and how often
each foot lands in a second. Both count all episodes up to their falls.

The exit code is 1 if the policy walks in one of the simulations and does not walk in another.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from unilab.algos.torch.policy import Policy, load_policy
from unilab.envs import make
from unilab.envs.robots.robot import Robot
from unilab.envs.tasks.velocity.evaluation import SECONDS, Following, follow
from unilab.envs.tasks.velocity.scene import Contacts
from unilab.envs.tasks.velocity.task import Velocity, VelocityState, with_robot

CONTACTS: tuple[Contacts, ...] = ("feet", "all")
ITERATIONS = ((4, 8), (100, 50))
"""of the solver and of its line search, beside the robot's own; with the last ones MuJoCo's defaults"""


@dataclasses.dataclass(frozen=True)
class Gait:
    """One simulation."""

    contacts: Contacts
    iterations: int
    ls_iterations: int
    following: Following
    on_ground: float
    """part of the time that a foot is"""
    landings: float
    """of each foot in a second"""


def judged(policy: Policy, robot: Robot, contacts: Contacts, episodes: int, seconds: float) -> Gait:
    standing, landing = [], []

    class Watched(with_robot(robot)):  # type: ignore[misc]
        """Keeps which feet are on the ground, [N, F], and which of them were not before."""

        up: np.ndarray

        def after_physics(self) -> None:
            super().after_physics()
            before: VelocityState = self.before
            self.up = getattr(self, "up", np.ones(self.num_envs, bool)) & ~Velocity.fallen(self, self.state)
            standing.append(self.state.contact[self.up])
            landing.append((self.state.contact * (before.air_time > 0))[self.up] / self.dt)

    cfg: dict[str, Any] = {**policy.config.env_cfg}
    following = follow(policy, Watched, episodes=episodes, seconds=seconds, judged_contacts=contacts, **cfg)
    on_ground, landings = (float(np.concatenate(rows).mean()) for rows in (standing, landing))
    return Gait(contacts, robot.iterations, robot.ls_iterations, following, on_ground, landings)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of the walking policy, or the folder with it")
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each episode")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    policy = load_policy(given.checkpoint)
    with make(policy.config.env, 1, num_threads=1) as task:
        if not isinstance(task, Velocity):
            raise SystemExit(f"{policy.config.env} is no robot that follows velocities")
        own = task.robot
    others = [dataclasses.replace(own, iterations=steps, ls_iterations=searched) for steps, searched in ITERATIONS]
    seen = [
        judged(policy, robot, contacts, given.episodes, given.seconds)
        for contacts in CONTACTS
        for robot in (own, *others)
    ]
    if given.json:
        print(json.dumps([dataclasses.asdict(gait) for gait in seen]))
    else:
        print("contacts  iterations    m/s   rad/s  falls  on the ground  landings/s")
        for gait in seen:
            errors = gait.following
            solver = f"{gait.iterations}/{gait.ls_iterations}"
            print(
                f"{gait.contacts:8}  {solver:>10} {errors.velocity_error:6.3f} {errors.turn_error:7.3f}"
                f" {errors.falls:6.1%} {gait.on_ground:14.1%} {gait.landings:11.2f}"
            )
    return 1 if len({gait.following.walks for gait in seen}) > 1 else 0


if __name__ == "__main__":
    sys.exit(main())
