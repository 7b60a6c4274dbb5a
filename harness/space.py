"""The search space: what a suite varies, and the form in which its values travel through Optuna."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.suite import Range

Params = dict[str, Any]
Dimension = tuple[Any, ...] | Range


@dataclass(frozen=True)
class Space:
    """What is varied, by dotted setting names. Values that Optuna cannot hold (lists) travel as JSON text."""

    dimensions: dict[str, Dimension]

    @property
    def size(self) -> float:
        """Number of configurations, infinite for a continuous range."""
        columns = [_values(dimension) for dimension in self.dimensions.values()]
        return math.prod(math.inf if values is None else len(values) for values in columns)

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
            decoded[name] = value
        return decoded

    def ends(self, name: str) -> tuple[Any, ...]:
        """Values to judge a dimension by: all of a list, both ends of a range."""
        dimension = self.dimensions[name]
        return (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension

    def grid(self) -> Iterator[Params]:
        """Every configuration of a finite space, encoded."""
        names = list(self.dimensions)
        columns = [[encode(value) for value in _values(self.dimensions[name]) or ()] for name in names]
        for row in itertools.product(*columns):
            yield dict(zip(names, row, strict=True))


def encode(value: Any) -> Any:
    """Lists as JSON text, which Optuna can hold; everything else as it is."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _values(dimension: Dimension) -> list[Any] | None:
    """All values of a dimension, None when there is no end of them."""
    if not isinstance(dimension, Range):
        return list(dimension)
    if dimension.low == dimension.high:
        return [dimension.low]
    if dimension.whole:
        return list(range(int(dimension.low), int(dimension.high) + 1, int(dimension.step or 1)))
    if dimension.step is None:
        return None
    count = math.floor((dimension.high - dimension.low) / dimension.step + 1e-9) + 1
    return [dimension.low + index * dimension.step for index in range(count)]
