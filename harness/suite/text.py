"""Numbers, settings and durations as people read them."""

import math
from typing import Any


def number_text(value: float | None) -> str:
    """For people; a dash for what was not measured."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def dimension_text(dimension: Any) -> str:
    """Of a distribution of Optuna."""
    if hasattr(dimension, "choices"):
        return ", ".join(map(str, dimension.choices))
    return f"{dimension.low:g} to {dimension.high:g}{', logarithmic' if dimension.log else ''}"


def setting_text(value: Any) -> str:
    """A setting's value as a suite has it, numbers short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings_text(params: dict[str, Any]) -> str:
    """A configuration on one line: ``num_envs=1024 num_slots=4``."""
    return " ".join(f"{name.rpartition('.')[2]}={setting_text(value)}" for name, value in params.items()) or "defaults"


def bytes_text(size: float) -> str:
    """Of memory; a dash for none."""
    return f"{size / 2**20:,.0f} MiB" if size else "-"


def minutes_text(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"
