"""How settings describe a network. Nothing here loads torch: a wrong file is refused before that."""

from dataclasses import dataclass
from typing import Any

from unilab.run.config import STRICT, PositiveInt

RENAMED = {
    "policy.hidden_dims": "network.actor",
    "policy.critic_hidden_dims": "network.critic",
    "policy": "network",
}
"""settings of earlier versions: files and checkpoints may still have them"""
Widths = tuple[PositiveInt, ...]
Description = Widths | str | dict[str, Any]
"""widths of the hidden layers of the built-in MLP; or a factory, ``package.module:function``; or a mapping of
``factory`` and of keyword arguments for it"""


@dataclass(frozen=True)
class ActorCriticConfig:
    """The actor's network and the critic's."""

    __pydantic_config__ = STRICT

    actor: Description = (256, 256)
    """widths of the hidden layers, or a factory: package.module:function"""
    critic: Description = (256, 256)
    """the same of the critic"""
