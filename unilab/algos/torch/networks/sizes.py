"""The memory that networks take, asked of the networks themselves, so that a user's own are counted too."""

import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from unilab.envs import EnvDims
from unilab.ipc.weight_sync import weight_sync_bytes

Networks = TypeVar("Networks", bound=tuple[nn.Module, nn.Module])
KEPT = 8
"""number of configurations whose networks are kept: a plan asks for each of them many times"""
_networks: dict[str, Any] = {}


def shapes(config: Any, dims: EnvDims, build: Callable[[Any, EnvDims], Networks]) -> Networks:
    """The actor and the critics that ``build(config, dims)`` makes; built-in ones on the device ``meta``, where they
    take no memory."""
    counts = [getattr(config.algorithm, name, 1) for name in ("num_critics", "num_atoms")]
    network = dataclasses.asdict(config.network)
    decisive = json.dumps([type(config).__name__, network, config.obs_normalization, counts, dataclasses.asdict(dims)])
    if decisive not in _networks:
        while len(_networks) >= KEPT:
            del _networks[next(iter(_networks))]
        built_in = isinstance(config.network.actor, tuple) and isinstance(config.network.critic, tuple)
        with torch.device("meta") if built_in else torch.random.fork_rng(devices=[]):
            _networks[decisive] = build(config, dims)
    networks: Networks = _networks[decisive]
    return networks


def state_bytes(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(value.numel() * value.itemsize for value in network.state_dict().values())


def published_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of shared memory through which the weights of a state dict reach whoever acts."""
    return weight_sync_bytes({name: (tuple(value.shape), value.dtype) for name, value in state.items()})


@functools.lru_cache(maxsize=2 * KEPT)
def pass_numbers(network: nn.Module, *input_dims: int) -> tuple[int, int]:
    """Numbers for each row of inputs [B, I], ...: what is kept from the forward to the backward pass, and the most that
    is kept of one layer.

    The pass is made, with two rows, and PyTorch tells what it keeps. A network on the device ``meta`` is copied to the
    CPU for that, its values undefined: a pass on ``meta``, or ``to_empty``, loads the compiler, which takes a second.
    """
    rows = 2
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.numel()
        return tensor.detach()  # the tensor itself would hold the graph that holds it

    if any(parameter.is_meta for parameter in network.parameters()):
        network = copy.deepcopy(network)
        empty = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in network.state_dict().items()}
        network.load_state_dict(empty, assign=True)
    parameters = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(*(torch.zeros(rows, input_dim) for input_dim in input_dims))
    numbers = [count // rows for storage, count in kept.items() if storage not in parameters]
    return sum(numbers), max(numbers, default=0)
