"""The cost of a layer for classes y and its gradients, as numbers that are not differentiated, by blocks of examples.

The kernels of a GPU take z. Where they do not run, zᵀ takes its place: it has a row for each class, as W has, and
products with it are faster than those with z. With eⱼ = exp(c (zⱼ − m)), s = Σⱼ eⱼ, and tⱼ = off_valueⱼ, plus
`on_value` at j = y,

    δⱼ = c (T eⱼ / s − tⱼ)

Each block multiplies T e / s by W and x. The part with off_value follows once, for all examples. With z_loss, ℓ has a
gradient too, which adds to T.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._backend import record
from ce_torch.costs._product import product
from ce_torch.costs._softmax import clamp_infinite, exponents
from ce_torch.costs._torch_private import count_dispatch_modes, is_transformed
from ce_torch.costs.kernels import NOT_PLAIN, gpu, is_plain
from ce_torch.costs.kernels.products import add_product, exponentials_, weighted_inputs
from ce_torch.costs.linear.blocks import Plan, column
from ce_torch.costs.linear.class_blocks import Statistics, fixed_precision
from ce_torch.costs.linear.gradients import PARAMETERS, Needs
from ce_torch.costs.linear.layer import Layer

FUSED = "the gradients are worked out with the cost"
# The needed gradients, those of x, weight and bias by name.
Gradients = dict[str, Tensor]
# From a block and its numbers to the gradients that reach these.
ExampleGrad = Callable[[slice, Tensor], Tensor]
# So much of a number is less than its rounding, and more than 0.
NEGLIGIBLE = 2.0**-40


def refusal(layer: Layer, plan: Plan) -> str | None:
    """Return why a layer is not computed by blocks of examples, or None if it is."""
    if layer.y.is_floating_point():
        return "y holds desired outputs"
    if plan.shard.group is not None:
        return "the classes are shared out among processes"
    if layer.dtype != layer.x.dtype:
        return "x has half precision"
    if not all(is_plain(tensor) for tensor in layer if tensor is not None):
        return NOT_PLAIN
    if count_dispatch_modes():
        return "a dispatch mode is active"
    if is_transformed():
        return "torch.func differentiates the cost"
    if layer.off_value is not None and not layer.x.is_cpu:
        return "label_smoothing is not 0, which a GPU works out by blocks of classes"
    if plan.z_loss and not layer.x.is_cpu:
        return "z_loss is not 0, which a GPU works out by blocks of classes"
    return None


@fixed_precision
def cost(layer: Layer, plan: Plan) -> tuple[Tensor, Statistics]:
    """Return the numbers of the examples, and their statistics."""
    (N, K), x = layer.sizes, layer.x
    C, statistics = layer.full(0), Statistics(layer.full(0), layer.full(0), layer.full(0))
    count, blocks = plan.example_blocks(N, K)
    memory = x.new_empty(K * count)
    for block in blocks:
        part = layer.examples(block)
        C[block], part_statistics, _ = exponentials(part, plan.c, memory[: K * len(part.x)].view(K, -1))
        for whole, value in zip(statistics, part_statistics, strict=True):
            whole[block] = value
    return statistics.numbers(C, plan), statistics


@fixed_precision
def cost_and_gradients(layer: Layer, factor: Tensor, plan: Plan, needs: Needs) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return Σ factor · (C + z_loss ℓ²), and its gradients by those of x, weight and bias that need one."""
    numbers, found = accumulate(layer, plan, needs, lambda block, numbers: plan.example_grad(factor[block], numbers))
    if layer.off_value is not None and len(factor) > 0:
        subtract_off_value(found, layer, layer.off_value, plan.c * factor)
    return product(factor, plan.total_cost(numbers)).sum(), tuple(found.values())


@fixed_precision
def gradients(layer: Layer, g: Tensor, plan: Plan, needs: Needs) -> tuple[Tensor, ...]:
    """Return the gradients of Σ g C + Σ g ℓ by those of x, weight and bias that need one."""
    _, found = accumulate(layer, plan, needs, lambda block, numbers: g[:, block])
    if layer.off_value is not None and g.shape[1] > 0:
        subtract_off_value(found, layer, layer.off_value, plan.c * g[0])
    return tuple(found.values())


def accumulate(layer: Layer, plan: Plan, needs: Needs, example_grad: ExampleGrad) -> tuple[Tensor, Gradients]:
    """Return the numbers of the examples, and the needed gradients without the part of off_value."""
    (N, K), x = layer.sizes, layer.x
    new = torch.empty_like if N > 0 else torch.zeros_like
    found = {
        name: new(tensor, memory_format=torch.contiguous_format)
        for name, tensor in zip(PARAMETERS, layer, strict=False)
        if name in needs and tensor is not None
    }
    count, blocks = plan.example_blocks(N, K)
    memory, numbers = x.new_empty(K * count), x.new_empty(2 if plan.z_loss else 1, N)
    gpu_refusal = gpu.refusal(memory)
    compute_block = gpu_block if gpu_refusal is None else transposed_block
    record("blocks" if gpu_refusal else "triton", f"triton: {gpu_refusal}; {FUSED}" if gpu_refusal else FUSED)
    for block in blocks:
        part = layer.examples(block)
        numbers[:, block] = compute_block(found, block, part, plan, example_grad, memory[: K * len(part.x)])
    return numbers, found


def gpu_block(
    gradients: Gradients, block: slice, layer: Layer, plan: Plan, example_grad: ExampleGrad, memory: Tensor
) -> Tensor:
    """Return C of each example of a block, and add the block's part to the gradients, by the GPU's kernels."""
    z = torch.mm(layer.x, layer.weight.mT, out=memory.view(len(layer.x), -1))
    if layer.bias is not None:
        z += layer.bias
    options = None, plan.c, -1, 0.0
    C, sums = gpu.softmax_cost(torch.float32, "none", z, layer.y, *options)
    C = product(on_value(layer), C)
    (g,) = example_grad(block, C.unsqueeze(0)).to(C.dtype)
    example_factor = on_value(layer) * g
    delta = gpu.softmax_delta(example_factor, sums, "none", z, layer.y, *options, in_place=True)
    if "x" in gradients:
        torch.mm(delta, layer.weight, out=gradients["x"][block])
    # The first block overwrites the memory.
    beta = min(block.start, 1)
    if "weight" in gradients:
        gradients["weight"].addmm_(delta.mT, layer.x, beta=beta)
    if "bias" in gradients:
        gradients["bias"].addmv_(delta.mT, torch.ones_like(g), beta=beta)
    return C.unsqueeze(0)


def transposed_block(
    gradients: Gradients, block: slice, layer: Layer, plan: Plan, example_grad: ExampleGrad, memory: Tensor
) -> Tensor:
    """Return the numbers of a block's examples, and add its part without off_value to the gradients, from zᵀ."""
    z = memory.view(len(layer.weight), -1)
    C, statistics, label = exponentials(layer, plan.c, z)
    numbers = statistics.numbers(C, plan)
    g = example_grad(block, numbers).to(z.dtype)
    # The gradient by z is c (factor a − v), of which v is at j = y; z_factor z is the same.
    v, factor = g[0] * on_value(layer), product(g[0], statistics.T)
    if plan.z_loss:
        factor = factor + g[1]
        factor = torch.where((factor == 0) & (v != 0), v * NEGLIGIBLE, factor)
    # This form of (1 + r) (a − v / factor) loses no digits where a is near 1.
    z.scatter_(0, layer.y.unsqueeze(0), product((factor - v) * label.e - v * label.others, 1 / factor).unsqueeze(0))
    add_gradients(gradients, block, layer, product(plan.c * factor, 1 / (1 + statistics.r)), z)
    return numbers


class Label(NamedTuple):
    """exp x at the class of each example, and the sum of the others, shape (N,)."""

    e: Tensor
    others: Tensor


def exponentials(layer: Layer, c: float, z: Tensor) -> tuple[Tensor, Statistics, Label]:
    """Return C, the statistics and exp x at y of each example. Write e to z, a row a class, but 0 at y."""
    m = weighted_inputs(layer.weight, layer.x.mT.contiguous(), layer.bias, z)
    value = on_value(layer)
    x_y = exponents(z.gather(0, layer.y.unsqueeze(0)).squeeze(0), m, c)
    others, off_value_x = exponentials_(z, clamp_infinite(m), layer.y, c, layer.off_value)
    r, T = others + x_y.expm1(), value
    t_x = product(value, x_y)
    if layer.off_value is not None and off_value_x is not None:
        T, t_x = T + layer.off_value.sum(), t_x + off_value_x
    return product(T, r.log1p()) - t_x, Statistics(m, r, T), Label(x_y.exp(), others)


def add_gradients(gradients: Gradients, block: slice, layer: Layer, z_factor: Tensor, z: Tensor) -> None:
    """Add a block's part to the gradients δ W, δᵀ x and Σ δ, where δᵀ = z_factor z."""
    if "x" in gradients:
        transposed = layer.x.new_zeros(layer.x.shape[1], len(layer.x))
        add_product(layer.weight.mT, z, out=transposed)
        gradients["x"][block] = (transposed * z_factor).mT
    # The first block overwrites the memory.
    beta = min(block.start, 1)
    if "weight" in gradients:
        add_product(z, layer.x * column(z_factor), gradients["weight"], beta)
    if "bias" in gradients:
        gradients["bias"].addmv_(z, z_factor, beta=beta)


def subtract_off_value(gradients: Gradients, layer: Layer, off_value: Tensor, factor: Tensor) -> None:
    """Add to the gradients what the part −factor off_value of δ contributes."""
    if "x" in gradients:
        gradients["x"].addr_(factor, layer.weight.mT @ off_value, alpha=-1)
    if "weight" in gradients:
        gradients["weight"].addr_(off_value, layer.x.mT @ factor, alpha=-1)
    if "bias" in gradients:
        gradients["bias"].sub_(off_value * factor.sum())


def on_value(layer: Layer) -> Tensor:
    """Return `on_value` of a layer, which it has if y holds classes."""
    assert layer.on_value is not None
    return layer.on_value
