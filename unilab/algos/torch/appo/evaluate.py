"""Moved: use unilab.algos.torch.evaluate."""

from unilab.algos.torch.evaluate import evaluate

__all__ = ["evaluate"]
