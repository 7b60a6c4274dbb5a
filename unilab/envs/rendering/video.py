"""A video of environments that are being stepped."""

import importlib.util
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from unilab.envs.rendering import offscreen
from unilab.envs.rendering.offscreen import RenderingError
from unilab.envs.vec_env import VecEnv
from unilab.errors import check_writable

if TYPE_CHECKING:
    from unilab.envs.rendering.pictures import Pictures

SECONDS = 10.0
"""of the longest video, in the simulation's time"""
MOST_FRAMES = 30.0
"""in a second; of faster environments some steps are left out"""


class Video:
    """An MP4 file (H.264) at the simulation's own speed: call it with the environment after each step.

    The file has its name when the context ends without an error, and then at most ``SECONDS``. Make it before anything
    loads MuJoCo, which then draws without a window.

    Raises:
        UserError: a package or a library is missing, or the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix != ".mp4":
            raise RenderingError(f"{path}: a video is an MP4 file; give it a name that ends with .mp4")
        check_writable(self.path)
        if importlib.util.find_spec("av") is None:
            remedy = "pip install -e '.[video]' in this project's checkout"
            raise RenderingError(f"a video needs the package av, which this interpreter has not: {remedy}")
        offscreen.choose()
        self._unfinished = self.path.with_name(f"{self.path.name}.unfinished")
        self._pictures: Pictures | None = None
        self._made = 0

    def __call__(self, env: VecEnv) -> None:
        pictures = self._pictures or self._begin(env)
        if self._made % self._every == 0 and self._made * self._dt < SECONDS:
            self._encode(self._frame(pictures.draw()))
        self._made += 1

    def _begin(self, env: VecEnv) -> "Pictures":
        import av

        from unilab.envs.rendering.pictures import Pictures, simulated

        self._frame = av.VideoFrame.from_ndarray
        self._dt = simulated(env).dt
        self._every = math.ceil(1 / (MOST_FRAMES * self._dt) - 1e-6)
        pictures = Pictures(env)
        try:
            with self._writing():
                self._file = av.open(str(self._unfinished), "w", format="mp4")
        except RenderingError:
            pictures.close()
            raise
        self._pictures = pictures
        rate = Fraction(1 / (self._every * self._dt)).limit_denominator(1000)
        self._stream: Any = self._file.add_stream("libx264", rate=rate)
        self._stream.height, self._stream.width = pictures.size
        self._stream.pix_fmt = "yuv420p"  # what browsers show
        return pictures

    def _encode(self, frame: Any) -> None:
        with self._writing():
            for packet in self._stream.encode(frame):
                self._file.mux(packet)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        import av

        try:
            yield
        except (OSError, av.FFmpegError) as error:
            raise RenderingError(f"{self.path}: cannot be written: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pictures is None:
            return
        try:
            with self._writing():
                with closing(self._file), closing(self._pictures):
                    if error is None:
                        self._encode(None)  # what the encoder still holds
                if error is None:
                    self._unfinished.replace(self.path)
        except RenderingError:
            if error is None:  # otherwise that one is told, which came first
                raise
        finally:
            self._unfinished.unlink(missing_ok=True)  # there is none before the first frame is encoded
