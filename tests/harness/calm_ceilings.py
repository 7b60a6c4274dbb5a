"""The measuring process on a machine that other programs use: as if they did not."""

from typing import Any

from harness.measure import interference
from harness.predict import ceilings


def measure_parts(*request: Any) -> None:
    interference.between = lambda before, after: interference.Interference()  # type: ignore[assignment]
    ceilings.measure_parts(*request)
