"""The cost of a layer for classes y and its gradients, where only their numbers count, by blocks of examples.

Where no kernels for whole z are, zᵀ is made, with a row for each class: the products with W, which has a row for each
class too, are faster so than with z. With eⱼ = exp(c (zⱼ − m)), s = Σⱼ eⱼ, tⱼ = baseⱼ and at j = y `peak` more,

    δⱼ = c (T eⱼ / s − tⱼ)

of which T e / s goes into the products with W and x, block by block, and base once, for all examples.
"""

import torch
from torch import Tensor

from ce_torch.costs._backend import record
from ce_torch.costs._product import product
from ce_torch.costs._softmax import above_minus_infinity, exponents
from ce_torch.costs._torch_private import count_dispatch_modes
from ce_torch.costs.kernels import NOT_PLAIN, gpu, is_plain
from ce_torch.costs.kernels.products import add_product, exponentials_, weighted_inputs
from ce_torch.costs.linear.blocks import Layer, Setting, Wanted, column, parts
from ce_torch.costs.linear.formulas import Sums, in_own_precision
from ce_torch.costs.linear.shards import Shard

AT_ONCE = "the gradients are worked out with the cost"


def refusal(layer: Layer, shard: Shard) -> str | None:
    """Return why a layer is not worked out by blocks of examples, None where it is."""
    if layer.y.is_floating_point():
        return "y holds desired outputs"
    if shard.group is not None:
        return "the classes are shared out among processes"
    if layer.dtype != layer.x.dtype:
        return "x has half precision"
    if not all(is_plain(tensor) for tensor in layer if tensor is not None):
        return NOT_PLAIN
    if count_dispatch_modes():
        return "a dispatch mode is active"
    if torch._C._are_functorch_transforms_active():
        return "torch.func differentiates the cost"
    if layer.base is not None and not layer.x.is_cpu:
        return "label_smoothing is not 0, for which a GPU has no kernel"
    return None


@in_own_precision
def costs(layer: Layer, setting: Setting) -> tuple[Tensor, Sums]:
    """Return C of each example, and its sums."""
    of_examples = Sums(*(layer.of_examples(0) for _ in Sums._fields))
    C = layer.of_examples(0)
    count = examples_of_block(layer, setting)
    space = layer.x.new_empty(len(layer.weight) * count)
    for block in parts(len(layer.x), count):
        of_block = layer.examples(block)
        z = space[: len(layer.weight) * len(of_block.x)].view(len(layer.weight), -1)
        C[block], sums = exponentials(of_block, setting.c, z)
        for whole, part in zip(of_examples, sums, strict=True):
            whole[block] = part
    return C, of_examples


@in_own_precision
def cost_and_slopes(
    layer: Layer, factor: Tensor, setting: Setting, wanted: Wanted
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return Σ factor · C, and its gradients that are wanted, by blocks of examples."""
    x, weight = layer.x, layer.weight
    total = x.new_zeros(())
    new = torch.empty_like if len(x) > 0 else torch.zeros_like
    gradients = {
        name: new(tensor, memory_format=torch.contiguous_format)
        for name, tensor in layer._asdict().items()
        if name in wanted
    }
    count = examples_of_block(layer, setting)
    space = x.new_empty(len(weight) * count)
    refused = gpu.refusal(space)
    work_out = by_gpu_kernels if refused is None else transposed
    record("blocks" if refused else "triton", f"triton: {refused}; {AT_ONCE}" if refused else AT_ONCE)
    for block in parts(len(x), count):
        of_block = layer.examples(block)
        z = space[: len(weight) * len(of_block.x)]
        C = work_out(gradients, block, of_block, factor[block].to(x.dtype), setting.c, z)
        total += product(factor[block], C).sum()
    if layer.base is not None and len(x) > 0:
        subtract_base(gradients, layer, setting.c * factor)
    return total, tuple(gradients.values())


def by_gpu_kernels(
    gradients: dict[str, Tensor], block: slice, layer: Layer, factor: Tensor, c: float, space: Tensor
) -> Tensor:
    """Return C of each example of a block, and add its part to the gradients, by the kernels for whole z."""
    z = torch.mm(layer.x, layer.weight.mT, out=space.view(len(layer.x), -1))
    if layer.bias is not None:
        z += layer.bias
    options = None, c, -1, 0.0
    C, sums = gpu.softmax_cost("none", z, layer.y, *options)
    delta = gpu.softmax_delta(layer.peak * factor, sums, "none", z, layer.y, *options, in_place=True)
    if "x" in gradients:
        torch.mm(delta, layer.weight, out=gradients["x"][block])
    # What was there before the first block is not read.
    beta = min(block.start, 1)
    if "weight" in gradients:
        gradients["weight"].addmm_(delta.mT, layer.x, beta=beta)
    if "bias" in gradients:
        gradients["bias"].addmv_(delta.mT, torch.ones_like(factor), beta=beta)
    return product(layer.peak, C)


def transposed(
    gradients: dict[str, Tensor], block: slice, layer: Layer, factor: Tensor, c: float, space: Tensor
) -> Tensor:
    """Return C of each example of a block, and add its part to the gradients, but for base, with zᵀ for z."""
    z = space.view(len(layer.weight), -1)
    C, sums = exponentials(layer, c, z)
    # With this z is (s / of_cost) (δᵀ + c base), s = 1 + r.
    of_cost = product(c * factor * sums.T, 1 / (1 + sums.r))
    add_slopes(gradients, block, layer, of_cost, z)
    return C


def examples_of_block(layer: Layer, setting: Setting) -> int:
    count = min(max(setting.elements // max(len(layer.weight), 1), 1), max(len(layer.x), 1))
    # The products are faster with so many.
    return count - count % 16 if count > 16 else count


def exponentials(layer: Layer, c: float, z: Tensor) -> tuple[Tensor, Sums]:
    """Return C and the sums of each example, with a row for each class in z: e, and s (a − peak / T) at j = y."""
    m = weighted_inputs(layer.weight, layer.x.mT.contiguous(), layer.bias, z)
    y = layer.y.unsqueeze(0)
    x_y = exponents(z.gather(0, y).squeeze(0), m, c)
    others, base_x = exponentials_(z, above_minus_infinity(m), layer.y, c, layer.base)
    r, T, e_y = others + x_y.expm1(), layer.peak, x_y.exp()
    t_x = product(layer.peak, x_y)
    if layer.base is not None:
        T, t_x = T + layer.base.sum(), t_x + base_x
    # s (a − peak / T), of which no digits are lost where a and peak are near 1.
    z.scatter_(0, y, product((T - layer.peak) * e_y - layer.peak * others, 1 / T).unsqueeze(0))
    return product(T, r.log1p()) - t_x, Sums(m, r, T)


def add_slopes(gradients: dict[str, Tensor], block: slice, layer: Layer, of_cost: Tensor, z: Tensor) -> None:
    """Add what a block of examples has of the gradients δ W, δᵀ x and Σ δ, where δᵀ = of_cost z."""
    if "x" in gradients:
        of_x = layer.x.new_zeros(layer.x.shape[1], len(layer.x))
        add_product(layer.weight.mT, z, out=of_x)
        gradients["x"][block] = (of_x * of_cost).mT
    # What was there before the first block is not read.
    beta = min(block.start, 1)
    if "weight" in gradients:
        add_product(z, layer.x * column(of_cost), gradients["weight"], beta)
    if "bias" in gradients:
        gradients["bias"].addmv_(z, of_cost, beta=beta)


def subtract_base(gradients: dict[str, Tensor], layer: Layer, factor: Tensor) -> None:
    """Add what −factor base, a part of δ, has of the gradients."""
    if "x" in gradients:
        gradients["x"].addr_(factor, layer.weight.mT @ layer.base, alpha=-1)
    if "weight" in gradients:
        gradients["weight"].addr_(layer.base, layer.x.mT @ factor, alpha=-1)
    if "bias" in gradients:
        gradients["bias"].sub_(layer.base * factor.sum())
