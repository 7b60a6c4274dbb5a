"""Ensembles of multi-layer perceptrons in batched products, and their gradients without autograd.

An update of SAC or TD3 with small networks is a few hundred operations of some microseconds around twenty matrix
products. With autograd what lies around the products took as long as they did; half of that was graph nodes, memory
that is new each time, and one more pass over each gradient. So the learners walk through their networks by hand, with
every intermediate in memory that is allocated once; ``EnsembleMLP.forward`` is the same network for autograd, for
acting and for the tests that compare the two.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Layer:
    """Parameters of one layer of k members, or their gradients."""

    weight: Tensor
    """[k, inputs, outputs]"""
    bias: Tensor
    """[k, 1, outputs]"""
    scale: Tensor | None = None
    """[k, 1, outputs] of the layer normalization, if there is one"""
    shift: Tensor | None = None

    def member(self, index: int) -> "Layer":
        """One member alone, k = 1; shares memory."""
        one = slice(index, index + 1)
        scale, shift = self.scale, self.shift
        return Layer(
            self.weight[one],
            self.bias[one],
            None if scale is None else scale[one],
            None if shift is None else shift[one],
        )


class EnsembleMLP(nn.Module):
    """k multi-layer perceptrons of one shape with ReLU, evaluated together (Linear, optional LayerNorm, ReLU, ...)."""

    def __init__(
        self, members: int, input_dim: int, hidden_dims: Sequence[int], output_dim: int, *, layer_norm: bool = False
    ) -> None:
        super().__init__()
        self.members = members
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.num_layers = len(hidden_dims) + 1
        self.layer_norm = layer_norm
        for index, (inputs, outputs) in enumerate(itertools.pairwise([input_dim, *hidden_dims, output_dim])):
            bound = 1 / math.sqrt(inputs)  # torch.nn.Linear's
            self.register_parameter(f"weight{index}", _uniform(bound, members, inputs, outputs))
            self.register_parameter(f"bias{index}", _uniform(bound, members, 1, outputs))
            if layer_norm and index < self.num_layers - 1:
                self.register_parameter(f"scale{index}", nn.Parameter(torch.ones(members, 1, outputs)))
                self.register_parameter(f"shift{index}", nn.Parameter(torch.zeros(members, 1, outputs)))

    def layers(self) -> list[Layer]:
        """The parameters, in order; shares memory."""
        named = dict(self.named_parameters())
        return [
            Layer(*(named[f"{kind}{index}"].data for kind in self._kinds(index))) for index in range(self.num_layers)
        ]

    def _kinds(self, index: int) -> tuple[str, ...]:
        norm = self.layer_norm and index < self.num_layers - 1
        return ("weight", "bias", "scale", "shift") if norm else ("weight", "bias")

    def views(self, flat: Tensor) -> list[Layer]:
        """Layers laid over a flat tensor [P] in the order of ``parameters()``."""
        named, start = {}, 0
        for name, parameter in self.named_parameters():
            named[name] = flat[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()
        return [Layer(*(named[f"{kind}{index}"] for kind in self._kinds(index))) for index in range(self.num_layers)]

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, inputs], the same for all members; returns [k, B, outputs]."""
        hidden = inputs.expand(self.members, -1, -1)
        for index in range(self.num_layers):
            named = {kind: self.get_parameter(f"{kind}{index}") for kind in self._kinds(index)}
            hidden = torch.baddbmm(named["bias"], hidden, named["weight"])
            if "scale" in named:
                hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:], eps=NORM_EPSILON)
                hidden = torch.addcmul(named["shift"], hidden, named["scale"])
            if index < self.num_layers - 1:
                hidden = torch.relu(hidden)
        return hidden


class Scratch:
    """Memory for what lives within one pass only. Passes of one thread that do not overlap share one.

    Less memory is not the point: what an update touches should stay in a core's caches.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, Tensor] = {}
        self.numbers = 0
        """how many numbers have been allocated"""

    def block(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """The memory of that name, with the dtype and device of ``like``; ask for the largest shape first."""
        size = math.prod(shape)
        held = self._blocks.get(name)
        if held is None or held.numel() < size:
            self._blocks[name] = held = like.new_zeros(size)
            self.numbers += size
        return held[:size].view(shape)


class ExplicitPass:
    """Forward and backward pass of an ensemble over a fixed number of rows, in memory of its own.

    ``inputs`` [rows, inputs] is to be filled before ``forward``.

    Args:
        layers: the parameters.
        rows: B.
        gradients: where ``backward`` writes (not adds) the parameters' gradients; None: it writes none.
        gradient_rows: only the first so many rows are differentiated; None: all.
        scratch: for everything between inputs and outputs; no other pass that shares it may run between this one's
            ``forward`` and ``backward``. None: of its own.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        rows: int,
        *,
        gradients: Sequence[Layer] | None = None,
        gradient_rows: int | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        first, last = layers[0].weight, layers[-1].weight
        members = first.shape[0]
        self.layers = list(layers)
        self.gradients = None if gradients is None else list(gradients)
        self.rows = rows
        self.gradient_rows = rows if gradient_rows is None else gradient_rows
        self.inputs = first.new_zeros(rows, first.shape[1])
        self.outputs = first.new_zeros(members, rows, last.shape[2])
        self._scratch = Scratch() if scratch is None else scratch
        widths = [layer.weight.shape[2] for layer in layers[:-1]]
        self._hidden = [
            self._scratch.block(f"hidden{index}", first, members, rows, width) for index, width in enumerate(widths)
        ]
        self._kept = [hidden[:, : self.gradient_rows] for hidden in self._hidden]
        self._deltas = self._place_deltas() if self.gradient_rows else []
        self._norms = [
            self._norm_memory(index) if layer.scale is not None else None for index, layer in enumerate(layers[:-1])
        ]
        self._members = range(members)
        self._narrow = last.shape[2] == 1

    def _place_deltas(self) -> list[Tensor]:
        """Where the gradient of each hidden layer goes: into the activations of the layer above, of no use by then."""
        shapes = [(hidden.shape[0], self.gradient_rows, hidden.shape[2]) for hidden in self._hidden]
        deltas = []
        for index, shape in enumerate(shapes):
            above = self._hidden[index + 1].view(-1) if index + 1 < len(shapes) else None
            if above is not None and above.numel() >= math.prod(shape):
                deltas.append(above[: math.prod(shape)].view(shape))
            else:
                top = above is None
                deltas.append(self._scratch.block("delta" if top else f"delta{index}", self._hidden[index], *shape))
        return deltas

    def _norm_memory(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Normalized values, mean and inverse deviation of a layer."""
        hidden = self._hidden[index]
        members, rows, _ = hidden.shape
        return (
            self._scratch.block(f"normed{index}", hidden, *hidden.shape),
            self._scratch.block(f"mean{index}", hidden, members, rows, 1),
            self._scratch.block(f"deviation{index}", hidden, members, rows, 1),
        )

    def forward(self) -> Tensor:
        """Outputs [k, rows, outputs] for ``inputs``, overwritten by the next call."""
        for index, hidden in enumerate(self._hidden):
            layer = self.layers[index]
            if index == 0:
                for m in self._members:  # the members share their input: no copy of it for each
                    torch.addmm(layer.bias[m], self.inputs, layer.weight[m], out=hidden[m])
            else:
                torch.baddbmm(layer.bias, self._hidden[index - 1], layer.weight, out=hidden)
            norm = self._norms[index]
            if norm is not None:
                normed, mean, deviation = norm
                torch.ops.aten.native_layer_norm.out(
                    hidden, hidden.shape[-1:], None, None, NORM_EPSILON, out0=normed, out1=mean, out2=deviation
                )
                torch.addcmul(layer.shift, normed, layer.scale, out=hidden)  # type: ignore[arg-type]
            hidden.relu_()
        self._last(self._hidden[-1], self.layers[-1])
        return self.outputs

    def _last(self, hidden: Tensor, layer: Layer) -> None:
        if self._narrow:  # one column: matrix-vector products are several times faster than a batched product
            for m in self._members:
                torch.addmv(layer.bias[m, 0], hidden[m], layer.weight[m, :, 0], out=self.outputs[m, :, 0])
        else:
            torch.baddbmm(layer.bias, hidden, layer.weight, out=self.outputs)

    def backward(self, delta: Tensor, *, inputs_from: int | None = None) -> Tensor | None:
        """Differentiate, given the gradient [k, gradient_rows, outputs] of the outputs.

        Args:
            inputs_from: return the gradient of the input columns from this one on, [gradient_rows, columns].
        """
        for index in reversed(range(len(self.layers))):
            before = self._kept[index - 1] if index > 0 else self.inputs[: self.gradient_rows]
            if self.gradients is not None:
                self._parameter_gradients(self.gradients[index], before, delta, shared=index == 0)
            if index == 0:
                return None if inputs_from is None else self._input_gradient(delta, inputs_from)
            delta = self._through(index, delta)
        raise AssertionError("an ensemble has at least one layer")

    def _parameter_gradients(self, gradient: Layer, before: Tensor, delta: Tensor, *, shared: bool) -> None:
        torch.sum(delta, 1, keepdim=True, out=gradient.bias)
        if shared:
            for m in self._members:
                torch.mm(before.t(), delta[m], out=gradient.weight[m])
        elif delta.shape[2] == 1:
            for m in self._members:
                torch.mv(before[m].t(), delta[m, :, 0], out=gradient.weight[m, :, 0])
        else:
            torch.bmm(before.transpose(1, 2), delta, out=gradient.weight)

    def _through(self, index: int, delta: Tensor) -> Tensor:
        """The gradient before layer ``index`` and the activation before it, into this pass' memory."""
        weight, into = self.layers[index].weight, self._deltas[index - 1]
        if delta.shape[2] == 1:
            torch.mul(delta, weight.transpose(1, 2), out=into)
        else:
            torch.bmm(delta, weight.transpose(1, 2), out=into)
        torch.ops.aten.threshold_backward.grad_input(into, self._kept[index - 1], 0, grad_input=into)
        norm = self._norms[index - 1]
        return into if norm is None else self._through_norm(index - 1, into, norm)

    def _through_norm(self, index: int, delta: Tensor, norm: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Through a layer normalization (Ba et al. 2016, arXiv:1607.06450)."""
        scale = self.layers[index].scale
        assert scale is not None
        values, _, inverse_deviation = (part[:, : self.gradient_rows] for part in norm)
        product = self._scratch.block("product", delta, *delta.shape)
        torch.mul(delta, values, out=product)
        if self.gradients is not None:
            gradient = self.gradients[index]
            assert gradient.scale is not None and gradient.shift is not None
            torch.sum(delta, 1, keepdim=True, out=gradient.shift)
            torch.sum(product, 1, keepdim=True, out=gradient.scale)
        delta.mul_(scale)
        along = product.mul_(scale).mean(-1, keepdim=True)
        delta.sub_(delta.mean(-1, keepdim=True)).addcmul_(values, along, value=-1)
        return delta.mul_(inverse_deviation)

    def _input_gradient(self, delta: Tensor, start: int) -> Tensor:
        weight = self.layers[0].weight[:, start:]
        total = torch.mm(delta[0], weight[0].t())
        for m in self._members[1:]:
            total.addmm_(delta[m], weight[m].t())
        return total


def _uniform(bound: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
