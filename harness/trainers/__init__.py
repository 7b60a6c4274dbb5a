"""What a trainer is to the harness: ours, several side by side, and adapters of other packages."""

from harness.trainers.trainer import Trainer

__all__ = ["Trainer"]
