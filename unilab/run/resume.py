"""Going on with what a checkpoint holds, on the devices and with the settings of now."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from unilab.run.checkpoint import CheckpointError, restoring


class Resumable(Protocol):
    """A learner, as far as a checkpoint is concerned."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def continue_learner(learner: Resumable, state: Mapping[str, Any], path: Path) -> None:
    """Give the learner what the checkpoint at ``path`` holds of it.

    Raises:
        CheckpointError: its networks are of other sizes, as settings of the environment may make them, or parts of it
            are missing.
    """
    with restoring():
        try:
            learner.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(
                f"{path}: its networks do not fit this run's; with env_cfg the sizes of observations or actions have "
                f"changed: use the saved values or start anew ({error})"
            ) from error


def continue_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Go on with the moments of ``saved``, an optimizer's ``state_dict``, and with the optimizer's own options.

    The options (learning rates, weight decay, whether the step counters are on the device) are those of the settings
    and the device of now. A parameter that ``saved`` does not know begins without moments.
    """
    groups = optimizer.state_dict()["param_groups"]
    known = {index for group in groups for index in group["params"]}
    moments = {index: state for index, state in saved["state"].items() if index in known}
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def continue_generator(generator: torch.Generator, state: Any, seed: int) -> None:
    """Go on from ``state``, of a generator on any device; one of another kind of device cannot go on there: then the
    stream begins anew with ``seed``."""
    state = torch.as_tensor(state).cpu()
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
    else:
        generator.manual_seed(seed)
