"""Networks from descriptions."""

import copy
import functools
from typing import Any

import pytest
import torch
from torch import nn

from tests.algos.networks.factories import Gated
from unilab.algos.torch.networks.build import build, mlp
from unilab.settings import SettingsError

HERE = "tests.algos.networks.factories"
tanh = functools.partial(mlp, activation="tanh")


def made(description: Any) -> nn.Module:
    return build(description, 4, 2, "network.actor", tanh)


def test_widths_make_the_built_in_network() -> None:
    network = made([8, 6])
    shapes = [tuple(parameter.shape) for parameter in network.parameters()]
    assert shapes == [(8, 4), (8,), (6, 8), (6,), (2, 6), (2,)]
    assert [type(layer) for layer in network] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert [tuple(parameter.shape) for parameter in made([]).parameters()] == [(2, 4), (2,)]


def test_layers_are_orthogonal_and_the_last_has_its_gain() -> None:
    first, last = (layer for layer in mlp(4, [4], 2, "tanh", 0.01) if isinstance(layer, nn.Linear))
    torch.testing.assert_close(first.weight @ first.weight.T, 2 * torch.eye(4))
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(2))
    assert not first.bias.any() and not last.bias.any()


@pytest.mark.parametrize(
    ("description", "width"), [(f"{HERE}:gated", 8), ({"factory": f"{HERE}:gated", "width": 5}, 5)]
)
def test_a_factory_gets_the_sizes_and_its_own_settings(description: Any, width: int) -> None:
    network = made(description)
    assert isinstance(network, Gated)
    assert (network.gate.in_features, network.gate.out_features, network.out.out_features) == (4, width, 2)


@pytest.mark.parametrize(
    ("description", "problem"),
    [
        ("gated", r"expected widths or a factory, package\.module:function, got 'gated'"),
        ({"width": 5}, "expected widths or a factory, .*, got None"),
        (
            "nowhere.at.all:gated",
            "imported: No module named 'nowhere'; is it installed or on PYTHONPATH",
        ),
        (f"{HERE}:gatd", f"module '{HERE}' has no 'gatd'; did you mean 'gated'"),
        (f"{HERE}:NUMBER", "is a int; expected a function that makes a network"),
        (
            {"factory": f"{HERE}:gated", "widht": 5},
            r"cannot be called as gated\(obs_dim, output_dim, widht=5\): got an",
        ),
        (f"{HERE}:text", "text made 'a network'; expected a torch.nn.Module"),
        (f"{HERE}:one_output", r"turns rows \[2, 4\] into shape \[2, 1\]; expected \[2, 2\]"),
        (f"{HERE}:doubles", r"made parameters of torch\.float64; expected torch\.float32"),
        (f"{HERE}:images", r"images cannot take rows \[2, 4\]: RuntimeError"),
    ],
)
def test_what_is_wrong_with_a_factory_is_said_by_the_settings_name(description: Any, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as caught:
        made(description)
    assert caught.value.key == "network.actor"


def test_an_error_inside_a_factory_is_told_with_its_place() -> None:
    with pytest.raises(SettingsError, match=r"broken raised ZeroDivisionError: inside .* \(.*factories\.py:\d+\)"):
        made(f"{HERE}:broken")


def test_a_model_of_rsl_rl_is_a_network() -> None:
    pytest.importorskip("rsl_rl", reason="needs rsl-rl-lib: pip install -e '.[rsl-rl]'")
    description = {"factory": "unilab.algos.torch.networks.rsl_rl:mlp_model", "hidden_dims": [8, 6]}
    network = made(description)
    rows = torch.randn(5, 4)
    assert network(rows).shape == (5, 2)
    shapes = [tuple(parameter.shape) for parameter in network.parameters()]
    assert shapes == [(8, 4), (8,), (6, 8), (6,), (2, 6), (2,)]
    torch.testing.assert_close(copy.deepcopy(network)(rows), network.get_submodule("model.mlp")(rows))
