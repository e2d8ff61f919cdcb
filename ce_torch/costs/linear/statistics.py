"""The numbers that describe an output layer for each example, without all of its weighted inputs in memory."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._call import loss_function
from ce_torch.costs._in_graph import tied
from ce_torch.costs._precision import compute_dtype
from ce_torch.costs._statistics import SoftmaxStatistics
from ce_torch.costs.linear import small
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.cost import example_numbers, scattered
from ce_torch.costs.linear.inputs import Inputs, prepare
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.targets import class_targets, kept_examples, masked_inputs
from ce_torch.costs.linear.vocabulary_parallel import Shard, uncompiled_with_group


@loss_function()
@uncompiled_with_group
def linear_softmax_statistics(
    x: Tensor,
    weight: Tensor,
    y: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    entropy: bool = False,
    block_rows: int | None = None,
    max_memory: str | int | None = None,
    adapter: tuple[Tensor, Tensor] | None = None,
    group: Any = None,
) -> SoftmaxStatistics:
    """Return log-probability, logsumexp, entropy and prediction of each example of a softmax layer.

    They are `softmax_statistics(F.linear(x, weight, bias), y)`.

        s = φ(z) / temperature,    z = x weightᵀ + bias,    a = softmax(s),    φ(z) = z or softcap · tanh(z / softcap)

    It holds one block of z at a time, in the backward pass and in second derivatives too. All numbers but the
    prediction and whether it is correct can be differentiated, in any combination. Of an example whose y is
    `ignore_index` nothing is computed: its numbers are 0, its prediction is `ignore_index`, and it is not correct.

    Args:
        x, weight, bias, y, temperature, softcap, ignore_index, block_rows, max_memory, adapter, group: as in
            `linear_log_likelihood`. y can be None.
        entropy: True to compute the entropy.

    Returns:
        `SoftmaxStatistics` of shape (...), float32 from half precision.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Example:
        >>> x, weight = torch.zeros(2, 3), torch.zeros(4, 3)
        >>> linear_softmax_statistics(x, weight, torch.tensor([0, 1])).correct
        tensor([ True, False])

    Source: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
    """
    options = small.Options(temperature, ignore_index=ignore_index, softcap=softcap)
    if block_rows is max_memory is adapter is group is None and small.supports(x, weight, y, bias, options):
        return small.statistics(x, weight, y, bias, options, entropy)
    desired = torch.zeros(x.shape[:-1], dtype=torch.int64, device=x.device) if y is None else y
    inputs, desired, plan = prepare(
        x, weight, desired, bias, temperature, softcap, ignore_index, block_rows, max_memory, adapter, group
    )
    plan = replace(plan, logsumexp=True, entropy=entropy, prediction=True)
    # Without y no class is ignored, not even that of the placeholder.
    *found, prediction = all_numbers(inputs, desired, -1 if y is None else ignore_index, plan)
    moving = *inputs.unread, bias, temperature, *(adapter or ())
    C, logsumexp, H = (tied(number.view(x.shape[:-1]), *moving) for number in found)
    correct = None
    if y is not None and not desired.is_floating_point():
        correct = ((prediction == desired) & (desired != ignore_index)).view(x.shape[:-1])
    prediction = prediction.view(x.shape[:-1])
    return SoftmaxStatistics(None if y is None else -C, logsumexp, H if entropy else None, prediction, correct)


def all_numbers(inputs: Inputs, y: Tensor, ignore_index: int, plan: Plan) -> tuple[Tensor, ...]:
    """Return C, ℓ, H and the predictions, shape (N,): of ignored examples 0 and `ignore_index`."""
    layer, kept, ignored = statistics_layer(inputs, y, ignore_index, plan.shard)
    found, prediction = example_numbers(layer, inputs.reserve(plan, layer), "statistics are asked for")
    if ignored is not None:
        found, prediction = found.masked_fill(ignored, 0), prediction.masked_fill(ignored, ignore_index)
    N, found = inputs.x.shape[0], found.to(compute_dtype(inputs.x))
    return *(scattered(number, kept, N) for number in found), scattered(prediction, kept, N, ignore_index)


def statistics_layer(
    inputs: Inputs, y: Tensor, ignore_index: int, shard: Shard
) -> tuple[Layer, Tensor | None, Tensor | None]:
    """Return the layer of all examples or of some, the indices of these, and True for ignored ones among them."""
    if y.is_floating_point():
        return inputs.layer(masked_inputs(inputs.x, y), y), None, None
    targets = class_targets(y, inputs.x, inputs.weight.shape[0], None, None, ignore_index, 0.0, 0.0, shard)
    kept = kept_examples(targets.ignored, inputs.x)
    if kept is not None:
        inputs, targets = inputs.select(kept), targets.select(kept)
    layer = inputs.layer(targets.masked_inputs(inputs.x), targets.y, targets.on_value)
    return layer, kept, targets.ignored
