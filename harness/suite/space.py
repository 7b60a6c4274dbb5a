"""The search space: what a suite varies, and the form in which its values travel through Optuna."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.suite.schema import Range

Params = dict[str, Any]
Dimension = tuple[Any, ...] | Range
ENUMERABLE = 10_000
"""spaces up to this size are listed"""
DIGITS = 3
"""significant ones of a value drawn from a continuous range: more would say nothing"""


@dataclass(frozen=True)
class Space:
    """What is varied, by dotted setting names. Values that Optuna cannot hold (lists) travel as JSON text."""

    dimensions: dict[str, Dimension]

    @property
    def size(self) -> float:
        """Number of configurations, infinite for a continuous range."""
        counts = [_count(dimension) for dimension in self.dimensions.values()]
        return math.inf if math.inf in counts else math.prod(counts)

    def contains(self, name: str, value: Any) -> bool:
        dimension = self.dimensions[name]
        if not isinstance(dimension, Range):
            return any(type(value) is type(choice) and value == choice for choice in dimension)
        if isinstance(value, bool) or not isinstance(value, int if dimension.whole else int | float):
            return False
        steps = (value - dimension.low) / dimension.step if dimension.step is not None else 0
        return dimension.low <= value <= dimension.high and math.isclose(steps, round(steps), abs_tol=1e-9)

    def encode(self, params: Params) -> Params:
        return {name: encode(value) for name, value in params.items()}

    def decode(self, params: Mapping[str, Any]) -> Params:
        decoded = {}
        for name, value in params.items():
            dimension = self.dimensions[name]
            if not isinstance(dimension, Range):
                value = next(choice for choice in dimension if encode(choice) == value)
            elif not dimension.whole and dimension.step is None:
                value = min(max(float(f"{value:.{DIGITS}g}"), float(dimension.low)), float(dimension.high))
            decoded[name] = value
        return decoded

    @staticmethod
    def identity(params: Params) -> str:
        """The same text for the same configuration."""
        return json.dumps({name: encode(value) for name, value in params.items()}, sort_keys=True)

    def ends(self, name: str) -> tuple[Any, ...]:
        """Values to judge a dimension by: all of a list, both ends of a range."""
        dimension = self.dimensions[name]
        return (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension

    def grid(self) -> Iterator[Params]:
        """Every configuration of a finite space, encoded."""
        yield from _grid(list(self.dimensions.items()))


def encode(value: Any) -> Any:
    """Lists as JSON text, which Optuna can hold; everything else as it is."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _grid(dimensions: Sequence[tuple[str, Dimension]]) -> Iterator[Params]:
    """One after the other, as a range may have millions of values."""
    if not dimensions:
        yield {}
        return
    (name, dimension), *others = dimensions
    for value in _values(dimension):
        for params in _grid(others):
            yield {name: encode(value), **params}


def _count(dimension: Dimension) -> float:
    """How many values a dimension has."""
    if not isinstance(dimension, Range):
        return len(dimension)
    if dimension.low == dimension.high:
        return 1
    if dimension.whole:
        return int(dimension.high - dimension.low) // int(dimension.step or 1) + 1
    if dimension.step is None:
        return math.inf
    return math.floor((dimension.high - dimension.low) / dimension.step + 1e-9) + 1


def _values(dimension: Dimension) -> Iterator[Any]:
    """All values of a dimension, none when there is no end of them."""
    if not isinstance(dimension, Range):
        yield from dimension
        return
    count, step = _count(dimension), dimension.step or 1
    for index in range(0 if math.isinf(count) else int(count)):
        yield dimension.low + index * step
