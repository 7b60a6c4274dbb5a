"""An answer in one sentence. What is not shown is not claimed: the sentence says what is missing instead."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.record import RETURNS

if TYPE_CHECKING:
    from harness.answer import Answer

NAMES = {
    "env_steps_per_second": "env steps a second", "samples_per_second": "samples a second",
    "updates_per_second": "updates a second", "episode_return": "return", "return_at_budget": "return at the budget",
    "seconds_to_return": "seconds to the target return",
}  # fmt: skip


def sentence(found: "Answer") -> str:
    """The claim that the numbers of an answer allow, with what they rest on."""
    if found.best is None:
        return "No trial was measured to its end within the constraints."
    care = doubts(found)
    return f"{_claim(found)}{'; ' if care else ''}{care}."


def _claim(found: "Answer") -> str:
    if found.metric in RETURNS and _too_few_seeds(found):
        return _points(found)
    if found.best == found.baseline:
        if found.trials == 1:
            return f"One configuration was measured: {_value(found)}"
        seen = "" if found.smallest_effect is None else f"; {_seen(found)} would have been seen"
        return f"No configuration was better than the baseline, {_value(found)}, of {found.trials} measured{seen}"
    if found.baseline is None:
        return f"Trial {found.best} has {_value(found)}, and there is no baseline to compare it with"
    change = f"{_change(found)} {NAMES.get(found.metric, found.metric)} against the baseline"
    if not found.confirmed:
        return (
            f"Trial {found.best} measured {change}, the best of {found.trials}; it was not confirmed, and the best of "
            "a noisy search is partly the luckiest"
        )
    if found.shown:
        return f"Trial {found.best} is better than the baseline: {change} ({_evidence(found)})"
    if found.too_few_pairs:
        return (
            f"Trial {found.best} measured {change} ({_evidence(found)}); that is too few to tell a difference from "
            f"noise at {confidence(found)}"
        )
    return f"No difference is shown: trial {found.best} measured {change} ({_evidence(found)})"


def _too_few_seeds(found: "Answer") -> bool:
    alone = found.baseline is None or found.best == found.baseline
    return found.value_interval is None or (not alone and found.baseline_interval is None)


def _points(found: "Answer") -> str:
    text = f"No claim with fewer than six seeds: trial {found.best} had {NAMES[found.metric]} {_list(found.points)}"
    if found.baseline is None or found.best == found.baseline:
        return text
    return f"{text}, the baseline {_list(found.baseline_points)}"


def _value(found: "Answer") -> str:
    interval = found.value_interval
    spread = "" if interval is None else f" (95 % interval {number_text(interval.low)} to {number_text(interval.high)})"
    repeats = f"{len(found.points)} repeat{'s' if len(found.points) > 1 else ''}"
    middle = f", {'interquartile mean' if found.metric in RETURNS else 'median'} of {repeats}"
    return f"{number_text(found.value)} {NAMES.get(found.metric, found.metric)}{spread}{middle}"


def _change(found: "Answer") -> str:
    if found.gain is not None:
        return f"{found.gain:+.1%}"
    return "an unknown change of" if found.difference is None else f"{found.difference:+,.4g}"


def confidence(found: "Answer") -> str:
    """Of the interval of the change, which belongs to the level of its test."""
    return f"{100 * (1 - found.level):.3g} %"


def _evidence(found: "Answer") -> str:
    parts = []
    interval = f"{confidence(found)} interval"
    if found.gain_interval is not None:
        parts.append(f"{interval} {found.gain_interval.low:+.1%} to {found.gain_interval.high:+.1%}")
    if found.difference_interval is not None:
        low, high = found.difference_interval
        parts.append(f"{interval} {low:+,.4g} to {high:+,.4g}")
    parts.append(f"{found.pairs} pair{'' if found.pairs == 1 else 's'}")
    if found.candidates > 1:
        parts.append(f"{found.candidates} candidates")
    if found.looks > 1:
        parts.append(f"{found.looks} looks")
    if found.smallest_effect is not None and not found.shown:
        parts.append(f"{_seen(found)} would have been seen")
    return ", ".join(parts)


def _seen(found: "Answer") -> str:
    return f"{found.smallest_effect:.1%}" if found.ratio else f"{found.smallest_effect:,.4g}"


def doubts(found: "Answer") -> str:
    """How many of the repeats behind the answer failed or are not to be trusted blindly; empty when none."""
    counts = [
        (found.failed, "failed"), (found.disturbed, "disturbed"), (found.unsteady, "unsteady"),
        (found.missing, "without a value"),
    ]  # fmt: skip
    parts = [f"{count} {what}" for count, what in counts if count]
    asked = found.repeats + found.failed
    return f"of {asked} repeat{'' if asked == 1 else 's'} {', '.join(parts)}" if parts else ""


def _list(values: Iterable[float]) -> str:
    return ", ".join(number_text(value) for value in sorted(values)) or "none"


def number_text(value: float | None) -> str:
    """For people; a dash for what was not measured."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
