"""The search space, as Optuna's distributions by dotted setting names, and what to measure next.

Optuna holds no lists: they travel through it as JSON text.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

Params = dict[str, Any]
ENUMERABLE = 10_000
"""spaces up to this size are listed"""
LISTED = 1000
"""configurations of a space that are ranked at most; of larger spaces a sample with a fixed seed"""
DIGITS = 3
"""significant ones of a value drawn from a continuous range: more would say nothing"""
STEP_DIGITS = 12
"""of a value in a range with steps, whose sums are not exact"""
IDLE = object()
"""in place of the value of a setting that changes nothing"""
ATTEMPTS = 50
"""proposals before a sampler that repeats itself is helped out"""


def encode(value: Any) -> Any:
    """A value as Optuna holds it."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def decode(value: Any) -> Any:
    """Back from ``encode``."""
    if isinstance(value, str) and value.startswith(("[", "{")):
        with suppress(ValueError):
            return json.loads(value)
    return value


@dataclass(frozen=True)
class Space:
    """The settings that vary. Configurations are encoded where they go to Optuna or come from it."""

    dimensions: Mapping[str, BaseDistribution]

    @property
    def size(self) -> float:
        """Number of configurations, infinite for a continuous range."""
        counts = [values(dimension)[0] for dimension in self.dimensions.values()]
        return math.inf if math.inf in counts else math.prod(counts)

    def contains(self, name: str, value: Any) -> bool:
        """Whether the value is one of the dimension, of the very same type."""
        dimension, value = self.dimensions[name], encode(value)
        if isinstance(dimension, CategoricalDistribution):
            return any(type(value) is type(choice) and value == choice for choice in dimension.choices)
        kind = int if isinstance(dimension, IntDistribution) else int | float
        return isinstance(value, kind) and not isinstance(value, bool) and dimension._contains(value)

    def ends(self, name: str) -> tuple[Any, ...]:
        """The values that stand for a dimension: all of a list, both ends of a range."""
        return ends(self.dimensions[name])

    def encode(self, params: Params) -> Params:
        """A configuration as Optuna holds it."""
        return {name: encode(value) for name, value in params.items()}

    def decode(self, params: Mapping[str, Any]) -> Params:
        """A configuration that Optuna holds."""
        return {name: decode(value) for name, value in params.items()}

    def drawn(self, params: Mapping[str, Any]) -> Params:
        """A configuration as a sampler draws it, encoded, with fractions rounded as we state them."""
        return {name: rounded(self.dimensions[name], value) for name, value in params.items()}

    def stated(self, name: str, value: Any) -> Any:
        """A value that a suite states, of the type that Optuna gives back: of a range of fractions 1 is 1.0."""
        return float(value) if isinstance(self.dimensions[name], FloatDistribution) else value

    @staticmethod
    def identity(params: Params) -> str:
        """The same text for the same configuration."""
        return json.dumps({name: encode(value) for name, value in params.items()}, sort_keys=True)

    def apart(self, some: Sequence[Params], others: Sequence[Params]) -> NDArray[np.float64]:
        """``[settings, some, others]``: how far configurations are from each other in each setting, from 0 to 1.

        Numbers are apart by their positions in the range or in the list. All other values are 0 apart where they are
        the same, else 1. Two configurations of which only one has the setting are 1 apart in it.
        """
        found = np.ones((len(self.dimensions), len(some), len(others)))
        for distances, (name, dimension) in zip(found, self.dimensions.items(), strict=True):
            rows, columns = ([position(dimension, one.get(name, IDLE)) for one in own] for own in (some, others))
            for row, (kind, at) in zip(distances, rows, strict=True):
                row[:] = [abs(at - there) if kind == other else 1.0 for other, there in columns]
        return found

    def grid(self) -> Iterator[Params]:
        """Every configuration of a finite space, encoded; one after the other, as there may be millions."""
        if not self.dimensions:
            yield {}
            return
        name, *others = self.dimensions
        rest = Space({other: self.dimensions[other] for other in others})
        for value in values(self.dimensions[name])[1]:
            for params in rest.grid():
                yield {name: value, **params}


def rounded(dimension: BaseDistribution, value: Any) -> Any:
    """A drawn value, within the dimension."""
    if not isinstance(dimension, FloatDistribution):
        return value
    digits = DIGITS if dimension.step is None else STEP_DIGITS
    return min(max(float(f"{value:.{digits}g}"), dimension.low), dimension.high)


def ends(dimension: BaseDistribution) -> tuple[Any, ...]:
    """All of a list, both ends of a range."""
    if isinstance(dimension, CategoricalDistribution):
        return tuple(map(decode, dimension.choices))
    assert isinstance(dimension, IntDistribution | FloatDistribution)
    return dimension.low, dimension.high


def position(dimension: BaseDistribution, value: Any) -> tuple[str, float]:
    """The kind of a value, and where it is among the values of its kind, from 0 to 1."""
    if isinstance(dimension, CategoricalDistribution):
        numbers = sorted(one for one in dimension.choices if isinstance(one, int | float) and not isinstance(one, bool))
        if value in numbers and not isinstance(value, bool):
            return "number", numbers.index(value) / max(1, len(numbers) - 1)
        return json.dumps(encode(value), default=repr), 0.0
    assert isinstance(dimension, IntDistribution | FloatDistribution)
    if value is IDLE or dimension.low == dimension.high:
        return repr(value), 0.0
    low, high, here = (math.log(one) if dimension.log else one for one in (dimension.low, dimension.high, value))
    return "number", (here - low) / (high - low)


def values(dimension: BaseDistribution) -> tuple[float, Iterable[Any]]:
    """How many values there are, and all of them, encoded; of a continuous range infinitely many, and none."""
    if isinstance(dimension, CategoricalDistribution):
        return len(dimension.choices), dimension.choices
    if isinstance(dimension, IntDistribution):
        whole = range(dimension.low, dimension.high + 1, dimension.step)
        return len(whole), whole
    assert isinstance(dimension, FloatDistribution)
    low, step = dimension.low, dimension.step
    if low == dimension.high:
        return 1, (low,)
    if step is None:
        return math.inf, ()
    steps = range(round((dimension.high - low) / step) + 1)
    return len(steps), (rounded(dimension, low + number * step) for number in steps)


def propose(
    study: optuna.Study,
    space: Space,
    sampler: str,
    seed: int,
    effective: Callable[[Params], Params] = dict,
    *,
    trials: int = 30,
) -> Params | None:
    """The next configuration to measure, encoded, never one that the study has; None when all have been.

    The proposal depends on the trials of the study, on how many it is to have and on the seed alone: one that was
    interrupted goes on as it would have.

    Args:
        study: with the trials so far.
        space: to choose from.
        sampler: ``tpe``, ``random`` or ``grid``; for ``auto`` as for ``tpe``.
        seed: of the sampler.
        effective: leaves out of a configuration what changes nothing: two that differ in that alone are one.
        trials: that the study is to have. ``tpe`` draws the first third of them at random, and no more than ten.
    """
    there = study.get_trials(deepcopy=False)

    def identity(encoded: Params) -> str:
        return space.identity(effective(space.decode(encoded)))

    seen = {identity(trial.params) for trial in there}
    if len(seen) >= space.size:
        return None
    if sampler != "grid":
        seed = (seed * 1_000_003 + len(there)) % 2**32
        tpe = TPESampler(seed=seed, n_startup_trials=min(10, max(1, trials // 3)))
        probe = in_memory(study.directions, RandomSampler(seed=seed) if sampler == "random" else tpe)
        probe.add_trials(there)
        for _ in range(ATTEMPTS):
            trial = probe.ask(dict(space.dimensions))
            drawn = space.drawn(trial.params)
            if identity(drawn) not in seen:
                return drawn
            probe.tell(trial, state=optuna.trial.TrialState.FAIL)
        if space.size > ENUMERABLE:
            return None
    return next((params for params in space.grid() if identity(params) not in seen), None)


def sample(space: Space, count: int, seed: int) -> list[Params]:
    """``count`` configurations drawn at random, encoded, the same ones for the same seed."""
    study = in_memory(["maximize"], RandomSampler(seed=seed))
    return [space.drawn(study.ask(dict(space.dimensions)).params) for _ in range(count)]


def in_memory(directions: Sequence[Any], sampler: BaseSampler | None = None) -> optuna.Study:
    """An empty study that Optuna does not announce on stderr, and whose caller's log level stays as it is."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(directions=list(directions), sampler=sampler)
    finally:
        optuna.logging.set_verbosity(verbosity)
