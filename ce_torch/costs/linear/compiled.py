"""The cost of a layer as `torch.compile` sees it: two operators that it does not look into, of any number of examples.

What it saw of the loop over blocks, it would unroll.
"""

from typing import Any

import torch
from torch import Tensor

from ce_torch.costs.linear.autograd import INPUTS, costs_of_examples, gradients_of_costs
from ce_torch.costs.linear.blocks import Layer, Setting, elements_of_block
from ce_torch.costs.linear.shards import ALL_CLASSES


@torch.library.custom_op("ce_torch::costs_of_layer", mutates_args=())
def costs_of_layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    peak: Tensor | None,
    base: Tensor | None,
    c: float,
    block_rows: int | None,
) -> tuple[Tensor, Tensor]:
    layer = Layer(x, weight, bias, y, peak, base)
    C, sums = costs_of_examples(layer, Setting(c, elements_of_block(len(x), len(weight), block_rows), ALL_CLASSES))
    return C, torch.stack(sums)


@costs_of_layer.register_fake
def _(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    C = Layer(x).of_examples(0)
    return C, torch.stack([C, C, C])


@torch.library.custom_op("ce_torch::gradients_of_layer", mutates_args=())
def gradients_of_layer(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    peak: Tensor | None,
    base: Tensor | None,
    sums: Tensor,
    c: float,
    block_rows: int | None,
    needed: list[bool],
) -> list[Tensor]:
    layer = Layer(x, weight, bias, y, peak, base)
    setting = Setting(c, elements_of_block(len(x), len(weight), block_rows), ALL_CLASSES)
    gradients = gradients_of_costs(g, layer, setting, sums, tuple(needed))
    return [gradient for gradient, of_this in zip(gradients, needed, strict=True) if of_this]


@gradients_of_layer.register_fake
def _(g: Tensor, *inputs: Any) -> list[Tensor]:
    *layer, _, _, _, needed = inputs
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, of_this in zip(layer, needed, strict=True)
        if of_this
    ]


def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *layer, ctx.c, ctx.block_rows = inputs
    ctx.save_for_backward(*layer, output[1])


def backward(ctx: Any, g: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    needed = list(ctx.needs_input_grad[:INPUTS])
    gradients = iter(gradients_of_layer(g, *ctx.saved_tensors, ctx.c, ctx.block_rows, needed))
    return *(next(gradients) if of_this else None for of_this in needed), None, None


def refuse(ctx: Any, *_: Any) -> None:
    raise RuntimeError("a compiled linear_log_likelihood has first derivatives only; leave it out of torch.compile")


costs_of_layer.register_autograd(backward, setup_context=keep)
gradients_of_layer.register_autograd(refuse)
