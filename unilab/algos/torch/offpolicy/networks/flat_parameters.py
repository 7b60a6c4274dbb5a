"""A network's parameters and gradients in one piece of memory each, so that one operation updates all of them."""

import torch
from torch import Tensor, nn

from unilab.algos.torch.offpolicy.networks.mlp import EnsembleMLP, Layer


class FlatParameters:
    """Moves the parameters of ``network`` into one flat float32 tensor, ``values`` [P]; the network views it.

    Args:
        network: already on its device.
        num_gradients: gradients to hold, one a share of the batch; 0 for a target network.
        dtype: of ``layers`` and of the gradients; in other types than float32 ``layers`` are a copy.
    """

    def __init__(self, network: EnsembleMLP, num_gradients: int, dtype: torch.dtype) -> None:
        flat = torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])
        self.values = nn.Parameter(flat, requires_grad=num_gradients > 0)
        start = 0
        for parameter in network.parameters():
            parameter.data = flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        self._computed = flat if dtype == torch.float32 else flat.to(dtype)
        self.layers: list[Layer] = network.views(self._computed)
        self._gradients = torch.zeros(num_gradients, len(flat), dtype=dtype, device=flat.device)
        self.gradients: list[list[Layer]] = [network.views(gradient) for gradient in self._gradients]

    def sum_gradients(self) -> None:
        """Sum the shares' gradients into ``values.grad``, always in the same order."""
        if len(self._gradients) == 1:
            self.values.grad = self._gradients[0].float()
        else:
            self.values.grad = torch.sum(self._gradients, 0, dtype=torch.float32)

    def changed(self) -> None:
        """``values`` are new: renew the copy that is computed with, if there is one."""
        if self._computed.dtype != torch.float32:
            self._computed.copy_(self.values.detach())

    @torch.no_grad()
    def move_towards(self, other: Tensor, fraction: float) -> None:
        """Go ``fraction`` of the way to ``other`` [P]."""
        self.values.lerp_(other, fraction)
        self.changed()
