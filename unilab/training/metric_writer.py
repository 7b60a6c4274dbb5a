"""Where a run's metrics go."""

import math
import time
from pathlib import Path

from unilab.training.progress import Progress

RECORDS_PER_SECOND = 10
"""at most: iterations of a few milliseconds would spend their time on writing"""


class MetricWriter:
    """Writes every number of ``Progress`` to TensorBoard over env steps; with ``log_dir=None`` it writes nothing.

    Of the iterations of one second the first ``RECORDS_PER_SECOND`` are written, and always the last one of the run.
    """

    def __init__(self, log_dir: Path | None) -> None:
        self._writer = None
        self._second = -math.inf
        self._records = 0
        self._unwritten: Progress | None = None
        if log_dir is not None:
            from torch.utils.tensorboard import SummaryWriter  # a second to import, for those who write only

            self._writer = SummaryWriter(str(log_dir))

    def write(self, progress: Progress) -> None:
        """Record one iteration."""
        self._unwritten = progress
        now = time.monotonic()
        if now >= self._second + 1:
            self._second, self._records = now, 0
        if self._records < RECORDS_PER_SECOND:
            self._records += 1
            self._flush()

    def _flush(self) -> None:
        if self._writer is None or self._unwritten is None:
            return
        for name, value in self._unwritten.scalars().items():
            if not math.isnan(value):
                self._writer.add_scalar(name, value, self._unwritten.env_steps)
        self._unwritten = None

    def close(self) -> None:
        """Flush and close; idempotent."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
