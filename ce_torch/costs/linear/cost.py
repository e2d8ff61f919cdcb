"""The output layer and its log-likelihood as one cost, which holds a block of the weighted inputs z at a time.

    z = x Wᵀ + b        C = −ln a_y,  a = softmax(c z)        ∂C/∂W = δᵀ x,  δ = c (a − y)

These are the section's equations (80) to (84).
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._arguments import check_class_weight, check_denominator, check_token_weight
from ce_torch.costs._backend import record
from ce_torch.costs._call import loss_function
from ce_torch.costs._in_graph import tied
from ce_torch.costs._precision import compute_dtype, result_dtype, to_dtype
from ce_torch.costs._product import product
from ce_torch.costs._reduction import reduce
from ce_torch.costs._torch_private import is_forward_mode, tracing_state
from ce_torch.costs.linear import autograd, class_blocks, fused, small
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.held import HeldGradients, reserve
from ce_torch.costs.linear.inputs import Inputs, prepare
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.memory import BLOCK_TENSORS
from ce_torch.costs.linear.targets import ClassTargets, class_targets, dense_targets, kept_examples, masked_inputs
from ce_torch.costs.linear.vocabulary_parallel import uncompiled_with_group


@loss_function()
@uncompiled_with_group
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
    softcap: float | None = None,
    reduction: str = "mean",
    out_dtype: torch.dtype | None = None,
    block_rows: int | None = None,
    max_memory: str | int | None = None,
    adapter: tuple[Tensor, Tensor] | None = None,
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
    Where z takes no more than half a megabyte in float32, all of it is computed at once: the layer, and then the cost.

    For classes y and the mean or the sum, the forward pass computes the gradients together with the cost and keeps
    them, so that it computes z once. Otherwise the backward pass computes z again: for desired outputs, reduction
    "none", half precision and shards; under `torch.func` and hooks for saved tensors, such as those of activation
    checkpointing; compiled for a GPU; and where a second backward pass runs over a retained graph. Of several forward
    passes before a backward pass, as where costs are summed, only one keeps a gradient of the weight, and the others
    leave theirs to the backward pass.

    Args:
        x: inputs of the layer, floating point, shape (..., D).
        weight, bias: parameters of the layer, of x's dtype, shapes (K, D) and (K,).
        y: class indices, int64, shape (...); or desired outputs in [0, 1], floating point, shape (..., K). Desired
            outputs take as much memory as z, and twice as much with label smoothing or class weights.
        temperature, ignore_index, label_smoothing, reduction: as in `log_likelihood`. The temperature can also be a
            tensor of shape (...), one for each example. With a group it must be a number.
        class_weight: a factor for the cost of each class, floating point, shape (K,). `log_likelihood` and
            `F.linear_cross_entropy` call it `weight`. The latter calls x, weight, y and bias input, linear_weight,
            target and linear_bias.
        token_weight: a factor for the cost of each example, floating point, shape (...). In the mean an example counts
            as much, times the weight of its class.
        denominator: a number, or a tensor of shape (), that divides the sum of all costs in place of how much the
            examples count. With it, batches whose gradients are accumulated, or processes with examples of their own,
            add up to the mean over all of them. It goes with reduction "mean".
        z_loss: λ of a term λ ℓ², ℓ = ln Σⱼ exp zⱼ, which keeps ℓ near 0, in the cost of each example that is not
            ignored. A token weight is a factor of it, a class weight is not.
        softcap: κ, for κ tanh(z / κ) in place of z, which keeps z from −κ to κ. The temperature comes after it.
        out_dtype: the dtype of the cost, such as torch.float32 for x in half precision; None for x's.
        block_rows: how many rows of z fit into the memory for a block; None for a twentieth of all rows, but at least
            16 rows, and 4 MB in float32, and for a larger first block in the memory of the weight's gradient, where
            that comes with the cost. More rows are faster. A block has at least one example, or at least 32 classes
            of all examples. It has no effect where kernels take tiles of z that fit into a cache, nor on kernels for
            half precision.
        max_memory: the most memory that tensors may take beyond inputs and gradients, in the forward pass or in its
            backward pass: a number of bytes, or a text such as "64 MB" or "1.5 GiB". Blocks become smaller than they
            are by default where that is needed; if none is small enough, an error tells the least that is. It can't be
            given together with `block_rows`, and does not hold for what holds all of z, nor for second derivatives.
        adapter: (A, B) of a low-rank adapter (LoRA), shapes (r, D) and (K, r), for z = x (weight + B A)ᵀ + bias, of
            which the weight in brackets is never made. B includes the scale. In PEFT's words A is `lora_A`'s weight,
            and B is `scaling` times `lora_B`'s. Both may be of another floating dtype than x.
        group: processes (`torch.distributed`) that share the classes. Each has its own part of weight, B, bias, class
            weights and desired outputs, in the order of the ranks; x and class indices are the same in all. For each
            example they exchange five numbers and the gradient of x; no process sees all classes. The cost and the
            gradient of x are the same in all. A weight that is a `DTensor` with `Shard(0)` needs the group of its mesh;
            without a group it is refused. Of x, bias, y, A and B that are `DTensor`s each process then takes its part.

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
    normalizer calculation for softmax", 2018; z-loss: Chowdhery et al., "PaLM: Scaling language modeling with
    pathways", 2022; softcap: Gemma Team, "Gemma 2: Improving open language models at a practical size", 2024.
    """
    if y is not None and block_rows is max_memory is adapter is group is None:
        weights = class_weight, ignore_index, label_smoothing, token_weight
        options = small.Options(temperature, *weights, denominator, z_loss, softcap, reduction)
        if small.supports(x, weight, y, bias, options):
            return small.cost(x, weight, y, bias, options, result_dtype(x, out_dtype))
    inputs, y, plan = prepare(
        x, weight, y, bias, temperature, softcap, ignore_index, block_rows, max_memory, adapter, group
    )
    check_class_weight("class_weight", class_weight, (*x.shape[:-1], inputs.weight.shape[0]), x, "x")
    check_token_weight(token_weight, x)
    check_denominator(denominator, reduction, x)
    moving = temperature, class_weight, token_weight, denominator, *(adapter or ())
    if token_weight is not None:
        token_weight = token_weight.reshape(-1).to(compute_dtype(x))
    over_examples = reduction if denominator is None else "sum"
    if y.is_floating_point():
        C = dense_cost(inputs, y, token_weight, class_weight, label_smoothing, z_loss, plan, over_examples)
    else:
        options = class_weight, token_weight, ignore_index, label_smoothing, z_loss
        targets = class_targets(y, inputs.x, inputs.weight.shape[0], *options, plan.shard)
        C = class_cost(inputs, targets, plan, over_examples)
    if denominator is not None:
        C = C / denominator
    C = to_dtype(C.view(x.shape[:-1]) if reduction == "none" else C, result_dtype(x, out_dtype))
    return tied(C, *inputs.unread, bias, *moving)


def dense_cost(
    inputs: Inputs,
    y: Tensor,
    token_weight: Tensor | None,
    class_weight: Tensor | None,
    label_smoothing: float,
    z_loss: float,
    plan: Plan,
    reduction: str,
) -> Tensor:
    """Return the reduced cost of desired outputs, shape (N,) for reduction "none"."""
    N, kept, given_y = inputs.x.shape[0], None, y
    if token_weight is not None and not token_weight.requires_grad:
        kept = kept_examples(token_weight == 0, inputs.x)
    if token_weight is not None and kept is not None:
        inputs, y, token_weight = inputs.select(kept), y[kept], token_weight[kept]
    t = dense_targets(y, inputs.x, class_weight, label_smoothing, plan.shard.classes)
    layer = inputs.layer(masked_inputs(inputs.x, y), t)
    plan = inputs.reserve(plan, layer, given_y)
    C = product(token_weight, example_costs(layer, plan, z_loss, fused.refusal(layer, reduction, plan, z_loss)))
    return scattered(C, kept, N) if reduction == "none" else reduce(reduction, C, token_weight)


def class_cost(inputs: Inputs, targets: ClassTargets, plan: Plan, reduction: str) -> Tensor:
    """Return the reduced cost of classes, shape (N,) for reduction "none"."""
    N, z_loss, kept = inputs.x.shape[0], targets.z_loss, kept_examples(targets.left_out, inputs.x)
    if kept is not None:
        inputs, targets = inputs.select(kept), targets.select(kept)
    x = targets.masked_inputs(inputs.x)
    layer = inputs.layer(x, targets.y, targets.on_value, targets.off_value)
    plan = inputs.reserve(plan, layer)
    reason = fused.refusal(layer, reduction, plan, z_loss)
    if torch.compiler.is_compiling() and reduction != "none" and not is_forward_mode():
        from ce_torch.costs.linear.compiled import compiled_cost

        C = compiled_cost(targets.factor(reduction), z_loss, *layer, *plan.options)
    elif reason is None:
        held = reserve(inputs.given[1]) if layer.weight.requires_grad else HeldGradients(layer.weight)
        C = fused.FusedLinearLogLikelihood.apply(plan, z_loss, held, targets.factor(reduction), *layer)
    else:
        C = targets.masked_cost(example_costs(layer, plan, z_loss, reason))
        return scattered(C, kept, N) if reduction == "none" else reduce(reduction, C, targets.counted)
    # The mean over no examples is nan.
    return C if reduction == "sum" else torch.where(targets.counted.sum() == 0, torch.nan, C)


def scattered(numbers: Tensor, kept: Tensor | None, N: int, value: int = 0) -> Tensor:
    """Return the numbers of all N examples, this value for those that were left out."""
    return numbers if kept is None else numbers.new_full((N,), value).index_copy(0, kept, numbers)


def example_costs(layer: Layer, plan: Plan, z_loss: float, reason: str | None) -> Tensor:
    """Return C + λ ℓ² of each example, shape (N,), without its gradients; `explain` tells the reason."""
    C, logsumexp, _ = example_numbers(layer, replace(plan, logsumexp=z_loss != 0), reason)[0]
    return C if z_loss == 0 else C + z_loss * logsumexp.square()


def example_numbers(layer: Layer, plan: Plan, reason: str | None) -> tuple[Tensor, Tensor]:
    """Return C, ℓ and H of each example, shape (3, N), and the predictions; `explain` tells the reason."""
    is_traced = tracing_state() is not None and plan.shard.group is None
    if torch.compiler.is_compiling() and not is_forward_mode():
        from ce_torch.costs.linear.compiled import compiled_numbers

        return compiled_numbers(*layer, *plan.options)
    if is_traced or torch.compiler.is_compiling():
        # Traces, and the compiler in forward mode, take the formula itself. It gets a single block, for they would
        # unroll a loop.
        found, _, prediction = class_blocks.numbers(
            layer, replace(plan, block_rows=BLOCK_TENSORS * layer.sizes.N, max_memory=None)
        )
        return found, prediction
    record("blocks", f"the gradients are not worked out with the cost: {reason}")
    return autograd.numbers(layer, plan)
