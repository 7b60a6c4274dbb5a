"""A video of environments that are being stepped."""

import importlib.util
import math
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from unilab.envs.rendering import offscreen
from unilab.envs.rendering.offscreen import RenderingError
from unilab.envs.vec_env import VecEnv
from unilab.errors import check_writable
from unilab.machine.replacing import replacing

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
        self._opened = ExitStack()
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
        pictures = self._opened.enter_context(closing(Pictures(env)))
        unfinished = self._opened.enter_context(replacing(self.path))
        with self._writing():
            self._file = self._opened.enter_context(closing(av.open(str(unfinished), "w", format="mp4")))
        self._pictures = pictures
        rate = Fraction(1 / (self._every * self._dt)).limit_denominator(1000)
        self._stream: Any = self._file.add_stream("libx264", rate=rate)
        self._stream.height, self._stream.width = pictures.size
        self._stream.pix_fmt = "yuv420p"  # what browsers show
        self._opened.push(self._finish)
        return pictures

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._encode(None)  # what the encoder still holds

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
        try:
            with self._writing():
                self._opened.__exit__(kind, error, trace)
        except RenderingError:
            if error is None:  # otherwise that one is told, which came first
                raise
