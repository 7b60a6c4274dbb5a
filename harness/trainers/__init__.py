"""What a trainer is to the harness: ours, several side by side, and adapters of other packages.

``Trainer`` is imported when it is first used: drivers of other packages run in interpreters that may lack what it
needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.trainers.trainer import Trainer

__all__ = ["Trainer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("harness.trainers.trainer"), name)
