"""Optuna's side of a search: distributions, and what to measure next."""

from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.suite.schema import Range, Sampler
from harness.suite.space import ENUMERABLE, Dimension, Params, Space, encode

ATTEMPTS = 50
"""proposals before a sampler that repeats itself is helped out"""


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna samples it."""
    return {name: _distribution(dimension) for name, dimension in space.dimensions.items()}


def propose(
    study: optuna.Study, space: Space, sampler: Sampler, effective: Callable[[Params], Params] = dict
) -> Params | None:
    """The next configuration to measure, encoded, never one that the study has; None when all have been.

    ``effective`` leaves out of a configuration what changes nothing: two that differ in that alone are one.
    The proposal depends on the study's trials and the seed alone, so an interrupted study goes on as it would have.
    """
    trials = study.get_trials(deepcopy=False)

    def identity(encoded: Params) -> str:
        return space.identity(effective(space.decode(encoded)))

    seen = {identity(trial.params) for trial in trials}
    if len(seen) >= space.size:
        return None
    if sampler.name != "grid":
        seed = (sampler.seed * 1_000_003 + len(trials)) % 2**32
        kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        probe = in_memory(study.directions, kinds[sampler.name](seed=seed))
        probe.add_trials(trials)
        for _ in range(ATTEMPTS):
            trial = probe.ask(distributions(space))
            if identity(trial.params) not in seen:
                return trial.params
            probe.tell(trial, state=optuna.trial.TrialState.FAIL)
    if space.size > ENUMERABLE and sampler.name != "grid":
        return None
    return next((params for params in space.grid() if identity(params) not in seen), None)


def suggest(trial: optuna.Trial, space: Space) -> Params:
    """Let a trial of any Optuna study choose a configuration; encoded."""
    return {name: _suggest(trial, name, dimension) for name, dimension in space.dimensions.items()}


def _suggest(trial: optuna.Trial, name: str, dimension: Dimension) -> Any:
    if not isinstance(dimension, Range):
        return trial.suggest_categorical(name, [encode(value) for value in dimension])
    if dimension.whole:
        low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        return trial.suggest_int(name, low, high, step=step, log=dimension.log)
    return trial.suggest_float(name, dimension.low, dimension.high, step=dimension.step, log=dimension.log)


def in_memory(directions: Sequence[Any], sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    """An empty study that Optuna does not announce on stderr, and whose caller's log level stays as it is."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(directions=list(directions), sampler=sampler)
    finally:
        optuna.logging.set_verbosity(verbosity)


def sample(space: Space, count: int, seed: int) -> list[Params]:
    """``count`` configurations drawn at random, encoded, the same ones for the same seed."""
    study = in_memory(["maximize"], optuna.samplers.RandomSampler(seed=seed))
    return [study.ask(distributions(space)).params for _ in range(count)]


def _distribution(dimension: Dimension) -> BaseDistribution:
    if not isinstance(dimension, Range):
        return CategoricalDistribution([encode(value) for value in dimension])
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), dimension.log, int(dimension.step or 1))
    return FloatDistribution(float(dimension.low), float(dimension.high), dimension.log, dimension.step)
