"""Where a run's metrics go."""

import math
from pathlib import Path

from unilab.training.progress import Progress


class MetricWriter:
    """Writes every number of ``Progress`` to TensorBoard over env steps; with ``log_dir=None`` it writes nothing."""

    def __init__(self, log_dir: Path | None) -> None:
        self._writer = None
        if log_dir is not None:
            from torch.utils.tensorboard import SummaryWriter  # a second to import, for those who write only

            self._writer = SummaryWriter(str(log_dir))

    def write(self, progress: Progress) -> None:
        """Record one iteration."""
        if self._writer is None:
            return
        for name, value in progress.scalars().items():
            if not math.isnan(value):
                self._writer.add_scalar(name, value, progress.env_steps)

    def close(self) -> None:
        """Flush and close; idempotent."""
        if self._writer is not None:
            self._writer.close()
