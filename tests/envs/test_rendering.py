"""Videos and the viewer: what they show, and what is said where nothing can be drawn."""

import ctypes.util
import os
import resource
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from unittest import mock

import mujoco
import mujoco.viewer
import numpy as np
import pytest

from harness import cli
from tests.envs.robots.here import VELOCITY, tried
from unilab.algos.torch.appo.actor_critic import Actor
from unilab.algos.torch.appo.config import APPOConfig
from unilab.envs import make
from unilab.envs.rendering import offscreen
from unilab.envs.rendering.offscreen import RenderingError
from unilab.envs.rendering.video import Video
from unilab.envs.rendering.window import Window
from unilab.run.checkpoint import save_checkpoint
from unilab.run.loop import plain
from unilab.settings import parse

DRAWS = any(ctypes.util.find_library(library) for library, _ in offscreen.LIBRARIES.values())
MINIMAL = {"network": {"actor": [4], "critic": [4]}}


def untrained(path, env, **settings):
    config = parse(APPOConfig, {"env": env, **MINIMAL, **settings})
    with make(env, 1, env_cfg_override=config.env_cfg) as one:
        actor = Actor(config, one.dims)
    progress = {"iteration": 0, "env_steps": 0}
    content = {"trainer": "appo", "config": plain(config), "learner": {"actor": actor.state_dict()}}
    save_checkpoint(path, content | {"progress": progress})
    return str(path)


@pytest.fixture
def no_gl(monkeypatch):
    """The variable is as it was afterwards."""
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delenv("MUJOCO_GL")
    return monkeypatch


@pytest.mark.skipif(not DRAWS, reason="neither EGL nor OSMesa is installed here")
def test_a_video_shows_the_first_four_environments(tmp_path):
    """In a process of its own, because MuJoCo reads how to draw when it is loaded."""
    import av

    checkpoint = untrained(tmp_path / "c.pt", "InvertedPendulum", env_cfg={"max_episode_steps": 4})
    command = [sys.executable, "-m", "harness", "eval", checkpoint, "--episodes", "6", "--video", "out.mp4"]
    surroundings = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    done = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("video: out.mp4\n")
    with av.open(str(tmp_path / "out.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 25), "0.04 s are between two steps"
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert len(frames) >= 4 and frames[0].shape == (720, 960, 3)
    quarters = [frames[0][y : y + 360, x : x + 480] for y in (0, 360) for x in (0, 480)]
    assert all(quarter.std() > 10 for quarter in quarters), "something is to be seen in each"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pt", "out.mp4"]


@contextmanager
def full_disk():
    """No file grows beyond 100 bytes, which is the header of a video."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("frames", [3, 60], ids=["nothing-written", "begun"])
@pytest.mark.parametrize("full", [False, True], ids=["room", "full"])
@pytest.mark.parametrize("fails", [False, True], ids=["good", "error"])
def test_a_video_has_its_name_if_it_is_whole_and_the_first_error_is_told(no_gl, tmp_path, frames, full, fails):
    no_gl.setenv("MUJOCO_GL", "glfw")
    pictures = mock.Mock(size=(16, 16), draw=lambda: np.full((16, 16, 3), 128, np.uint8))
    no_gl.setattr("unilab.envs.rendering.pictures.Pictures", lambda env: pictures)
    told = nullcontext()
    if fails:
        told = pytest.raises(ValueError, match="the first error")
    elif full:
        told = pytest.raises(RenderingError, match=r"out\.mp4: cannot be written: .*File too large")
    disk = full_disk() if full else nullcontext()
    with make("InvertedPendulum", 1, seed=0) as env, disk, told, Video(tmp_path / "out.mp4") as video:
        for _ in range(frames):
            video(env)
        if fails:
            raise ValueError("the first error")
    pictures.close.assert_called_once_with()
    assert [path.name for path in tmp_path.iterdir()] == ([] if fails or full else ["out.mp4"])


@pytest.mark.parametrize("name", tried(VELOCITY)[:1])
def test_a_robots_command_and_velocity_are_drawn(name):
    with make(name, 2, env_cfg_override={"terrain": "stairs"}, seed=0) as env:
        env.reset()
        model = env.visible_model()
        assert model.nq == env.model.nq and model.nmesh > 0
        np.testing.assert_array_equal(model.hfield_data, env.model.hfield_data)
        scene = mujoco.MjvScene(model, 100)
        env.state.command[1] = 0.5, 0.0, 0.3
        env.qpos[1, 3:7] = np.sqrt(0.5), 0, 0, np.sqrt(0.5)  # it looks to the left
        env.qvel[1, :3] = 0
        env.annotate(scene, 1)
        arrow, text = scene.geoms[0], scene.geoms[1]
        assert scene.ngeom == 2, "a robot that stands has no arrow of its own"
        assert arrow.type == mujoco.mjtGeom.mjGEOM_ARROW and arrow.size[2] == pytest.approx(0.5)
        np.testing.assert_allclose(arrow.mat[:, 2], [0, 1, 0], atol=1e-6)
        assert text.label.startswith("turn +0.3 rad/s, is ")


@pytest.mark.parametrize("name", tried(VELOCITY)[:1])
def test_the_viewer_follows_the_first_environment_until_it_is_closed(name, no_gl):
    no_gl.setenv("DISPLAY", ":0")
    opened = []

    def launch(model, data, **options):
        user_scn, open_now = mujoco.MjvScene(model, 100), [True]
        viewer = mock.Mock(cam=mujoco.MjvCamera(), user_scn=user_scn, lock=nullcontext, data=data)
        viewer.is_running, viewer.close = lambda: open_now[0], lambda: open_now.__setitem__(0, False)
        opened.append(viewer)
        return viewer

    no_gl.setattr("mujoco.viewer.launch_passive", launch)
    with make(name, 2, seed=0) as env, Window() as window:
        env.reset()
        window(env)
        (viewer,) = opened
        assert viewer.cam.type == mujoco.mjtCamera.mjCAMERA_TRACKING and viewer.user_scn.ngeom > 0
        env.step(np.zeros((2, env.action_dim), np.float32))
        window(env)
        np.testing.assert_array_equal(viewer.data.qpos, env.qpos[0])
        viewer.close()
        window(env)
        assert viewer.sync.call_count == 2


@pytest.mark.parametrize(
    ("libraries", "variable", "chosen"),
    [({"EGL", "OSMesa"}, None, "egl"), ({"OSMesa"}, None, "osmesa"), ({"EGL"}, "egl", "egl"), (set(), "glfw", "glfw")],
)
def test_what_is_installed_is_drawn_with(no_gl, libraries, variable, chosen):
    no_gl.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so" if name in libraries else None)
    if variable:
        no_gl.setenv("MUJOCO_GL", variable)
    offscreen.choose()
    assert os.environ["MUJOCO_GL"] == chosen


def test_without_a_library_its_packages_are_named(no_gl):
    no_gl.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(RenderingError, match=r"apt-get install libegl1 .* \(egl\), or apt-get install libosmesa6"):
        offscreen.choose()
    no_gl.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(RenderingError, match=r"by osmesa, which this machine lacks: apt-get install libosmesa6"):
        offscreen.choose()
    no_gl.setenv("MUJOCO_GL", "disable")
    with pytest.raises(RenderingError, match="MUJOCO_GL=disable: MuJoCo draws with egl, osmesa or glfw; unset it"):
        offscreen.choose()


def test_what_cannot_be_shown_is_one_line(no_gl, tmp_path, capsys):
    def told(*arguments):
        assert cli.main(["eval", *map(str, arguments)]) == 1
        return capsys.readouterr().err.splitlines()[-1]

    checkpoint = untrained(tmp_path / "c.pt", "CartPole-v1")
    assert "give it a name that ends with .mp4" in told(checkpoint, "--video", tmp_path / "out.avi")
    assert "there is no folder" in told(checkpoint, "--video", tmp_path / "none" / "out.mp4")
    (tmp_path / "folder.mp4").mkdir()
    assert "is a folder; name a file" in told(checkpoint, "--video", tmp_path / "folder.mp4")
    (tmp_path / "folder.mp4").rmdir()
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        no_gl.delenv(name, raising=False)
    assert "there is no display for a window here" in told(checkpoint, "--view")
    no_gl.setenv("DISPLAY", ":0")
    assert "has no simulation of MuJoCo that could be drawn" in told(checkpoint, "--view")
    no_gl.setenv("MUJOCO_GL", "glfw")
    assert "has no simulation of MuJoCo that could be drawn" in told(checkpoint, "--video", tmp_path / "out.mp4")
    no_gl.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install -e '.[video]'" in told(checkpoint, "--video", tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]
