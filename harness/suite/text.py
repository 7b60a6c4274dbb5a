"""Numbers, metrics, settings and durations as people read them."""

import math
from typing import Any

from harness.suite.metrics import TIMES

NAMES = {
    "env_steps_per_second": "env steps a second", "samples_per_second": "samples a second",
    "updates_per_second": "updates a second", "episode_return": "return", "return_at_budget": "return at the budget",
    "evaluated_return": "return without noise",
    "seconds_to_return": "seconds to the target return", "seconds_to_success": "seconds to success",
    "collector_busy_fraction": "collector busy",
    "learner_busy_fraction": "learner busy", "policy_lag_mean": "policy lag", "peak_host_bytes": "peak host memory",
    "peak_shm_bytes": "peak shared memory", "peak_device_bytes": "peak device memory",
    "host_bytes": "host memory", "predicted_env_steps_per_second": "predicted env steps a second",
    "async_efficiency": "asynchronous efficiency",
}  # fmt: skip


def number_text(value: float | None, sign: str = "") -> str:
    """For people; a dash for what was not measured; with ``sign`` "+" a change."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:{sign},.0f}" if abs(value) >= 100 else f"{value:{sign}.3g}"


def percent_text(fraction: float, sign: str = "", digits: int = 0) -> str:
    """A fraction in percent; a dash for what was not measured; with ``sign`` "+" a change."""
    return f"{fraction:{sign}.{digits}%}" if math.isfinite(fraction) else "-"


def count_text(count: int, what: str) -> str:
    """A number of things: ``1 trial``, ``2 trials``."""
    return f"{count} {what}{'s' * (count != 1)}"


def metric_text(metric: str) -> str:
    """What a metric of a record is called."""
    return NAMES.get(metric, metric.replace("_", " "))


def value_text(metric: str, value: float) -> str:
    """A value of a metric; a dash for what was not measured."""
    if metric in TIMES and math.isnan(value):
        return "not reached"
    return bytes_text(value) if metric.endswith("_bytes") and math.isfinite(value) else number_text(value)


def dimension_text(dimension: Any) -> str:
    """One of Optuna's distributions as text."""
    if hasattr(dimension, "choices"):
        return ", ".join(map(setting_text, dimension.choices))
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
    """A size of memory; a dash for none."""
    return f"{number_text(size / 2**20)} MiB" if size else "-"


def minutes_text(seconds: float) -> str:
    """A duration of so many seconds: a short one in seconds, any other in whole minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"
