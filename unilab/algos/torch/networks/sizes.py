"""What networks take of memory, asked of the networks themselves: a user's are like the built-in ones."""

import copy
import functools

import torch
from torch import Tensor, nn

from unilab.ipc.weight_sync import weight_sync_bytes


def state_bytes(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(value.numel() * value.itemsize for value in network.state_dict().values())


def published_bytes(network: nn.Module) -> int:
    """Bytes of shared memory through which a network's weights reach the collector."""
    return weight_sync_bytes({name: (tuple(v.shape), v.dtype) for name, v in network.state_dict().items()})


@functools.lru_cache(maxsize=16)  # a plan asks a thousand times for those of a few
def pass_numbers(body: nn.Module, input_dim: int) -> tuple[int, int]:
    """Numbers for each row of inputs [B, I]: what is kept from the forward to the backward pass, and the widest layer.

    The pass is made, with two rows, and PyTorch tells what it keeps. A network on the device ``meta`` is copied to the
    CPU for that, its values undefined: a pass on ``meta`` loads the compiler, which takes more than a second.
    """
    rows, widest = 2, [input_dim]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.numel()
        return tensor.detach()  # the tensor itself would hold the graph that holds it

    def see(module: nn.Module, inputs: object, outputs: object) -> None:
        if isinstance(outputs, Tensor):
            widest.append(outputs.numel() // rows)

    device = next((parameter.device for parameter in body.parameters()), torch.device("cpu"))
    if device.type == "meta":
        device = torch.device("cpu")
        body = copy.deepcopy(body).to_empty(device=device)
    parameters = {parameter.untyped_storage()._cdata for parameter in body.parameters()}
    hooks = [module.register_forward_hook(see) for module in body.modules()]
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            body(torch.zeros(rows, input_dim, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(numbers for storage, numbers in kept.items() if storage not in parameters) // rows, max(widest)
