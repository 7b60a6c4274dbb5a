"""What was shown beforehand of placement settings: whether a trainer learns as well with them.

``benchmarks/learns_as_well.py`` makes the table that lies beside this file. An entry holds for the code that learns as
it was then: once that has changed, it says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pydantic

from harness.stats.inference import AsWell
from harness.suite.sources import learning_digest
from harness.trainers import trainer as trainers
from harness.trainers.alternatives import SHARED
from harness.trainers.trainer import Trainer
from unilab.settings import LEARNING

FILE = Path(__file__).with_name("learns_as_well.json")
WHO_COMPUTES = ("_threads", "_cores")
"""ends of the names of settings without evidence: they say who computes, and change rounding and policy lag alone, as
the load of a machine does"""


@dataclass(frozen=True)
class Evidence:
    """Seeds of a trainer with a setting beside seeds without it."""

    trainer: str
    settings: dict[str, Any]
    """of the one side; the baseline is the trainer as it comes"""
    env_steps: int
    """of training"""
    episodes: int
    """whole ones that each policy played without noise after its training"""
    margin: float
    """see ``harness.stats.inference.non_inferiority``"""
    returns: dict[str, dict[str, list[float]]]
    """by environment: means of the episodes of each seed, of ``baseline`` and of ``setting``"""
    difference: float
    interval: tuple[float, float]
    verdict: AsWell
    code: str
    """digest of what learned (``harness.suite.sources.learning_digest``)"""
    machine: str
    versions: str
    commit: str
    command: str
    measured: str
    """when, UTC"""
    same_bits: tuple[str, ...] = ()
    """digests of later code that trains to the same bits in lock step (``benchmarks/learns_as_well.py --carry``)"""

    @property
    def current(self) -> bool:
        """Whether what learns is still the same."""
        return learning_digest(*trainers.get(self.trainer).learning_code) in (self.code, *self.same_bits)

    @property
    def seeds(self) -> int:
        """Of a side, in each environment."""
        return min(len(side) for sides in self.returns.values() for side in sides.values())


@cache
def shipped() -> tuple[Evidence, ...]:
    """All that there is."""
    return tuple(pydantic.TypeAdapter(list[Evidence]).validate_json(FILE.read_bytes()))


def needing(changed: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that need evidence, of those in which a configuration differs from the baseline."""
    return {name: value for name, value in changed.items() if not name.endswith(WHO_COMPUTES)}


def covering(trainer: str, changed: Mapping[str, Any]) -> list[Evidence]:
    """What the table says of these settings: together if it knows them so, otherwise of each that it knows."""
    known = [one for one in shipped() if one.trainer == trainer and one.settings.items() <= changed.items()]
    return next(([one] for one in known if one.settings == dict(changed)), known)


def offered(trainer: str, setting: Mapping[str, Any]) -> bool:
    """Whether ``auto`` may choose this value of a setting.

    Of a trainer that the table knows it chooses what is shown to learn as well. That counts after it has expired, too,
    and the claim says so.
    """
    asked = needing(setting)
    known = [one for one in shipped() if one.trainer == trainer]
    return not asked or not known or any(one.settings == asked and one.verdict == "as well" for one in known)


def worse(trainer: str, changed: Mapping[str, Any]) -> Evidence | None:
    """Current evidence that it learns worse with what is ``changed``, or with a part of it; None: there is none."""
    known = covering(trainer, needing(changed))
    return next((one for one in known if one.verdict == "worse" and one.current), None)


def like(name: str, trainer: Trainer, settings: Mapping[str, Any], env: str) -> Evidence | None:
    """Current evidence in this environment; None unless ``settings`` learn as its baseline, the trainer's defaults."""

    def learning(given: Mapping[str, Any]) -> dict[str, Any]:
        changes, values = trainer.changes(), trainer.complete(given)
        return {key: value for key, value in values.items() if changes.get(key) == LEARNING and key not in SHARED}

    for one in shipped():
        if one.trainer == name and env in one.returns and one.current and learning({}) == learning(settings):
            return one
    return None
