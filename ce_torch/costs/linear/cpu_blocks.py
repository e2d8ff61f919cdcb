"""The numbers of a layer in float32 on the CPU, and their gradients, by blocks of examples and the CPU's kernels.

The formulas are those of `class_blocks.py`. As in `example_blocks.py` a block holds zᵀ of some examples: the forward
pass takes one product, the backward pass three.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from ce_torch.costs._product import product
from ce_torch.costs._softmax import exponents, scale
from ce_torch.costs.kernels import layer_numbers
from ce_torch.costs.kernels.layer_numbers import LANES, Targets, column_sums, write_gradient
from ce_torch.costs.kernels.products import weighted_inputs
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.class_blocks import Statistics, capped, fixed_precision
from ce_torch.costs.linear.example_blocks import add_gradients, general_refusal, new_gradients
from ce_torch.costs.linear.gradients import Needs
from ce_torch.costs.linear.layer import Layer


def refusal(layer: Layer, plan: Plan) -> str | None:
    """Return why a layer is not computed in this way, or None if it is."""
    if not layer_numbers.supports(layer.x, layer.weight):
        return "there is no kernel"
    if layer.y.is_floating_point() and layer.y.dtype != torch.float32:
        return "y is not float32"
    return general_refusal(layer, plan)


@fixed_precision
def numbers(layer: Layer, plan: Plan) -> tuple[Tensor, Statistics, Tensor]:
    """Return C, ℓ and H, shape (3, N); the statistics; and the predictions."""
    found, statistics = layer.full(0).new_empty((3, layer.sizes[0])), Statistics(*(layer.full(0) for _ in range(4)))
    prediction = torch.empty_like(statistics.m, dtype=torch.int64)
    for block, part, z, m in blocks(layer, plan):
        sums, rows = column_sums(z, m, targets(part, plan))
        m, r, t_x, T = capped(m, plan.softcap)[0], sums.others + (sums.ones - 1), sums.t_x, sums.T
        ln = r.log1p()
        if part.on_value is not None:
            z_y = z.gather(0, part.y.unsqueeze(0)).squeeze(0)
            t_x = t_x + product(part.on_value, exponents(capped(z_y, plan.softcap)[0], m, plan.c))
            T = T + part.on_value
        H = ln - sums.e_x / (1 + r) if plan.entropy else torch.zeros_like(ln)
        count = block.stop - block.start
        for whole, value in zip(statistics, (m, r, T, H), strict=True):
            whole[block] = value[:count]
        found[:, block] = torch.stack([product(T, ln) - t_x, scale(plan.c, m) + ln, H])[:, :count]
        prediction[block] = rows[:count]
    return found, statistics, prediction


@fixed_precision
def gradients(g: Tensor, layer: Layer, plan: Plan, statistics: Statistics, needs: Needs) -> tuple[Tensor, ...]:
    """Return the needed ones of the gradients of Σ g · numbers by x, weight and bias, in this order."""
    found = new_gradients(layer, needs)
    on_value = layer.full(0) if layer.on_value is None else layer.on_value
    known = torch.stack([on_value, *statistics, *g.to(layer.dtype)])
    for block, part, z, _ in blocks(layer, plan):
        of_block = known[:, block]
        of_part = pad(of_block, (0, z.shape[1] - of_block.shape[1])).contiguous()
        y = torch.full((z.shape[1],), -1) if part.on_value is None else part.y.contiguous()
        write_gradient(z, y, of_part, targets(part, plan))
        add_gradients(found, block, part, torch.ones_like(of_part[0]), z)
    return tuple(found.values())


def blocks(layer: Layer, plan: Plan) -> Iterator[tuple[slice, Layer, Tensor, Tensor]]:
    """Yield the examples of each block, its layer with examples of zeros at the end, zᵀ, and its largest numbers."""
    (N, K), x = layer.sizes, layer.x
    count, slices = plan.example_blocks(N, K)
    memory = x.new_empty(K * (count + -count % LANES))
    for block in slices:
        part = padded(layer.examples(block))
        z = memory[: K * len(part.x)].view(K, -1)
        m = weighted_inputs(layer.weight, part.x.mT.contiguous(), layer.bias, z)
        yield block, part, z, m


def padded(layer: Layer) -> Layer:
    """Return a layer of a multiple of 16 examples, the last of them zeros."""
    missing = -len(layer.x) % LANES
    if missing == 0:
        return layer
    rows = (0, 0, 0, missing)
    y = pad(layer.y, rows if layer.y.is_floating_point() else (0, missing))
    on_value = None if layer.on_value is None else pad(layer.on_value, (0, missing))
    return layer._replace(x=pad(layer.x, rows), y=y, on_value=on_value)


def targets(layer: Layer, plan: Plan) -> Targets:
    outputs = layer.y if layer.y.is_floating_point() else None
    off_value = None if layer.off_value is None else layer.off_value.float().contiguous()
    return Targets(outputs, off_value, plan.c, plan.softcap)
