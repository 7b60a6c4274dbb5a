"""Asynchronous reinforcement learning on batched MuJoCo."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unilab.algos.torch.policy import load_policy

__all__ = ["load_policy"]


def __getattr__(name: str) -> Any:
    """``load_policy`` when it is asked for: it loads PyTorch, which takes seconds."""
    if name != "load_policy":
        raise AttributeError(f"module 'unilab' has no attribute '{name}'")
    from unilab.algos.torch.policy import load_policy

    return load_policy
