"""The suite file: what is measured, read from YAML into frozen dataclasses.

Every mistake is told with file, line, key, what was expected and the nearest valid key, all of them at once
(``InputError``); reading a suite creates nothing. The settings named in ``fixed``, ``search`` and ``baseline`` belong
to the trainer and are checked against it by ``harness.predict.plan``, through ``SuiteSource.error`` so that they carry
their line as well.
"""

import copy
import dataclasses
import hashlib
import json
import math
import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from harness.files.yaml_file import Document, InputError, Key, Mistakes
from harness.suite.metrics import METRICS, RATES, RETURNS
from harness.suite.space import decode, encode, ends
from unilab.settings import nearest

Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
STEADY_SECONDS = 20.0
LOOKED_AT = 3
"""trials that get a second look; more where at least as many are confirmed"""
FLAT_GROUPS = ("fixed", "search", "baseline")
"""groups whose keys are dotted names of trainer settings"""
UNKNOWN = "?"
"""environment of a suite that names none that can be one"""
PLACEMENT = "placement"
"""stands in ``search`` for all settings of the trainer that change placement alone, with the value ``auto``"""
REMOVED = {"sampler.predict": "sampler.name says it now: auto searches by the prediction, tpe without"}
"""keys that earlier versions had, by what stands in their place; a study of then is read without them"""
UNKNOWN_KEY = "unexpected_keyword_argument"
"""as pydantic calls it"""


class Group:
    """Keys of a suite file that go together: any other is a mistake, and so is a number that is not finite."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Range(Group):
    """Numbers between two ends, both included. They are whole numbers if both ends are."""

    low: Number
    """smallest value"""
    high: Number
    """largest value"""
    log: bool = False
    """search on a logarithmic scale"""
    step: Number | None = None
    """distance between the values; null: any between the ends"""


def distribution(written: "Sequence[Any] | Range") -> BaseDistribution:
    """A list of values or a range as Optuna has it.

    Raises:
        ValueError: there are none, or they contradict each other.
    """
    if isinstance(written, Range):
        low, high, log, step = written.low, written.high, written.log, written.step
        whole = isinstance(low, int) and isinstance(high, int)
        if whole and isinstance(step, float):
            raise ValueError("expected a whole step between whole numbers")
        if log and step is not None:
            raise ValueError("expected either log or step, not both")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an end that no step leads to is moved
            if whole:
                return IntDistribution(int(low), int(high), log, 1 if step is None else int(step))
            return FloatDistribution(low, high, log, step)
    if not written:
        raise ValueError("expected at least one value")
    texts = [json.dumps(value) for value in written]
    if len(set(texts)) < len(texts) or any(a == b for i, a in enumerate(written) for b in written[:i]):
        raise ValueError("expected different values, one is there twice")
    if any(isinstance(value, str) and decode(value) != value for value in written):
        raise ValueError("a text that reads as a list is taken for one: write it unquoted")
    return CategoricalDistribution(list(map(encode, written)))


def written(dimension: BaseDistribution) -> list[Any] | dict[str, Any]:
    """Back from ``distribution``, as a suite file has it."""
    if isinstance(dimension, CategoricalDistribution):
        return list(ends(dimension))
    assert isinstance(dimension, IntDistribution | FloatDistribution)
    step = None if isinstance(dimension, IntDistribution) and dimension.step == 1 else dimension.step
    return {"low": dimension.low, "high": dimension.high, "log": dimension.log, "step": step}


AUTO = distribution(["auto"])


def _kind_of_search(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return "list"
    return "range" if isinstance(value, dict | Range) else None


if TYPE_CHECKING:
    Dimension = BaseDistribution
else:
    Dimension = Annotated[
        Annotated[tuple[Any, ...], Tag("list")] | Annotated[Range, Tag("range")],
        Discriminator(
            _kind_of_search,
            custom_error_type="search_kind",
            custom_error_message="expected a list of values or {low, high, log, step}",
        ),
        AfterValidator(distribution),
    ]


def _known_metric(name: Any) -> Any:
    if name not in METRICS:
        raise ValueError(f"unknown metric '{name}'; {nearest(str(name), METRICS)}")
    return name


Metric = Annotated[str, BeforeValidator(_known_metric)]


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("expected different environments, one is there twice")
    return names


@dataclass(frozen=True)
class Objective(Group):
    """A metric to improve, and the direction that is better."""

    metric: Metric
    """one of the metrics below"""
    direction: Literal["maximize", "minimize"] = "maximize"
    """which way is better; by default the direction of the metric"""

    @classmethod
    def read(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = {"metric": given}
        if isinstance(given, dict) and given.get("metric") in METRICS:
            return {"direction": METRICS[given["metric"]]} | given
        return given


@dataclass(frozen=True)
class Bounds(Group):
    """Where a metric has to stay for a configuration to count as feasible."""

    min: Number | None = None
    """smallest value that is allowed"""
    max: Number | None = None
    """largest value that is allowed"""

    def excess(self, value: float) -> float:
        """How far ``value`` is outside, 0 or less when inside; a metric that is missing is outside."""
        if math.isnan(value):
            return math.inf
        over = [value - self.max] if self.max is not None else []
        under = [self.min - value] if self.min is not None else []
        return max(over + under, default=0.0)


@dataclass(frozen=True)
class Constraints(Group):
    """What a configuration has to keep to count as feasible."""

    host_memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.8
    """part of this machine's memory that a trial may use"""
    metrics: dict[Metric, Bounds] = field(default_factory=dict)
    """bounds of a metric, under its name beside ``host_memory_fraction``"""

    @classmethod
    def read(cls, given: Any) -> Any:
        """The file has metrics beside the fraction, not in a group of their own."""
        if not isinstance(given, dict) or "metrics" in given:
            return given
        fraction = {key: value for key, value in given.items() if key == "host_memory_fraction"}
        return fraction | {"metrics": {key: value for key, value in given.items() if key not in fraction}}


@dataclass(frozen=True)
class ReturnAt(Group):
    """A budget of training: of env steps, or of seconds of wall time."""

    env_steps: Count | None = None
    """env steps of training"""
    seconds: Positive | None = None
    """seconds of wall time"""

    def __post_init__(self) -> None:
        if (self.env_steps is None) == (self.seconds is None):
            raise ValueError("expected either env_steps or seconds")

    def to_dict(self) -> dict[str, float]:
        """As a suite file has it."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Judge(Group):
    """The environment itself judges policies that were kept while a trial trained, after its training."""

    every_seconds: Positive
    """wall time of training between two policies that are kept; the last one always is"""
    episodes: Count = 256
    """that each policy plays"""


@dataclass(frozen=True)
class Measure(Group):
    """How a trial is measured."""

    warmup_seconds: NotNegative = 5.0
    """seconds that are left out of the steady window; the first three iterations, and those that fill each buffer for
    the first time, are left out as well"""
    seconds: Positive | None = None
    """length of the steady window; by default 20 s, or as long as ``return_at`` says"""
    repeats: Count = 1
    """times that a trial is measured, each in a fresh process"""
    return_at: ReturnAt | None = None
    """a trial ends when this budget is used up; ``return_at_budget`` is its return then"""
    target_return: Annotated[float, Field(strict=True)] | None = None
    """``seconds_to_return`` is the wall time until the mean return reaches this value; the trial still runs to its
    end"""
    disturbed_retries: Annotated[int, Field(ge=0)] = 2
    """times that a repeat is measured again if something else used its cores; the least disturbed attempt counts"""
    turns: bool = True
    """whether repeats that are measured together take turns of a fraction of a second, where speed is confirmed or
    compared"""
    cores: Count | None = None
    """cores that each repeat has to itself. As many repeats run at the same time as the machine has such sets of cores,
    of which no two share a physical core. null: one repeat at a time, on all cores"""
    evaluate: Count | None = None
    """episodes that the trained policy plays without noise after the training; ``evaluated_return`` is their mean
    return. null: none"""
    judge: Judge | None = None
    """``seconds_to_success`` is the wall time of the first kept policy with which the environment is solved. Policies
    are judged one after the other until then, and the last one. null: none are kept"""

    @property
    def steady_seconds(self) -> float:
        """Length of the steady window where no budget decides."""
        return STEADY_SECONDS if self.seconds is None else self.seconds

    @property
    def least_seconds(self) -> float:
        """Training that one repeat takes at least; how long a budget of env steps takes nobody knows beforehand."""
        if self.return_at is not None:
            return self.return_at.seconds or self.warmup_seconds
        return self.warmup_seconds + self.steady_seconds


def _fraction(given: Any) -> Any:
    """``10%`` as 0.1; all else as it is."""
    if isinstance(given, str) and given.strip().endswith("%"):
        with suppress(ValueError):
            return float(given.strip()[:-1]) / 100
    return given


@dataclass(frozen=True)
class Learning(Group):
    """Whether the best learns as well as the baseline: both are trained anew, and their final policies evaluated."""

    seeds: Count = 10
    """seeds a side. The comparison is made when all of them are trained. Changing the number later counts as another
    look at the result, and the level of the test is divided by the number of looks"""
    env_steps: Count = 500_000
    """env steps of training"""
    margin: Annotated[float, BeforeValidator(_fraction), Field(gt=0, lt=1)] = 0.1
    """how far the best may stay below the baseline, as a part of the baseline's mean return, such as 10%"""
    evaluate: Count = 64
    """whole episodes that each policy plays without noise after its training"""
    spread: Positive | None = None
    """standard deviation of a seed's return, divided by the mean return, if it is known from elsewhere. Two seeds a
    side are then enough to check that both sides stay within it. null: it is estimated from the seeds of this study"""

    @property
    def measure(self) -> Measure:
        """How such a repeat is measured."""
        budget = ReturnAt(env_steps=self.env_steps)
        return Measure(warmup_seconds=0.0, return_at=budget, evaluate=self.evaluate, disturbed_retries=0)


@dataclass(frozen=True)
class Confirm(Group):
    """After the search, the best configurations and the baseline are measured again, in turns if they can."""

    top: Count = 2
    """configurations beside the baseline, and beside what is pinned"""
    repeats: Count = 8
    """repeats of each of them. The baseline has as many, and one more if the number is odd. The test needs six to
    confirm one configuration, pinned ones included, seven for two or three, eight for up to six"""
    learning: Learning | None = None
    """trains seeds of the best and of the baseline, which show whether the best learns as well. null: two seeds a side
    if this project knows how far seeds of the baseline spread in this environment, otherwise none"""

    @property
    def blocks(self) -> int:
        """With two repeats of each candidate; where ``repeats`` is odd the last one has one, of the baseline two."""
        return math.ceil(self.repeats / 2)


@dataclass(frozen=True)
class Sampler(Group):
    """How the search chooses the next trial."""

    name: Literal["auto", "tpe", "random", "grid"] = "auto"
    """auto: if the only objective is a speed, the configuration with the largest expected gain comes next, and the
    search ends when that gain is too small; for other objectives auto is tpe. tpe: Optuna's tree-structured Parzen
    estimator. random: random values. grid: every configuration"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of the sampler, and of the first repeat of each trial"""


@dataclass(frozen=True)
class Pruner(Group):
    """Ends trials of the search early if their return stays behind."""

    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    """a trial goes on while its best return so far is at or above this percentile of the completed trials"""
    startup_trials: Count = 5
    """completed trials before the first one is pruned"""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """part of a trial's budget before which it is never pruned"""
    interval_fraction: Annotated[float, Field(ge=0.01, lt=1)] = 0.1
    """part of the budget between two checks, in whole percent"""


@dataclass(frozen=True)
class Limits(Group):
    """What a study may take."""

    trials: Count = 20
    """trials of the study in total, over all runs of it"""
    minutes: Positive = 60.0
    """wall time of one run: ceilings, search and confirmation. A repeat that has begun is finished. The search ends
    early enough to leave time for the confirmation. The same command, given again, measures what is missing"""
    trial_timeout_seconds: Positive = 300.0
    """longest time that one repeat may take, including the start of its process"""
    progress_timeout_seconds: Positive = 120.0
    """a repeat that reports nothing for this long counts as hanging"""


@dataclass(frozen=True)
class Variant(Group):
    """One of several trainers side by side, with settings of its own."""

    trainer: Annotated[str, Field(min_length=1)]
    """appo, sac, td3, or package.module:Class"""
    settings: dict[str, Any] = field(default_factory=dict)
    """settings of this trainer alone; they replace those of ``fixed``"""
    by_env: dict[str, dict[str, Any]] = field(default_factory=dict)
    """settings for one environment, by its name; they replace those of ``settings``"""


@dataclass(frozen=True)
class Suite(Group):
    """A suite file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
    """name of the suite; its studies are in a folder of that name"""
    env: str = ""
    """environment to train in: a task of this project, a gymnasium id, or module:Class"""
    envs: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(_different)] = ()
    """several environments instead of ``env``. Every configuration is measured in each of them. Results of different
    environments are never compared"""
    trainer: str = ""
    """appo, sac, td3, or package.module:Class"""
    trainers: dict[str, Variant] = field(default_factory=dict)
    """several trainers instead of ``trainer``, each under a name that the suite chooses; ``search.trainer`` lists these
    names"""
    fixed: dict[str, Any] = field(default_factory=dict)
    """settings of the trainer that all trials have"""
    search: dict[str, Dimension] = field(default_factory=dict)
    """settings that vary, each a list of values or a range with low and high. ``placement: auto`` stands for all
    settings that change placement alone, with the values that make sense on this machine"""
    baseline: dict[str, Any] = field(default_factory=dict)
    """the configuration that is measured first and that all others are compared with. A searched setting that it leaves
    out has the trainer's default if the search includes it, otherwise the first value of the list or range"""
    pinned: dict[str, dict[str, Any]] = field(default_factory=dict)
    """configurations that are measured and confirmed whatever the search finds, so that their history goes on. Each is
    under a name that the suite chooses. A searched setting that it leaves out is as in the baseline"""
    objectives: Annotated[tuple[Annotated[Objective, BeforeValidator(Objective.read)], ...], Field(min_length=1)] = (
        Objective("env_steps_per_second"),
    )
    """metrics to improve. The first one orders the results; several make a Pareto front"""
    constraints: Annotated[Constraints, BeforeValidator(Constraints.read)] = Constraints()
    """what a configuration has to keep to count as feasible"""
    measure: Measure = Measure()
    """how a trial is measured"""
    confirm: Confirm | None = None
    """how the best are measured again after the search. null: they are not, and the study claims no gain"""
    sampler: Sampler = Sampler()
    """how the search chooses the next trial"""
    pruner: Pruner | None = None
    """when trials whose return stays behind are ended early; null: never"""
    limits: Limits = Limits()
    """what a study may take"""

    def __post_init__(self) -> None:
        search = dict(self.search)
        if self.trainers and "trainer" not in search:
            search = {"trainer": distribution(list(self.trainers)), **search}
        if self.envs and not self.env:
            search = {"env": distribution(list(self.envs)), **search}
        object.__setattr__(self, "search", search)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The environments."""
        return self.envs or (self.env,)

    @property
    def only_compares(self) -> bool:
        """Whether its configurations are measured beside the baseline in each environment, and nothing is searched."""
        return len(self.tasks) > 1 or (bool(self.trainers) and self.learns and self.confirm is None)

    @property
    def learns(self) -> bool:
        """Whether its repeats are measured for what they learn, and not for their speed alone."""
        measure = self.measure
        measured = any(one is not None for one in (measure.return_at, measure.target_return, measure.judge))
        return measured or any(objective.metric in RETURNS for objective in self.objectives)

    @property
    def guided(self) -> bool:
        """The search goes by what is expected of each configuration (``harness.predict.next_trial``)."""
        return self.sampler.name == "auto" and len(self.objectives) == 1 and self.objectives[0].metric in RATES

    def looked_at(self, candidates: int) -> int:
        """How many of so many trials beside the baseline get a second look.

        None do where nothing is confirmed, where all of them are confirmed, or where repeats learn: a second look at
        learning takes minutes a trial, and returns are told apart by seeds, which ``measure.repeats`` asks for.
        """
        if self.confirm is None or self.learns or candidates <= self.confirm.top:
            return 0
        return min(candidates, max(LOOKED_AT, self.confirm.top + 1))

    def study_id(self) -> str:
        """Eight hexadecimal digits of everything that decides what a trial is and how it is measured.

        Limits, confirmation and what is pinned are left out: a study may be extended. What makes a seed of
        ``confirm.learning`` stays in.
        """
        content = self._content()
        learning = self.confirm and self.confirm.learning
        for extendable in ("name", "limits", "confirm", "pinned"):
            del content[extendable]
        if learning:  # seeds of two budgets do not compare
            content["learning"] = {"env_steps": learning.env_steps, "evaluate": learning.evaluate}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    def _content(self) -> dict[str, Any]:
        content = dataclasses.asdict(self)
        content["search"] = {name: written(dimension) for name, dimension in self.search.items()}
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain

    def to_dict(self) -> dict[str, Any]:
        """As a suite file has it; reading it back gives an equal suite."""
        content = self._content()
        content["constraints"] |= content["constraints"].pop("metrics")
        if self.envs:  # the search has them from there
            del content["search"]["env"]
        for optional in ("trainer", "trainers", "env", "envs", "pinned", "confirm", "pruner"):
            if not content[optional]:
                del content[optional]
        return content


SECTIONS: dict[str, type] = {
    "measure": Measure, "confirm": Confirm, "sampler": Sampler, "pruner": Pruner, "limits": Limits,
    "trainers": Variant, "objectives": Objective, "search": Range, "constraints": Bounds, "measure.return_at": ReturnAt,
    "measure.judge": Judge, "confirm.learning": Learning,
}  # fmt: skip

_SUITE = pydantic.TypeAdapter(Suite)


@dataclass(frozen=True)
class SuiteSource:
    """A suite and the file it stands in."""

    suite: Suite
    document: Document
    mistakes: tuple[InputError, ...] = ()
    """what is wrong with the file, where ``suite`` is the rest of it"""

    def error(self, key: Key, problem: str) -> InputError:
        """An error at a key of the file."""
        return self.document.error(key, problem)


def parse(text: str, file: str = "<suite>", overrides: Sequence[str] = ()) -> SuiteSource:
    """A suite from the text of a file; ``overrides`` are ``key=value`` texts as given with ``--set``.

    Raises:
        InputError: everything that is wrong with the text or an override.
    """
    source = _build(Document.parse(text, file, overrides, FLAT_GROUPS))
    Mistakes(source.mistakes).check()
    return source


def read(path: Path | str, overrides: Sequence[str] = ()) -> SuiteSource:
    """As ``parse``, of a file, for a caller who looks for more mistakes: ``mistakes`` names what is wrong and left out.

    Raises:
        InputError: too little is right to go on.
    """
    return _build(Document.load(path, overrides, FLAT_GROUPS))


def _build(document: Document) -> SuiteSource:
    content = document.content
    if "settings" in content and not {"name", "search", "fixed"} & content.keys():
        problem = f"this is a configuration and no suite: python -m harness train {shlex.quote(document.file)}"
        raise document.error(("settings",), problem)
    content = {**content, "search": _without_groups(content.get("search", {}))}
    mistakes: list[InputError] = []
    try:
        suite = _SUITE.validate_python(content)
    except pydantic.ValidationError as error:
        mistakes += _told(error, document)
        # without what is wrong, so that the rest can be checked, too
        rest = copy.deepcopy(content)
        for section, *inside in {one["loc"][:2] for one in error.errors()}:
            group = rest.get(str(section))
            if inside and isinstance(group, dict) and inside[0] in group:
                del group[inside[0]]
            else:
                rest.pop(str(section), None)
        try:
            unknown = {} if "envs" in rest else {"env": UNKNOWN}
            suite = _SUITE.validate_python({"name": "unnamed"} | unknown | rest)
        except pydantic.ValidationError:
            raise InputError.together(mistakes) from None
    wrong = {one.key.partition(".")[0] for one in mistakes}
    for one, several, named in (("trainer", "trainers", "a 'trainer'"), ("env", "envs", "an 'env'")):
        if not wrong & {one, several} and bool(getattr(suite, one)) == bool(getattr(suite, several)):
            key, problem = one, "is missing" if one not in content else "expected a name"
            if getattr(suite, one):
                key, problem = several, f"there is {named} as well; leave out one of the two"
            mistakes.append(document.error((key,), problem))
    if "measure" not in wrong:  # otherwise it is not known what is measured
        mistakes += [document.error(key, problem) for key, problem in _contradictions(suite)]
    return SuiteSource(suite, document, tuple(mistakes))


def _without_groups(search: Any) -> Any:
    """Dimensions may be nested, as settings may: each under its dotted name."""
    if not isinstance(search, dict):
        return search
    if search.get(PLACEMENT) == "auto":
        search = search | {PLACEMENT: ["auto"]}
    flat: dict[str, Any] = {}
    for name, value in search.items():
        is_group = isinstance(value, dict) and value and all(isinstance(inner, dict | list) for inner in value.values())
        flat |= {f"{name}.{inner}": one for inner, one in _without_groups(value).items()} if is_group else {name: value}
    return flat


def _contradictions(suite: Suite) -> Iterator[tuple[Key, str]]:
    """What contradicts itself in ``measure``, or is asked for and never measured."""
    measure = suite.measure
    if measure.return_at is not None and measure.seconds is not None:
        problem = "a trial ends where measure.return_at says, so leave 'seconds' out; or leave out return_at"
        yield ("measure", "seconds"), problem
    budget = None if measure.return_at is None else measure.return_at.seconds
    if budget is not None and budget <= measure.warmup_seconds:
        problem = f"a trial of {budget:g} s needs a warm-up that is shorter, got {measure.warmup_seconds:g} s"
        yield ("measure", "warmup_seconds"), problem
    unmeasured = {} if measure.return_at else {"return_at_budget": "return_at: {env_steps: N} or {seconds: S}"}
    unmeasured |= {} if measure.target_return is not None else {"seconds_to_return": "target_return: R"}
    unmeasured |= {} if measure.evaluate is not None else {"evaluated_return": "evaluate: EPISODES"}
    unmeasured |= {} if measure.judge is not None else {"seconds_to_success": "judge: {every_seconds: S}"}
    if suite.learns and suite.confirm is not None and suite.confirm.learning is not None:
        problem = "this suite's repeats learn anyway, and the confirmation compares their returns: leave it out"
        yield ("confirm", "learning"), problem
    used: list[tuple[Key, str]] = [(("objectives", index), one.metric) for index, one in enumerate(suite.objectives)]
    for key, metric in [*used, *((("constraints", metric), metric) for metric in suite.constraints.metrics)]:
        if metric in unmeasured:
            yield key, f"'{metric}' is measured only with measure.{unmeasured[metric]}"


def _told(error: pydantic.ValidationError, document: Document) -> list[InputError]:
    """Each mistake once with its line, as the file has its key, and only what is the cause.

    A misspelt key is unknown and leaves another one missing; a wrong value leaves a list shorter than it may be.
    """
    found = error.errors()
    inside = {one["loc"][:-depth] for one in found for depth in range(1, len(one["loc"]))}
    misspelt = {one["loc"][:-1] for one in found if one["type"] == UNKNOWN_KEY}
    told: dict[Key, InputError] = {}
    for one in found:
        is_unknown, is_missing = one["type"] == UNKNOWN_KEY, one["type"] == "missing"
        if (is_missing and one["loc"][:-1] in misspelt) or (one["type"] == "too_short" and one["loc"] in inside):
            continue
        # without names of pydantic's and of ours, which an unknown key may have, too
        ours = {"list", "range", "metrics", "[key]"}
        *outer, last = one["loc"]
        is_ours = not is_unknown and last in {*ours, "int", "float"}
        key: Key = tuple([part for part in outer if part not in ours] + [last] * (not is_ours))
        if is_unknown:
            owner = SECTIONS.get(".".join(map(str, key[:-1]))) or (SECTIONS[str(key[0])] if len(key) > 1 else Suite)
            remedy = nearest(str(key[-1]), [f.name for f in dataclasses.fields(owner)])
            if len(key) == 1 and remedy.startswith("known"):
                remedy = f"a setting of the trainer is set as fixed.{key[0]}; {remedy}"
            removed = REMOVED.get(".".join(map(str, key)))
            problem = f"is no key any more; {removed}" if removed else f"unknown key; {remedy}"
        elif is_missing:
            problem = "is missing"
        else:
            got = "" if one["type"] == "value_error" else f", got {one['input']!r}"
            problem = f"{one['msg'].removeprefix('Value error, ')}{got}"[:300]
        told.setdefault(key, document.error(key, problem))
    return list(told.values())
