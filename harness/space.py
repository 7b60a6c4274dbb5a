"""The search space: suite values as Optuna distributions, and back."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.suite import Range, Sampler

ATTEMPTS = 50
"""proposals before a sampler that repeats itself is helped out"""
ENUMERABLE = 10_000
"""spaces up to this size are listed when a sampler finds nothing new"""

Params = dict[str, Any]


@dataclass(frozen=True)
class Space:
    """What is varied, by dotted setting names. Values that Optuna cannot hold (lists) travel as JSON text."""

    dimensions: dict[str, tuple[Any, ...] | Range]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: _distribution(dimension) for name, dimension in self.dimensions.items()}

    @property
    def size(self) -> float:
        """Number of configurations, infinite for a continuous range."""
        return math.prod(len(values) if (values := _values(d)) is not None else math.inf for d in self.dimensions.values())

    def contains(self, name: str, value: Any) -> bool:
        dimension = self.dimensions[name]
        if not isinstance(dimension, Range):
            return any(type(value) is type(choice) and value == choice for choice in dimension)
        if isinstance(value, bool) or not isinstance(value, int if dimension.whole else int | float):
            return False
        on_step = dimension.step is None or _distribution(dimension)._contains(value)
        return dimension.low <= value <= dimension.high and on_step

    def encode(self, params: Params) -> Params:
        return {name: _encode(value) for name, value in params.items()}

    def decode(self, params: Mapping[str, Any]) -> Params:
        decoded = {}
        for name, value in params.items():
            dimension = self.dimensions[name]
            if not isinstance(dimension, Range):
                value = next(choice for choice in dimension if _encode(choice) == value)
            decoded[name] = value
        return decoded

    def ends(self, name: str) -> tuple[Any, ...]:
        """Values to judge a dimension by: all of a list, both ends of a range."""
        dimension = self.dimensions[name]
        return (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension

    def grid(self) -> Iterator[Params]:
        """Every configuration of a finite space, encoded."""
        names = list(self.dimensions)
        columns = [[_encode(value) for value in _values(self.dimensions[name]) or ()] for name in names]
        for row in itertools.product(*columns):
            yield dict(zip(names, row, strict=True))


def propose(study: optuna.Study, space: Space, sampler: Sampler) -> Params | None:
    """The next configuration to measure, encoded, never one that the study has; None when all have been.

    The proposal depends on the study's trials and the seed alone, so an interrupted study goes on as it would have.
    """
    trials = study.get_trials(deepcopy=False)
    seen = {_identity(trial.params) for trial in trials}
    if len(seen) >= space.size:
        return None
    if sampler.name != "grid":
        seed = (sampler.seed * 1_000_003 + len(trials)) % 2**32
        kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        probe = optuna.create_study(directions=study.directions, sampler=kinds[sampler.name](seed=seed))
        probe.add_trials(trials)
        for _ in range(ATTEMPTS):
            trial = probe.ask(space.distributions)
            if _identity(trial.params) not in seen:
                return trial.params
            probe.tell(trial, state=optuna.trial.TrialState.FAIL)
    if space.size > ENUMERABLE and sampler.name != "grid":
        return None
    return next((params for params in space.grid() if _identity(params) not in seen), None)


def _identity(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


def _encode(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _distribution(dimension: tuple[Any, ...] | Range) -> BaseDistribution:
    if not isinstance(dimension, Range):
        return CategoricalDistribution([_encode(value) for value in dimension])
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), dimension.log, int(dimension.step or 1))
    return FloatDistribution(float(dimension.low), float(dimension.high), dimension.log, dimension.step)


def _values(dimension: tuple[Any, ...] | Range) -> list[Any] | None:
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
