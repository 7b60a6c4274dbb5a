"""Factories of networks, right and wrong ones."""

import torch
from torch import Tensor, nn

NUMBER = 3


class Gated(nn.Module):
    """A network that is no stack of layers."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(inputs, width), nn.Linear(inputs, width)
        self.out = nn.Linear(width, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        return self.out(torch.sigmoid(self.gate(rows)) * self.value(rows))


def gated(obs_dim: int, output_dim: int, *, width: int = 8) -> nn.Module:
    return Gated(obs_dim, output_dim, width)


def one_output(obs_dim: int, output_dim: int) -> nn.Module:
    return nn.Linear(obs_dim, 1)


def doubles(obs_dim: int, output_dim: int) -> nn.Module:
    return nn.Linear(obs_dim, output_dim).double()


def images(obs_dim: int, output_dim: int) -> nn.Module:
    return nn.Conv2d(3, output_dim, 3)


def text(obs_dim: int, output_dim: int) -> str:
    return "a network"


def broken(obs_dim: int, output_dim: int) -> nn.Module:
    raise ZeroDivisionError("inside the factory")
