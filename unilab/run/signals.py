"""SIGINT and SIGTERM: the first asks for a clean stop, the second kills at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from unilab.ipc.shared_memory.wakeup import SharedFlag

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequested(Exception):
    """A signal asked for a clean stop; what is to be kept is saved first."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.signal_name = number.name


class stop_on_signals:
    """While the context is entered, the first SIGINT or SIGTERM is remembered instead of raised.

    The training loop calls ``check`` and ends by itself. From the first signal on both have their default effect, so
    that a second one ends the process at once, even when it hangs. Outside the main thread nothing is changed, because
    Python delivers signals there alone.

    Args:
        wake: flags to set with the request, so that waits end at once (``runner.interrupt``).
    """

    def __init__(self, *wake: SharedFlag) -> None:
        self.signal: signal.Signals | None = None
        """the signal that asked for the stop"""
        self._wake = wake
        self._previous: dict[signal.Signals, object] = {}

    def check(self) -> None:
        """Raise if a stop was requested.

        Raises:
            StopRequested: with the signal's name.
        """
        if self.signal is not None:
            raise StopRequested(self.signal)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        for name in _SIGNALS:
            signal.signal(name, signal.SIG_DFL)
        for flag in self._wake:
            flag.set()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._request) or signal.SIG_DFL
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
