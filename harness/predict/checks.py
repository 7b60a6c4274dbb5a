"""The mistakes in a suite's settings on this machine, each with its line, and the part of the suite that applies here.

Nothing is created. Nothing is started but a few steps of an environment that is not ours, or of a robot.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from harness.files.yaml_file import Document, InputError, Key, Mistakes
from harness.suite.metrics import RETURNS
from harness.suite.schema import AUTO, PLACEMENT, UNKNOWN, Learning, Suite, SuiteSource, distribution
from harness.suite.space import Space, ends, values
from harness.trainers import evidence
from harness.trainers import trainer as trainers
from harness.trainers.alternatives import SHARED, Alternatives
from harness.trainers.trainer import Trainer, TrainerError
from unilab.envs.registry import can_judge, is_robot, names
from unilab.machine.cores import core_sets
from unilab.machine.devices import DeviceError, check_device
from unilab.settings import SettingsError, nearest, nest

Settings = dict[str, Any]
TWICE = "is there twice, with dots and nested; leave one of the two out"
FEW_SEEDS = 2
"""of a side, trained where it is known how far seeds spread"""


def trainer_of(source: SuiteSource) -> Trainer:
    """The suite's trainer, or all of its ``trainers`` as one."""
    suite = source.suite
    named: dict[Key, str] = {("trainer",): suite.trainer}
    if not suite.trainer:
        named = {("trainers", name, "trainer"): variant.trainer for name, variant in suite.trainers.items()}
    for where, name in named.items():
        try:
            trainer = trainers.get(name)
        except TrainerError as error:
            raise source.error(where, str(error)) from None
    return trainer if suite.trainer else Alternatives(suite.trainers)


def with_dotted_names(source: SuiteSource, trainer: Trainer, mistakes: Mistakes) -> SuiteSource:
    """Settings may be nested, as in a configuration for ``train``: from here on they have dotted names."""
    groups: dict[str, Settings] = {}
    for group in ("fixed", "baseline"):
        groups[group] = {}
        for name, value in trainer.dotted(getattr(source.suite, group)):
            if name in groups[group]:
                mistakes.found.append(source.error((group, name), TWICE))
            groups[group][name] = value
    suite = dataclasses.replace(source.suite, fixed=groups["fixed"], baseline=groups["baseline"])
    return dataclasses.replace(source, suite=suite)


def check_settings(source: SuiteSource, trainer: Trainer, mistakes: Mistakes) -> None:
    """Check every name and every value on its own, so that an error names its line."""
    suite, document, known = source.suite, source.document, trainer.defaults()
    for one in trained(suite, trainer).values():
        for env in suite.tasks:
            with mistakes.collected():
                check_environment_name(document, one, env)
    for group, settings in (("fixed", suite.fixed), ("search", suite.search), ("baseline", suite.baseline)):
        for name, value in settings.items():
            key = (group, name)
            if key == ("search", PLACEMENT) and value == AUTO:
                continue
            with mistakes.collected():
                if name not in known:
                    unknown = f"the trainer '{suite.trainer}' has no such setting; {nearest(name, known)}"
                    raise source.error(key, unknown)
                if name == "env" and not (suite.envs and "env" not in (document.content.get(group) or {})):
                    raise source.error(key, "the environment is set by 'env' at the top, or several by 'envs'")
                if group == "search" and name in suite.fixed:
                    raise source.error(key, "is fixed as well; leave it out of one of the two")
                for sample in ends(value) if group == "search" else [value]:
                    check_value(document, trainer, key, sample, here=group != "search")
    if not isinstance(trainer, Alternatives):
        return
    environments = [*suite.tasks, *names()]  # others may be left out on the command line
    for name, variant in suite.trainers.items():
        groups: dict[Key, Settings] = {("settings",): variant.settings}
        for env, settings in variant.by_env.items():
            groups[("by_env", env)] = settings
            if env not in environments:
                problem = f"unknown environment; {nearest(env, environments)}"
                mistakes.found.append(source.error(("trainers", name, "by_env", env), problem))
        for where, settings in groups.items():
            seen: set[str] = set()
            for setting, value in trainer.trainers[name].dotted(settings):
                full: Key = ("trainers", name, *where, setting)
                with mistakes.collected():
                    if setting in seen:
                        raise source.error(full, TWICE)
                    seen.add(setting)
                    if setting in SHARED:
                        raise source.error(full, "is the same for all trainers: 'env' at the top, 'fixed.seed'")
                    check_value(document, trainer.trainers[name], full, value)


def trained(suite: Suite, trainer: Trainer) -> dict[str, Trainer]:
    """The trainers that train, by their names."""
    return trainer.trainers if isinstance(trainer, Alternatives) else {suite.trainer: trainer}


def contradictions(source: SuiteSource, trainer: Trainer) -> Iterator[tuple[Key, str]]:
    """What these trainers or this machine cannot do, and what several environments rule out."""
    suite, measure = source.suite, source.suite.measure
    objectives, training = suite.objectives, trained(suite, trainer)
    learns = len(objectives) == 1 and objectives[0].metric in RETURNS and objectives[0].direction == "maximize"
    if suite.pruner is not None and not learns and not any(one.key.startswith("objectives") for one in source.mistakes):
        given = ", ".join(f"{objective.direction} {objective.metric}" for objective in objectives)
        needs = f"needs one objective to maximize, {' or '.join(RETURNS)}"
        yield ("pruner",), f"{needs}, got {given}; leave the pruner out"
    if measure.cores is not None:
        try:
            core_sets(measure.cores)
        except DeviceError as error:
            yield ("measure", "cores"), str(error)
    asked: dict[Key, Any] = {("measure", "evaluate"): measure.evaluate}
    asked[("confirm", "learning")] = suite.confirm and suite.confirm.learning
    without = ", ".join(name for name, one in training.items() if not one.evaluates)
    for key in [key for key, one in asked.items() if one is not None and without]:
        yield key, f"{without} cannot be evaluated; leave it out"
    if measure.judge is not None:
        cannot = [name for name, one in training.items() if not one.keeps]
        for env in suite.tasks:
            with suppress(ValueError):  # an unknown name is a mistake of its own
                cannot += [] if can_judge(env) else [f"the environment {env}"]
        if cannot:
            yield ("measure", "judge"), f"{', '.join(cannot)} cannot be judged; leave it out"
    if len(suite.tasks) > 1:
        alternatives = {"confirm": suite.confirm, "pruner": suite.pruner, "pinned": suite.pinned}
        for name in [name for name, one in alternatives.items() if one]:
            yield (name,), "results of several environments are not ranked together, so leave it out"
        if suite.sampler.name != "grid":
            problem = "with several environments every configuration is measured in each: expected grid"
            yield ("sampler", "name"), problem
    if suite.sampler.name == "grid":
        for name, dimension in suite.search.items():
            if isinstance(dimension, BaseDistribution) and math.isinf(values(dimension)[0]):
                yield ("search", name), "a grid measures every value, so this range needs a step, or use a list"


def check_value(document: Document, trainer: Trainer, key: Key, value: Any, *, here: bool = True) -> None:
    """The setting at a key of the document is possible, and a device is one of this machine if it has to be ``here``.

    Raises:
        InputError: it is not.
    """
    name = str(key[-1])
    try:
        trainer.check({name: value})
        if here and name in trainer.device_settings:
            check_device(value, name)
    except SettingsError as error:
        raise document.error(key, error.problem if error.key == name else str(error)) from None
    except DeviceError as error:
        raise document.error(key, str(error).removeprefix(f"{name}: ")) from None


def searched_here(source: SuiteSource, trainer: Trainer) -> tuple[Suite, tuple[str, ...], tuple[str, ...]]:
    """The suite with what is searched on this machine, notes, and what was left out, in words.

    ``search: {placement: auto}`` stands for what the trainer finds here beside what the suite states itself, the
    baseline's value of a setting first. Left out are devices that are not there, and choices that contradict the rest
    of the suite whatever any other choice is.
    """
    suite, notes, dropped = source.suite, list[str](), list[str]()
    search = {name: dimension for name, dimension in suite.search.items() if name != PLACEMENT or dimension != AUTO}
    base = {"env": suite.tasks[0]} | suite.fixed | suite.baseline
    if len(search) < len(suite.search):
        found = trainer.placements(base)
        if not found:
            what = f"the trainer '{suite.trainer}' does not say what auto is"
            raise source.error(("search", PLACEMENT), f"{what}; name the settings that are to be searched")
        devices = trainer.device_settings  # without evidence, and never left out for that
        added = {name: values for name, values in found.items() if name not in search and name not in suite.fixed}
        for name, values in added.items():
            own = suite.baseline.get(name, values[0])
            others = [one for one in values if one != own]
            shown = [one for one in others if name in devices or evidence.offered(suite.trainer, {name: one})]
            dropped += [f"{name}: {one} (nothing shows that it learns as well)" for one in others if one not in shown]
            search[name] = distribution([own, *shown])
        stated = ", ".join(added) or "nothing that the suite does not state"
        notes.append(f"search.{PLACEMENT} is auto, which is here: {stated}")

    choices = [name for name, dimension in search.items() if isinstance(dimension, CategoricalDistribution)]
    for name in [name for name in trainer.device_settings if name in choices]:
        there = []
        for device in ends(search[name]):
            try:
                check_device(device, name)
                there.append(device)
            except DeviceError:
                dropped.append(f"{name}: {device} (not on this machine)")
        if not there:
            check_value(source.document, trainer, ("search", name), ends(search[name])[0])
        search[name] = distribution(there)
    for name in choices:
        others = [{other: value} for other in search if other != name for value in ends(search[other])]
        problems = [(one, _contradiction(trainer, base | {name: one}, others)) for one in ends(search[name])]
        possible = [value for value, problem in problems if problem is None]
        if possible:
            search[name] = distribution(possible)
            dropped += [f"{name}: {value} ({problem})" for value, problem in problems if problem is not None]
    return dataclasses.replace(suite, search=search), tuple(notes), tuple(dropped)


def _contradiction(trainer: Trainer, settings: Settings, others: Sequence[Settings]) -> str | None:
    """The reason why these settings cannot be used; None where one of the other choices makes them possible."""
    problem = None
    for other in ({}, *others):
        try:
            trainer.check_together(settings | other)
            return None
        except SettingsError as error:
            problem = problem or error.problem
    return problem


def with_learning(suite: Suite, trainer: Trainer) -> Suite:
    """With two seeds a side where this project has shown how far seeds of the baseline spread in this environment.

    Two seeds say nothing by themselves: without that, none are trained unless the suite asks for them.
    """
    if suite.confirm is None or suite.confirm.learning is not None or suite.learns or not suite.trainer:
        return suite
    known = evidence.like(suite.trainer, trainer, {"env": suite.env} | suite.fixed | suite.baseline, suite.env)
    if known is None:
        return suite
    seeds = known.returns[suite.env]["baseline"]
    spread = statistics.stdev(seeds) / statistics.fmean(seeds)
    learning = Learning(FEW_SEEDS, known.env_steps, known.margin, known.episodes, spread)
    return dataclasses.replace(suite, confirm=dataclasses.replace(suite.confirm, learning=learning))


def baseline_of(source: SuiteSource, suite: Suite, trainer: Trainer, space: Space) -> Settings:
    """The baseline: what the suite says, else the trainer's value if that is searched, else the first value."""
    defaults, baseline = trainer.complete(suite.fixed), dict(suite.baseline)
    for name in space.dimensions:
        if name not in baseline:
            baseline[name] = defaults[name] if space.contains(name, defaults[name]) else space.ends(name)[0]
        elif not space.contains(name, baseline[name]):
            problem = f"{baseline[name]!r} is not in the search space; add it to search.{name}"
            raise source.error(("baseline", name), problem)
        baseline[name] = space.stated(name, baseline[name])
    settings = {"env": suite.tasks[0]} | suite.fixed | baseline
    try:
        trainer.check(settings)
        trainer.check_together(settings)
    except SettingsError as error:
        group = next((g for g in ("baseline", "fixed", "search") if error.key in getattr(suite, g)), None)
        key: Key = ("baseline",) if group is None else (group, error.key)
        raise source.error(key, error.problem if group else str(error)) from None
    return baseline


def pinned_of(source: SuiteSource, trainer: Trainer, space: Space, baseline: Settings) -> dict[str, Settings]:
    """The pinned configurations: what the suite says, the rest as in the baseline."""
    pinned: dict[str, Settings] = {}
    for name, settings in source.suite.pinned.items():
        pinned[name] = {searched: baseline[searched] for searched in space.dimensions}
        for setting, value in trainer.dotted(settings):
            key = ("pinned", name, setting)
            if setting not in space.dimensions:
                raise source.error(key, f"only what is searched can be pinned; {nearest(setting, space.dimensions)}")
            if not space.contains(setting, value):
                raise source.error(key, f"{value!r} is not in the search space; add it to search.{setting}")
            pinned[name][setting] = space.stated(setting, value)
    return pinned


def try_suite(suite: Suite, document: Document, trainer: Trainer) -> tuple[str, ...]:
    """``try_environment`` with the settings of each trainer's baseline, and with every value that is searched."""
    notes: list[str] = []
    for env in suite.tasks:
        for name, one in trained(suite, trainer).items():
            groups: dict[Key, Settings] = {("fixed",): suite.fixed, ("baseline",): suite.baseline}
            if variant := suite.trainers.get(name):
                groups = {("trainers", name, "settings"): variant.settings}
                groups[("trainers", name, "by_env", env)] = variant.by_env.get(env, {})
            notes += try_environment(document, one, env, groups)
        for name, dimension in suite.search.items():
            for value in ends(dimension):
                groups = {("fixed",): suite.fixed, ("search",): {name: value}}
                tried = try_environment if name == "env_cfg" else _check_trainable
                notes += tried(document, trainer, env, groups) or []
    return tuple(dict.fromkeys(notes))


def try_environment(
    document: Document, trainer: Trainer, env: str, groups: Mapping[Key, Mapping[str, Any]]
) -> list[str]:
    """A few steps of an environment that is not ours, so that its mistakes are found before anything is started; of a
    robot, whose model may be missing; or of one with settings of its own.

    ``groups`` are settings, by where in the document they stand. Returns warnings: what may be intended, or a mistake.

    Raises:
        InputError: its code does not do what is asked of it, or this trainer cannot train in it.
    """
    notes: list[str] = []
    settings = nest({name: value for group in groups.values() for name, value in group.items()})
    if trainer.unilab_environments and (env not in names() or is_robot(env) or settings.get("env_cfg")):
        from unilab.envs.check import check

        findings = check(env, settings.get("env_cfg"), settings.get("sim_backend", "mujoco"))
        if findings.problems:
            key = _stated(groups, findings.setting) if findings.setting else ()
            problems = [problem.removeprefix(f"{key[-1]}: ") if key else problem for problem in findings.problems]
            raise InputError.together([document.error(key or ("env",), problem) for problem in problems])
        notes = [f"{env}: {note}" for note in findings.notes]
    _check_trainable(document, trainer, env, groups)
    return notes


def _check_trainable(document: Document, trainer: Trainer, env: str, groups: Mapping[Key, Mapping[str, Any]]) -> None:
    settings = {name: value for group in groups.values() for name, value in group.items()}
    try:
        trainer.check_environment({**settings, "env": env})
    except SettingsError as error:
        raise document.error(_stated(groups, error.key) or (error.key,), error.problem) from None


def _stated(groups: Mapping[Key, Mapping[str, Any]], setting: str) -> Key:
    """Where in the document a setting stands, or one of the environment's own; () if it does not."""
    found: Key = ()
    for key, group in groups.items():
        if setting in group:
            found = (*key, setting)
        elif setting.partition(".")[0] in (nest(group).get("env_cfg") or {}):
            found = (*key, "env_cfg", setting.partition(".")[0])
    return found


def check_environment_name(document: Document, trainer: Trainer, env: str) -> None:
    """An unknown name is found now and not by the first trial."""
    if trainer.unilab_environments and env != UNKNOWN and not is_environment(env):
        raise document.error(("env",), f"unknown environment '{env}'; {nearest(env, names())}")


def is_environment(name: str) -> bool:
    """Whether an environment is known by this name; of ``module:attribute`` only the form is looked at."""
    if name in names() or ":" in name:
        return True
    import gymnasium

    return name in gymnasium.registry
