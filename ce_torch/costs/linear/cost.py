"""The output layer and its log-likelihood as one cost, whose weighted inputs are never whole in memory.

    z = x Wᵀ + b        C = −ln a_y,  a = softmax(c z)        ∂C/∂W = δᵀ x,  δ = c (a − y)

by equations (80) to (84), block by block: see `ce_torch.costs.linear`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ce_torch.costs._arguments import (
    check_class_weight,
    check_desired,
    check_device,
    check_floating,
    check_ignored,
)
from ce_torch.costs._backend import record
from ce_torch.costs._call import loss_function
from ce_torch.costs._module import Cost
from ce_torch.costs._precision import is_autocast, result_dtype, to_dtype
from ce_torch.costs._reduction import quotient, reduce
from ce_torch.costs._torch_private import is_forward_mode, tracing_state
from ce_torch.costs.linear import autograd, class_blocks, fused
from ce_torch.costs.linear.blocks import TENSORS, Plan
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.targets import ClassTargets, class_targets, dense_targets, masked_inputs
from ce_torch.costs.linear.vocabulary_parallel import local_shard, local_tensors
from ce_torch.costs.log_likelihood import LogLikelihoodCost, divide, log_likelihood


@loss_function()
def linear_log_likelihood(
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    bias: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    out_dtype: torch.dtype | None = None,
    block_rows: int | None = None,
    group: Any = None,
) -> Tensor:
    """The output layer and its log-likelihood: `F.cross_entropy(F.linear(x, weight, bias), y)`, z never being whole.

    PyTorch's own is `F.linear_cross_entropy`. It is not of sigmoid neurons, as the chapter's `cross_entropy` is.
    Research code may call this one `linear_softmax_cross_entropy`, the same function.

        C = −ln a_y, or −Σⱼ yⱼ ln aⱼ for desired outputs y,    a = softmax(z / temperature),    z = x weightᵀ + bias

    It equals `log_likelihood(F.linear(x, weight, bias), y, ...)`, and keeps the same promises of autograd. Of z,
    N examples of K classes, it holds a block, the size of `block_rows` rows; so do second derivatives and forward mode.
    What holds z: third derivatives, what `vmap` takes of many costs at once, and `torch.func.functionalize`.

    For classes y, and the mean or the sum, gradients are worked out together with the cost, and are there from then on;
    z is worked out once. Otherwise it is worked out again for the gradients: for desired outputs, reduction
    "none", half precision, shards; under `torch.func`, `torch.compile` and hooks for saved tensors, as
    activation checkpointing sets; and for a second backward pass over a retained graph.

    Args:
        x: inputs of the layer, floating point, shape (..., D).
        weight, bias: its parameters, of x's dtype, shapes (K, D) and (K,).
        y: class indices, int64, shape (...); or desired outputs in [0, 1], floating point, shape (..., K), which
            already take as much memory as z, with label smoothing or class weights twice as much.
        temperature, ignore_index, label_smoothing, reduction: as in `log_likelihood`. The temperature is a number
            where classes are shared out among processes.
        class_weight: a factor for the cost of each class, floating point, shape (K,); in `log_likelihood`, and in
            `F.linear_cross_entropy`, it is `weight`. There x, weight, y and bias are input, linear_weight, target and
            linear_bias.
        out_dtype: the dtype of the cost, such as torch.float32 for x in half precision; None for x's.
        block_rows: how many rows of z the memory is for; None for a twentieth of them, but at least 16 and 4 MB in
            float32. More are faster. No block is smaller than an example, or than 32 classes of all examples.
        group: processes (`torch.distributed`) that share the classes out among them. Each has weight and bias for its
            own, in the order of their ranks, and desired outputs and class weights too; x and class indices are the
            same in all. Of each example five numbers cross between them, and the gradient of x; no process sees the
            whole. The cost and the gradient of x are the same in all. A weight that is a `DTensor` with `Shard(0)`
            needs the group of its mesh here; without a group a DTensor is refused.

    Returns:
        The cost, of x's dtype (float32 under autocast) or `out_dtype`; shape () or, for reduction "none", (...).

    Raises:
        TypeError, ValueError: an argument is not as above. Class indices are looked at on the CPU only.

    Example:
        >>> x, weight = torch.zeros(2, 3), torch.zeros(4, 3)
        >>> linear_log_likelihood(x, weight, torch.tensor([0, 1]))  # ln 4
        tensor(1.3863)

    Source: Nielsen, section 3.1, equations (80)-(84); gradients together with the cost: Hsu et al., "Liger Kernel:
    Efficient Triton Kernels for LLM Training", 2024; sums over classes in parts: Milakov and Gimelshein, "Online
    normalizer calculation for softmax", 2018.
    """
    x, weight, bias, y = local_tensors(x, weight, bias, y, group)
    check_layer(x, weight, bias, may_be_empty=group is not None)
    shape = *x.shape[:-1], weight.shape[0]
    y = check_desired(y, shape, x, "x")
    check_class_weight("class_weight", class_weight, shape, x, "x")
    check_ignored(ignore_index, y)
    if isinstance(temperature, Tensor) and group is not None:
        raise ValueError("temperature must be a number where classes are shared out among processes, got a tensor")
    if tracing_state() is not None and group is None:
        # Functions of Python, such as work z out block by block, are no part of a trace.
        return log_likelihood(
            linear(x, weight, bias),
            y,
            temperature=temperature,
            weight=class_weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            reduction=reduction,
            out_dtype=out_dtype,
        )
    shard = local_shard(weight, group)
    x, weight, bias = autocast(x, weight, bias)
    if isinstance(temperature, Tensor):
        x = divide(x, temperature).to(x.dtype)
        bias = None if bias is None else divide(bias, temperature).to(bias.dtype)
        temperature = 1.0
    plan = Plan(1 / temperature, block_rows, shard)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    if y.is_floating_point():
        y = y.reshape(rows.shape[0], weight.shape[0])
        t = dense_targets(y, x, class_weight, label_smoothing, shard.classes)
        layer = Layer(masked_inputs(rows, y), weight, bias, t, None, None)
        C = example_costs(layer, plan, fused.refusal(layer, reduction, shard))
        C = reduce(reduction, C.view(x.shape[:-1]))
    else:
        targets = class_targets(
            y.reshape(-1), rows, weight.shape[0], class_weight, ignore_index, label_smoothing, shard
        )
        x_masked = targets.masked_inputs(rows)
        layer = Layer(x_masked, weight, bias, targets.y, targets.on_value, targets.off_value)
        C = class_cost(layer, targets, plan, reduction)
        C = C.view(y.shape) if reduction == "none" else C
    return to_dtype(C, result_dtype(x, out_dtype))


def class_cost(layer: Layer, targets: ClassTargets, plan: Plan, reduction: str) -> Tensor:
    """Return the reduced cost of classes, shape (N,) for reduction "none"."""
    reason = fused.refusal(layer, reduction, plan.shard)
    if reason is None:
        C = fused.FusedLinearLogLikelihood.apply(plan, targets.factor(reduction), *layer)
        # The mean over no examples is nan.
        return C if reduction == "sum" else torch.where(targets.example_weight.sum() == 0, torch.nan, C)
    C = targets.masked_cost(example_costs(layer, plan, reason))
    return quotient(C.sum(), targets.example_weight.sum()) if reduction == "mean" else reduce(reduction, C)


def example_costs(layer: Layer, plan: Plan, reason: str | None) -> Tensor:
    """Return C of each example, shape (N,), whose gradients are worked out later, for a reason that `explain` tells."""
    if torch.compiler.is_compiling():
        if plan.shard.group is not None:
            raise RuntimeError("a cost whose classes are shared out among processes is not for torch.compile")
        if is_forward_mode():
            # The compiler differentiates the formula itself, in a single block: it would unroll a loop.
            return class_blocks.cost(layer, Plan(plan.c, TENSORS * layer.sizes[0], plan.shard))[0]
        from ce_torch.costs.linear.compiled import compiled_costs

        return compiled_costs(plan.c, plan.block_rows, *layer)
    record("blocks", f"the gradients are not worked out with the cost: {reason}")
    return autograd.cost(layer, plan)


def autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the tensors as `F.linear` would take them: under autocast in its dtype."""
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


class LinearLogLikelihoodCost(Cost):
    """The output layer and its log-likelihood cost as a module that owns the layer.

    Args:
        in_features: D, the inputs of the layer.
        classes: K, its neurons.
        bias: whether the layer has biases.
        device, dtype: of its parameters.
        The rest is as in `ce_torch.functional.linear_log_likelihood`.

    `cost.layer` is an `nn.Linear`: z = cost.layer(x). Its weight may be another module's too, such as an embedding's:
    `cost.layer.weight = embedding.weight`.

    Example:
        >>> cost = LinearLogLikelihoodCost(3, 4, bias=False)
        >>> cost(torch.zeros(2, 3), torch.tensor([0, 1])).backward()
        >>> cost.layer.weight.grad.shape
        torch.Size([4, 3])
    """

    function = staticmethod(linear_log_likelihood)

    def __init__(
        self,
        in_features: int,
        classes: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        temperature: float | Tensor = 1.0,
        class_weight: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        block_rows: int | None = None,
        group: Any = None,
        out_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.temperature, self.class_weight, self.ignore_index = temperature, class_weight, ignore_index
        self.label_smoothing, self.reduction, self.out_dtype = label_smoothing, reduction, out_dtype
        self.block_rows, self.group = block_rows, group
        self.layer = nn.Linear(in_features, classes, bias, device=device, dtype=dtype)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return C for inputs x (..., D) and y, class indices (...) or desired outputs (..., K)."""
        return linear_log_likelihood(x, self.layer.weight, y, self.layer.bias, **self.options)

    def activation(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a (..., K), the outputs of the layer for its inputs x (..., D); here z is whole."""
        return torch.softmax(self.layer(x) / self.temperature, -1)

    def delta(self, x: Tensor, y: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return δ = ∂Cₓ/∂z of each example x, (..., K), whatever the reduction; here z is whole."""
        cost = LogLikelihoodCost(
            temperature=self.temperature,
            weight=self.class_weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )
        return cost.delta(self.layer(x), y)
