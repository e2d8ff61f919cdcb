"""The inputs of a layer as it is computed: a row for each example, in autocast's dtype, divided by a temperature."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ce_torch.costs._arguments import (
    OPTIONS,
    check_desired,
    check_device,
    check_floating,
    check_ignored,
    check_temperature_shape,
    describe,
)
from ce_torch.costs._precision import compute_dtype, is_autocast
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.memory import check_block_size, is_copy
from ce_torch.costs.linear.vocabulary_parallel import Parameters, local_shard, local_tensors
from ce_torch.costs.log_likelihood import divide


class Inputs(NamedTuple):
    """The first fields of a layer: x (N, D), weight (K, D), bias (K,), and c of each example, (N,) or None.

    `adapter` are A (r, D) and B (K, r) of z = x (W + B A)ᵀ + b. `given` are x and weight as the caller gave them.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    c: Tensor | None
    adapter: tuple[Tensor, Tensor] | None
    given: tuple[Tensor, Tensor]

    def layer(self, x: Tensor, y: Tensor, on_value: Tensor | None = None, off_value: Tensor | None = None) -> Layer:
        """Return the layer of inputs x, which are those of these inputs or a copy, and of desired outputs."""
        adapter_x, adapter_weight = None, None
        if self.adapter is not None:
            A, adapter_weight = self.adapter
            adapter_x = linear(x.to(A.dtype), A)
        return Layer(x, self.weight, self.bias, self.c, adapter_x, adapter_weight, y, on_value, off_value)

    @property
    def unread(self) -> tuple[Tensor, ...]:
        """x or weight as given, which a backward pass may not read, though second derivatives by both follow from it.

        Operators read the weight, if it is no copy, which holds for the derivatives by x too.
        """
        x, weight = self.given
        if not weight.requires_grad:
            return (x,)
        return () if self.weight is weight else (weight,)

    def reserve(self, plan: Plan, layer: Layer, y: Tensor | None = None) -> Plan:
        """Return the plan for the layer, made from these inputs and desired outputs y, which knows of copies."""
        if plan.max_memory is None:
            return plan
        # How often each is in memory, with what leads to it and its gradient.
        x, weight = self.given
        size = 4 * x.numel() * layer.dtype.itemsize if is_copy(layer.x, x) else 0
        size += 2 * layer.weight.nbytes if is_copy(layer.weight, weight) else 0
        size += 3 * layer.y.nbytes if y is not None and is_copy(layer.y, y) else 0
        # The gradients of x by both ways, and x in the adapter's dtype.
        size += 3 * layer.x.numel() * layer.dtype.itemsize if self.adapter is not None else 0
        # Processes add up copies of the gradient of x.
        size += layer.x.numel() * layer.dtype.itemsize if plan.shard.group is not None else 0
        # Kernels copy what is not contiguous.
        size += sum(tensor.nbytes for tensor in (layer.x, layer.weight) if not tensor.is_contiguous())
        return plan.reserve(size)

    def select(self, examples: Tensor) -> Self:
        """Return the inputs of some examples."""
        return self._replace(x=self.x[examples], c=None if self.c is None else self.c[examples])


def prepare(
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    bias: Tensor | None,
    temperature: float | Tensor,
    softcap: float | None,
    ignore_index: int,
    block_rows: int | None,
    max_memory: str | int | None,
    adapter: tuple[Tensor, Tensor] | None,
    group: Any,
) -> tuple[Inputs, Tensor, Plan]:
    """Return the inputs of a layer, y with one dimension for all examples, and how to compute.

    Raise `TypeError` or `ValueError` unless the arguments go together.
    """
    x, weight, bias, y, adapter = local_tensors(Parameters(x, weight, bias, y, adapter), group)
    check_layer(x, weight, bias, may_be_empty=group is not None)
    check_adapter_shapes(adapter, x, weight)
    y = check_desired(y, (*x.shape[:-1], weight.shape[0]), x, "x")
    check_ignored(ignore_index, y)
    check_temperature_shape(temperature, x.shape[:-1])
    if isinstance(temperature, Tensor) and group is not None:
        raise ValueError("temperature must be a number where classes are shared out among processes, got a tensor")
    max_memory, shard = check_block_size(block_rows, max_memory), local_shard(weight, group)
    inputs, c = layer_inputs(x, weight, bias, temperature, softcap, adapter)
    y = y.reshape(inputs.x.shape[0], weight.shape[0]) if y.is_floating_point() else y.reshape(-1)
    return inputs, y, Plan(c, block_rows, softcap, max_memory=max_memory, shard=shard)


def layer_inputs(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    temperature: float | Tensor,
    softcap: float | None,
    adapter: tuple[Tensor, Tensor] | None = None,
) -> tuple[Inputs, float]:
    """Return the inputs and c of softmax(c z).

    A tensor divides x and bias, through which it gets its gradient, or makes c of each example where it can't.
    """
    shape, given = x.shape[:-1], (x, weight)
    x, weight, bias = autocast(x), autocast(weight), None if bias is None else autocast(bias)
    if adapter is not None:
        adapter = autocast(adapter[0]), autocast(adapter[1])
    if x.ndim != 2:
        # Rows stay what they are: AOTAutograd refuses tangents of a view.
        x = x.reshape(math.prod(shape), x.shape[-1])
    if not isinstance(temperature, Tensor):
        return Inputs(x, weight, bias, None, adapter, given), 1 / temperature
    if softcap is not None or (temperature.ndim and bias is not None):
        c = 1 / temperature.to(compute_dtype(x)).expand(shape).reshape(-1)
        return Inputs(x, weight, bias, c, adapter, given), 1.0
    x = divide(x, temperature.reshape(-1) if temperature.ndim else temperature).to(x.dtype)
    bias = None if bias is None else divide(bias, temperature).to(bias.dtype)
    return Inputs(x, weight, bias, None, adapter, given), 1.0


def autocast(tensor: Tensor) -> Tensor:
    """Return the tensor in the dtype that autocast gives `F.linear`."""
    if tensor.dtype == torch.float64 or not is_autocast(tensor.device):
        return tensor
    return tensor.to(torch.get_autocast_dtype(tensor.device.type))


def check_adapter(adapter: Any) -> tuple[Tensor, Tensor] | None:
    """Return A and B; raise `TypeError` or `ValueError` unless there are two floating tensors."""
    if adapter is None or isinstance(adapter, nn.ParameterList):
        return adapter  # pyright: ignore[reportReturnType]
    if isinstance(adapter, Tensor) or not isinstance(adapter, Iterable) or len(pair := tuple(adapter)) != 2:
        raise TypeError(f"adapter must be a pair of tensors, A (r, D) and B (K, r), or None, got {describe(adapter)}")
    for name, tensor in zip(("adapter's A", "adapter's B"), pair, strict=True):
        check_floating(name, tensor)
    return pair


OPTIONS.update(adapter=check_adapter)


def check_adapter_shapes(adapter: tuple[Tensor, Tensor] | None, x: Tensor, weight: Tensor) -> None:
    """Raise `ValueError` unless the adapter is one of a layer with this weight."""
    if adapter is None:
        return
    (A, B), (K, D) = adapter, weight.shape
    check_device("adapter's A", A, x, "x")
    check_device("adapter's B", B, x, "x")
    if A.ndim != 2 or B.shape != (K, A.shape[0]) or A.shape[1] != D:
        swapped = "; B comes second" if A.ndim == B.ndim == 2 and (A.shape[0], B.shape[1]) == (K, D) else ""
        raise ValueError(
            f"adapter must be A of shape (r, {D}) and B of shape ({K}, r), for a weight of shape {(K, D)}, got "
            f"{tuple(A.shape)} and {tuple(B.shape)}{swapped}"
        )


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
