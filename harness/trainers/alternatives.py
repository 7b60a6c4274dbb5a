"""Several trainers in one study, which are compared as values of one setting."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness.suite.schema import Variant
from harness.trainers import trainer as trainers
from harness.trainers.trainer import OnProgress, Trainer
from unilab.ipc.memory_budget import MemoryBudget
from unilab.run.progress import Summary
from unilab.settings import SettingsError, nearest

SHARED = ("env", "seed")
"""settings that a suite has at its top, or that differ between repeats"""


class Alternatives(Trainer):
    """The trainers of a suite's ``trainers``, each with the settings that it has there, as one with a choice.

    Raises:
        TrainerError: one of them cannot be loaded.
    """

    def __init__(self, variants: Mapping[str, Variant]) -> None:
        self.trainers = {name: trainers.get(variant.trainer) for name, variant in variants.items()}
        self.variants = {name: self._with_dotted_names(name, variant) for name, variant in variants.items()}

    def defaults(self) -> dict[str, Any]:
        return {"env": "HalfCheetah", "seed": 0, "trainer": next(iter(self.variants))}

    def check(self, settings: Mapping[str, Any]) -> None:
        super().check(settings)
        name = settings.get("trainer")
        if name is not None and name not in self.variants:
            raise SettingsError("trainer", f"'trainers' has no '{name}'; {nearest(name, self.variants)}")

    def check_together(self, settings: Mapping[str, Any]) -> None:
        trainer, chosen = self._choose(settings)
        trainer.check(chosen)
        trainer.check_together(chosen)

    def budget(self, settings: Mapping[str, Any]) -> MemoryBudget | None:
        trainer, chosen = self._choose(settings)
        return trainer.budget(chosen)

    def threads(self, settings: Mapping[str, Any]) -> dict[str, int]:
        trainer, chosen = self._choose(settings)
        return trainer.threads(chosen)

    def pausable(self, settings: Mapping[str, Any]) -> bool:
        trainer, chosen = self._choose(settings)
        return trainer.pausable(chosen)

    def run(self, settings: Mapping[str, Any], on_progress: OnProgress, **_: Any) -> Summary:
        """It never runs: a repeat runs the trainer that ``resolve`` names."""
        raise NotImplementedError

    def resolve(self, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The trainer that ``settings`` choose, as a suite names it, and the settings that it gets."""
        settings = self.complete(settings)
        variant, known = self.variants[settings["trainer"]], self.trainers[settings["trainer"]].defaults()
        shared = {key: settings[key] for key in SHARED if key in known}
        return variant.trainer, {**variant.settings, **variant.by_env.get(settings["env"], {}), **shared}

    def _with_dotted_names(self, name: str, variant: Variant) -> Variant:
        """One setting of a group can then be replaced for an environment, without the group's others."""
        dotted = self.trainers[name].dotted
        by_env = {env: dict(dotted(settings)) for env, settings in variant.by_env.items()}
        return dataclasses.replace(variant, settings=dict(dotted(variant.settings)), by_env=by_env)

    def _choose(self, settings: Mapping[str, Any]) -> tuple[Trainer, dict[str, Any]]:
        return self.trainers[self.complete(settings)["trainer"]], self.resolve(settings)[1]
