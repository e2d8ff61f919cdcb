"""The output layer and its log-likelihood as one cost, which holds a block of the weighted inputs z at a time.

    z = x Wᵀ + b        C = −ln a_y,  a = softmax(c z)        ∂C/∂W = δᵀ x,  δ = c (a − y)

These are the section's equations (80) to (84).
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ce_torch.costs._arguments import (
    check_class_weight,
    check_denominator,
    check_desired,
    check_device,
    check_floating,
    check_ignored,
    check_token_weight,
)
from ce_torch.costs._backend import record
from ce_torch.costs._call import loss_function
from ce_torch.costs._module import Cost
from ce_torch.costs._precision import compute_dtype, is_autocast, result_dtype, to_dtype
from ce_torch.costs._product import product
from ce_torch.costs._reduction import reduce
from ce_torch.costs._torch_private import is_forward_mode, tracing_state
from ce_torch.costs.linear import autograd, class_blocks, fused
from ce_torch.costs.linear.blocks import TENSORS, Plan
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.targets import (
    ClassTargets,
    class_targets,
    dense_targets,
    kept_examples,
    masked_inputs,
    requires_grad,
)
from ce_torch.costs.linear.vocabulary_parallel import local_shard, local_tensors
from ce_torch.costs.log_likelihood import LogLikelihoodCost, divide, example_weight, log_likelihood


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
    token_weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
    z_loss: float = 0.0,
    reduction: str = "mean",
    out_dtype: torch.dtype | None = None,
    block_rows: int | None = None,
    group: Any = None,
) -> Tensor:
    """Return the cost of an output layer, `F.cross_entropy(F.linear(x, weight, bias), y)`, without all of z in memory.

    PyTorch's own is `F.linear_cross_entropy`. Research code can call this function `linear_softmax_cross_entropy`.
    It is for softmax layers; the chapter's `cross_entropy` is for sigmoid neurons.

        C = −ln a_y, or −Σⱼ yⱼ ln aⱼ for desired outputs y,    a = softmax(z / temperature),    z = x weightᵀ + bias

    It equals `log_likelihood(F.linear(x, weight, bias), y, ...)`, and keeps the same promises of autograd. It holds one
    block of the weighted inputs z at a time, the size of `block_rows` rows. So do second derivatives and forward mode.
    Third derivatives, a `vmap` over many costs, and `torch.func.functionalize` hold all of z.

    On the CPU, examples that are ignored, or whose weight is 0, are left out before z is computed, and take no time.

    For classes y and the mean or the sum, the forward pass computes the gradients together with the cost and keeps
    them, so that it computes z once. Otherwise the backward pass computes z again: for desired outputs, reduction
    "none", half precision and shards; under `torch.func`, `torch.compile` and hooks for saved tensors, such as those of
    activation checkpointing; and where a second backward pass runs over a retained graph.

    Args:
        x: inputs of the layer, floating point, shape (..., D).
        weight, bias: parameters of the layer, of x's dtype, shapes (K, D) and (K,).
        y: class indices, int64, shape (...); or desired outputs in [0, 1], floating point, shape (..., K). Desired
            outputs take as much memory as z, and twice as much with label smoothing or class weights.
        temperature, ignore_index, label_smoothing, reduction: as in `log_likelihood`. With a group the temperature
            must be a number.
        class_weight: a factor for the cost of each class, floating point, shape (K,). `log_likelihood` and
            `F.linear_cross_entropy` call it `weight`. The latter calls x, weight, y and bias input, linear_weight,
            target and linear_bias.
        token_weight: a factor for the cost of each example, floating point, shape (...). In the mean an example counts
            as much, times the weight of its class.
        denominator: a number, or a tensor of shape (), that divides the sum of all costs in place of how much the
            examples count. With it, batches whose gradients are accumulated, or processes with examples of their own,
            add up to the mean over all of them. It goes with reduction "mean".
        z_loss: λ, at least 0. Each example that is not ignored costs λ ℓ² more, ℓ = ln Σⱼ exp(zⱼ / temperature), times
            its token weight. That keeps z from drifting.
        out_dtype: the dtype of the cost, such as torch.float32 for x in half precision; None for x's.
        block_rows: how many rows of z fit into the memory for a block; None for a twentieth of all rows, but at least
            16 rows, and 4 MB in float32. More rows are faster. A block has at least one example, or at least 32 classes
            of all examples.
        group: processes (`torch.distributed`) that share the classes. Each has its own part of weight, bias, class
            weights and desired outputs, in the order of the ranks; x and class indices are the same in all. For each
            example they exchange five numbers and the gradient of x; no process sees all classes. The cost and the
            gradient of x are the same in all. A weight that is a `DTensor` with `Shard(0)` needs the group of its mesh;
            without a group it is refused.

    Returns:
        The cost, of x's dtype (float32 under autocast) or `out_dtype`; shape () or, for reduction "none", (...).

    Raises:
        TypeError, ValueError: an argument is not as above. Values of class indices are checked on the CPU only.

    Example:
        >>> x, weight = torch.zeros(2, 3), torch.zeros(4, 3)
        >>> linear_log_likelihood(x, weight, torch.tensor([0, 1]))  # ln 4
        tensor(1.3863)

    Source: Nielsen, section 3.1, equations (80)-(84); gradients together with the cost: Hsu et al., "Liger Kernel:
    Efficient Triton Kernels for LLM Training", 2024; sums over classes in parts: Milakov and Gimelshein, "Online
    normalizer calculation for softmax", 2018; z-loss: Chowdhery et al., "PaLM: Scaling Language Modeling with
    Pathways", 2022.
    """
    x, weight, bias, y = local_tensors(x, weight, bias, y, group)
    y = check_arguments(x, weight, bias, y, class_weight, ignore_index, temperature, group)
    check_token_weight(token_weight, x)
    check_denominator(denominator, reduction, x)
    dtype = result_dtype(x, out_dtype)
    if denominator is not None:
        reduction = "sum"
    if tracing_state() is not None and group is None:
        # A trace records operations, and no Function of autograd.
        options = {"temperature": temperature, "weight": class_weight, "label_smoothing": label_smoothing}
        z = linear(x, weight, bias)
        C = whole_cost(z, y, token_weight, z_loss, reduction, ignore_index=ignore_index, **options)
        return to_dtype(C if denominator is None else C / denominator, dtype)
    shard = local_shard(weight, group)
    x, weight, bias = autocast(x, weight, bias)
    x, bias, c = apply_temperature(x, bias, temperature)
    plan = Plan(c, block_rows, shard, z_loss)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    if token_weight is not None:
        token_weight = token_weight.reshape(-1).to(compute_dtype(x))
    if y.is_floating_point():
        y = y.reshape(rows.shape[0], weight.shape[0])
        C = dense_cost(rows, weight, bias, y, token_weight, class_weight, label_smoothing, plan, reduction)
    else:
        classes = y.reshape(-1), rows, weight.shape[0], class_weight, token_weight, ignore_index, label_smoothing, plan
        C = class_cost(rows, weight, bias, class_targets(*classes), plan, reduction)
    if denominator is not None:
        C = C / denominator
    return to_dtype(C.view(x.shape[:-1]) if reduction == "none" else C, dtype)


def whole_cost(
    z: Tensor,
    y: Tensor,
    token_weight: Tensor | None,
    z_loss: float,
    reduction: str,
    *,
    ignore_index: int,
    **options: Any,
) -> Tensor:
    """Return the reduced cost of whole z."""
    options |= {"ignore_index": ignore_index, "out_dtype": compute_dtype(z)}
    if token_weight is None and not z_loss:
        return log_likelihood(z, y, reduction=reduction, **options)
    C = log_likelihood(z, y, reduction="none", **options)
    counted = None if y.is_floating_point() else example_weight(z, y, options["weight"], ignore_index)
    if z_loss:
        ell = (z.to(C.dtype) / options["temperature"]).logsumexp(-1)
        C = C + z_loss * (ell if counted is None else ell.masked_fill(y == ignore_index, 0)).square()
    if token_weight is not None:
        C, counted = product(token_weight, C), product(counted, token_weight)
    return reduce(reduction, C, counted)


def check_arguments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    temperature: float | Tensor,
    group: Any,
) -> Tensor:
    """Return y; raise `TypeError` or `ValueError` unless the arguments go together."""
    check_layer(x, weight, bias, may_be_empty=group is not None)
    shape = *x.shape[:-1], weight.shape[0]
    y = check_desired(y, shape, x, "x")
    check_class_weight("class_weight", class_weight, shape, x, "x")
    check_ignored(ignore_index, y)
    if isinstance(temperature, Tensor) and group is not None:
        raise ValueError("temperature must be a number where classes are shared out among processes, got a tensor")
    return y


def apply_temperature(
    x: Tensor, bias: Tensor | None, temperature: float | Tensor
) -> tuple[Tensor, Tensor | None, float]:
    """Return x, bias and c of softmax(c z). A tensor divides x and bias, through which it gets its gradient."""
    if not isinstance(temperature, Tensor):
        return x, bias, 1 / temperature
    bias = None if bias is None else divide(bias, temperature).to(bias.dtype)
    return divide(x, temperature).to(x.dtype), bias, 1.0


def dense_cost(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    token_weight: Tensor | None,
    class_weight: Tensor | None,
    label_smoothing: float,
    plan: Plan,
    reduction: str,
) -> Tensor:
    """Return the reduced cost of desired outputs, shape (N,) for reduction "none"."""
    N, kept = x.shape[0], None
    if token_weight is not None and not token_weight.requires_grad:
        kept = kept_examples(token_weight == 0, x)
    if token_weight is not None and kept is not None:
        x, y, token_weight = x[kept], y[kept], token_weight[kept]
    t = dense_targets(y, x, class_weight, label_smoothing, plan.shard.classes)
    layer = Layer(masked_inputs(x, y), weight, bias, t, None, None)
    C = product(token_weight, example_costs(layer, plan, fused.refusal(layer, reduction, plan)))
    return scattered(C, kept, N) if reduction == "none" else reduce(reduction, C, token_weight)


def class_cost(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: ClassTargets, plan: Plan, reduction: str
) -> Tensor:
    """Return the reduced cost of classes, shape (N,) for reduction "none"."""
    N, kept = x.shape[0], kept_examples(targets.left_out, x)
    if kept is not None:
        x, targets = x[kept], targets.select(kept)
    layer = Layer(targets.masked_inputs(x), weight, bias, targets.y, targets.on_value, targets.off_value)
    reason = fused.refusal(layer, reduction, plan)
    if requires_grad(targets.token_weight):
        reason = "token_weight requires grad"
    if reason is None:
        C = fused.FusedLinearLogLikelihood.apply(plan, targets.factor(reduction), *layer)
        # The mean over no examples is nan.
        return C if reduction == "sum" else torch.where(targets.counted.sum() == 0, torch.nan, C)
    C = targets.masked_cost(example_costs(layer, plan, reason))
    return scattered(C, kept, N) if reduction == "none" else reduce(reduction, C, targets.counted)


def scattered(C: Tensor, kept: Tensor | None, N: int) -> Tensor:
    """Return C of all N examples, 0 for those that were left out."""
    return C if kept is None else C.new_zeros(N).index_copy(0, kept, C)


def example_costs(layer: Layer, plan: Plan, reason: str | None) -> Tensor:
    """Return C of each example, shape (N,), without its gradients; `explain` tells the reason."""
    if torch.compiler.is_compiling():
        if plan.shard.group is not None:
            raise RuntimeError(
                "torch.compile does not support a cost whose classes are shared out among processes; call it eagerly"
            )
        if is_forward_mode():
            # The compiler differentiates the formula itself. It gets a single block, since it would unroll a loop.
            whole = replace(plan, block_rows=TENSORS * layer.sizes[0])
            return plan.total_cost(class_blocks.cost(layer, whole)[0])
        from ce_torch.costs.linear.compiled import compiled_costs

        return plan.total_cost(compiled_costs(plan.c, plan.block_rows, plan.z_loss, *layer))
    record("blocks", f"the gradients are not worked out with the cost: {reason}")
    return plan.total_cost(autograd.cost(layer, plan))


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


class LinearLogLikelihoodCost(Cost):
    """The output layer and its log-likelihood cost as a module that owns the layer.

    Args:
        in_features: D, the number of the layer's inputs.
        classes: K, the number of its neurons.
        bias: True if the layer has biases.
        device, dtype: of the layer's parameters.
        options: the keyword arguments of `ce_torch.functional.linear_log_likelihood`.

    `cost.layer` is an `nn.Linear`: z = cost.layer(x). It can share its weight with another module, such as an
    embedding: `cost.layer.weight = embedding.weight`.

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
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.layer = nn.Linear(in_features, classes, bias, device=device, dtype=dtype)

    def forward(self, x: Tensor, y: Tensor, **options: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return C for inputs x (..., D) and y, class indices (...) or desired outputs (..., K).

        Options given here, such as `token_weight`, are for this call.
        """
        return linear_log_likelihood(x, self.layer.weight, y, self.layer.bias, **{**self.options, **options})

    def activation(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a (..., K), the outputs of the layer for its inputs x (..., D). This holds all of z."""
        return torch.softmax(self.layer(x) / self.temperature, -1)

    def delta(self, x: Tensor, y: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return δ = ∂Cₓ/∂z of each example x, (..., K), whatever the reduction. This holds all of z."""
        cost = LogLikelihoodCost(
            temperature=self.temperature,
            weight=self.class_weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )
        return cost.delta(self.layer(x), y)
