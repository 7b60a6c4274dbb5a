"""The harness: plans, sweeps, measures and records training configurations on the machine at hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # most of what imports this package has no use for Optuna, which takes long to load
    from harness.study.optuna_objective import SuiteObjective
    from harness.suite.schema import Suite

__all__ = ["objective"]


def objective(
    suite: "Suite | Path | str", overrides: Sequence[str] = (), folder: Path | str | None = None
) -> "SuiteObjective":
    """An objective for an Optuna study of your own: it suggests and measures what a suite says.

    ``study.optimize(harness.objective("suites/smoke.yaml"), n_trials=10)``; see ``harness.study.optuna_objective``.

    Args:
        suite: a suite, or its file.
        overrides: ``key=value`` texts over it, as with ``--set``.
        folder: for the output of the trials; ``runs/<suite name>`` by default.

    Raises:
        InputError: whatever keeps the suite from running here.
    """
    from harness.study.optuna_objective import SuiteObjective

    return SuiteObjective(suite, overrides, folder)
