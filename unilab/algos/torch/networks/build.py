"""Networks from their descriptions: the built-in multi-layer perceptron, or what a user's factory makes."""

import importlib
import inspect
import itertools
import math
import re
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unilab.run.config import Description
from unilab.settings import SettingsError, nearest

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": lambda: nn.ELU(inplace=True),  # in place: one pass over memory less
    "relu": lambda: nn.ReLU(inplace=True),
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
}
ROWS = 2
"""of the batch that a network is tried with"""


def mlp(
    input_dim: int,
    hidden_dims: Sequence[int],
    output_dim: int,
    activation: str = "elu",
    output_gain: float | None = 1.0,
    layer_norm: bool = False,
) -> nn.Sequential:
    """Linear layers with an activation between them.

    Args:
        output_gain: of the last layer; weights are orthogonal then, and biases zero. A small one on the actor keeps
            the first actions near zero (Andrychowicz et al. 2021, arXiv:2006.05990, found it to matter). None: all
            weights are drawn as PyTorch does.
        layer_norm: normalize each hidden layer before its activation.
    """
    layers: list[nn.Module] = []
    widths = [input_dim, *hidden_dims]
    for width_in, width_out in itertools.pairwise(widths):
        norm = [nn.LayerNorm(width_out)] if layer_norm else []
        layers += [nn.Linear(width_in, width_out), *norm, ACTIVATIONS[activation]()]
    layers.append(nn.Linear(widths[-1], output_dim))
    for layer in layers:
        if output_gain is not None and isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, output_gain if layer is layers[-1] else math.sqrt(2))
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def build(
    description: Description,
    input_dim: int,
    output_dim: int,
    setting: str,
    built_in: Callable[[int, Sequence[int], int], nn.Module],
) -> nn.Module:
    """The network of a description, on the CPU, with float32 parameters: rows [B, inputs] to rows [B, outputs].

    Args:
        description: widths for ``built_in``, or whose factory is called with both sizes and its other settings.
        setting: the name of the setting, for errors.
        built_in: makes the network of widths: ``built_in(input_dim, widths, output_dim)``.

    Raises:
        SettingsError: the factory cannot be found or called, or makes something else; by the setting's name.
    """
    if isinstance(description, tuple | list):
        return built_in(input_dim, description, output_dim)
    arguments: dict[str, Any] = {"factory": description} if isinstance(description, str) else dict(description)
    path = arguments.pop("factory", None)
    if not (isinstance(path, str) and re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", path)):
        raise SettingsError(setting, f"expected widths or a factory, package.module:function, got {path!r}")
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        remedy = "is it installed or on PYTHONPATH?"
        raise SettingsError(setting, f"{module_name} cannot be imported: {error}; {remedy}") from error
    factory = getattr(module, name, None)
    if factory is None:
        there = [other for other, value in vars(module).items() if getattr(value, "__module__", None) == module_name]
        raise SettingsError(setting, f"module '{module_name}' has no '{name}'; {nearest(name, there)}")
    if not callable(factory):
        raise SettingsError(setting, f"{path} is a {type(factory).__name__}; expected a function that makes a network")
    try:
        inspect.signature(factory).bind(input_dim, output_dim, **arguments)
    except (TypeError, ValueError) as error:  # a ValueError: it is not written in Python
        given = ", ".join(["obs_dim", "output_dim", *(f"{key}={value!r}" for key, value in arguments.items())])
        raise SettingsError(setting, f"{path} cannot be called as {name}({given}): {error}") from None
    try:
        network = factory(input_dim, output_dim, **arguments)
    except Exception as error:
        raise SettingsError(setting, f"{path} raised {_told(error)}") from error
    if not isinstance(network, nn.Module):
        raise SettingsError(setting, f"{path} made {network!r:.60}; expected a torch.nn.Module")
    wrong = {str(parameter.dtype) for parameter in network.parameters() if parameter.dtype != torch.float32}
    if wrong:
        raise SettingsError(setting, f"{path} made parameters of {', '.join(sorted(wrong))}; expected torch.float32")
    try:
        with torch.no_grad():
            outputs = network(torch.zeros(ROWS, input_dim))
    except Exception as error:
        problem = f"the network of {path} cannot take rows [{ROWS}, {input_dim}]: {_told(error)}"
        raise SettingsError(setting, problem) from error
    if not (isinstance(outputs, Tensor) and outputs.shape == (ROWS, output_dim)):
        got = f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else f"{type(outputs).__name__}"
        expected = f"expected [{ROWS}, {output_dim}]"
        raise SettingsError(setting, f"the network of {path} turns rows [{ROWS}, {input_dim}] into {got}; {expected}")
    return network


def _told(error: Exception) -> str:
    """What was raised, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
