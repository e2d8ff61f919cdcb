"""The inputs of a layer as it is computed: a row for each example, in autocast's dtype, divided by a temperature."""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ce_torch.costs._arguments import check_device, check_floating
from ce_torch.costs._precision import compute_dtype, is_autocast
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.memory import is_copy
from ce_torch.costs.log_likelihood import divide


class Inputs(NamedTuple):
    """The first fields of a layer: x (N, D), weight (K, D), bias (K,), and c of each example, (N,) or None.

    `given` are x and weight as the caller gave them.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    c: Tensor | None
    given: tuple[Tensor, Tensor]

    def layer(self, x: Tensor, y: Tensor, on_value: Tensor | None = None, off_value: Tensor | None = None) -> Layer:
        """Return the layer of inputs x, which are those of these inputs or a copy, and of desired outputs."""
        return Layer(x, self.weight, self.bias, self.c, y, on_value, off_value)

    def reserve(self, plan: Plan, layer: Layer, y: Tensor | None = None) -> Plan:
        """Return the plan for the layer, made from these inputs and desired outputs y, which knows of copies."""
        if plan.max_memory is None:
            return plan
        # How often each is in memory, with what leads to it and its gradient.
        x, weight = self.given
        size = 4 * x.numel() * layer.dtype.itemsize if is_copy(layer.x, x) else 0
        size += 2 * layer.weight.nbytes if is_copy(layer.weight, weight) else 0
        size += 3 * layer.y.nbytes if y is not None and is_copy(layer.y, y) else 0
        # Kernels copy what is not contiguous.
        size += sum(tensor.nbytes for tensor in (layer.x, layer.weight) if not tensor.is_contiguous())
        return plan.reserve(size)

    def select(self, examples: Tensor) -> Self:
        """Return the inputs of some examples."""
        return self._replace(x=self.x[examples], c=None if self.c is None else self.c[examples])


def layer_inputs(
    x: Tensor, weight: Tensor, bias: Tensor | None, temperature: float | Tensor, softcap: float | None
) -> tuple[Inputs, float]:
    """Return the inputs and c of softmax(c z).

    A tensor divides x and bias, through which it gets its gradient, or makes c of each example where it can't.
    """
    shape, given = x.shape[:-1], (x, weight)
    x, weight, bias = autocast(x, weight, bias)
    x = x.reshape(math.prod(shape), x.shape[-1])
    if not isinstance(temperature, Tensor):
        return Inputs(x, weight, bias, None, given), 1 / temperature
    if softcap is not None or (temperature.ndim and bias is not None):
        c = 1 / temperature.to(compute_dtype(x)).expand(shape).reshape(-1)
        return Inputs(x, weight, bias, c, given), 1.0
    x = divide(x, temperature.reshape(-1) if temperature.ndim else temperature).to(x.dtype)
    bias = None if bias is None else divide(bias, temperature).to(bias.dtype)
    return Inputs(x, weight, bias, None, given), 1.0


def autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the tensors in the dtype that autocast gives `F.linear`."""
    if not is_autocast(x.device):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(x.device.type)

    def convert(tensor: Tensor) -> Tensor:
        return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)

    return convert(x), convert(weight), None if bias is None else convert(bias)


def check_layer(x: Tensor, weight: Tensor, bias: Tensor | None, may_be_empty: bool) -> None:
    """Raise `TypeError` or `ValueError` unless x are inputs of a layer with this weight and bias."""
    for name, tensor in (("x", x), ("weight", weight), *((("bias", bias),) if bias is not None else ())):
        check_floating(name, tensor)
        if tensor.dtype != x.dtype and not is_autocast(x.device):
            raise TypeError(f"{name} must be of x's dtype, {x.dtype}, got {tensor.dtype}; pass {name}.to(x.dtype)")
        check_device(name, tensor, x, "x")
    if x.ndim == 0:
        raise ValueError("x must have shape (..., D), the inputs of an example last, got a scalar")
    if weight.ndim != 2 or weight.shape[1] != x.shape[-1] or (weight.shape[0] == 0 and not may_be_empty):
        raise ValueError(
            f"weight must have shape (K, {x.shape[-1]}), a row for each class, for x of shape {tuple(x.shape)}, got "
            f"{tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape {tuple(weight.shape[:1])}, one for each class, got {tuple(bias.shape)}")
