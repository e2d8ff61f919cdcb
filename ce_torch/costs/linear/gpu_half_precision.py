"""The cost of a layer in bfloat16 for classes y, and its gradients, on a GPU, without z and each rounded once.

Two passes work out z, and make two products each, by PyTorch's products and kernels. The first goes over all classes of
a stripe of examples, and sums Σ exp(c (zⱼ − m)) Wⱼ for the gradient of x, scaled down whenever m grows. The second goes
over all examples of a block of classes, and sums the gradients of its weight and bias. So no gradient needs a sum in
float32 of its own size. In notation of `example_blocks`,

    δⱼ = g (T eⱼ / s − off_valueⱼ),  and  g ((T − on_value) e_y − on_value Σ e of the others) / s  − g off_value_y  at y
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._product import product
from ce_torch.costs._softmax import exponents
from ce_torch.costs.kernels import gpu
from ce_torch.costs.kernels.gpu_layout import power_of_2
from ce_torch.costs.linear.blocks import split
from ce_torch.costs.linear.class_blocks import Statistics
from ce_torch.costs.linear.layer import Layer

# Products of these sizes keep a large GPU busy, and their results are a few hundredths of a large layer's z.
STRIPE_EXAMPLES, STRIPE_CLASSES = 1024, 8192
BLOCK_EXAMPLES, BLOCK_CLASSES = 8192, 1024
TILE = 2048
# Sums over classes are made of parts with so many rows in float32.
SUM_ROWS = 1024


def supports(x: Tensor, weight: Tensor) -> bool:
    """Return True if the kernels support this layer."""
    # In float16 exp(c (z − m)) vanishes too soon.
    is_half = x.dtype == weight.dtype == torch.bfloat16
    return is_half and x.numel() > 0 and gpu.refusal(x, weight) is None


class Sums(NamedTuple):
    """m = maxⱼ zⱼ, Σ exp(c (zⱼ − m)) without class y, and z_y, of each example."""

    m: Tensor
    others: Tensor
    z_y: Tensor


class Inputs:
    """A layer's tensors as the kernels take them, and what off_value adds up to."""

    def __init__(self, layer: Layer, c: float) -> None:
        assert layer.on_value is not None
        self.x, self.weight, self.y = layer.x.contiguous(), layer.weight.contiguous(), layer.y.contiguous()
        self.bias = None if layer.bias is None else layer.bias.contiguous()
        self.c = gpu.normal(c, torch.float32)
        self.on_value = layer.on_value.float().contiguous()
        self.off_value, self.off_weight, self.off_bias, self.off_total = None, None, 0.0, 0.0
        if layer.off_value is not None:
            self.off_value = layer.off_value.float().contiguous()
            self.off_weight, self.off_total = weighted_sum(self.weight, self.off_value), self.off_value.sum()
            self.off_bias = 0.0 if self.bias is None else product(self.off_value, self.bias.float()).sum()

    def delta_factors(self, sums: Sums, factor: Tensor, examples: slice = slice(None)) -> tuple[Tensor, ...]:
        """Return g T / s, δ of class y without the part of its off_value, and g, for g = c factor, of examples."""
        m, others, z_y = (number[examples] for number in sums)
        g, on_value, e_y = self.c * factor[examples], self.on_value[examples], exponents(z_y, m, self.c).exp()
        T, s = on_value + self.off_total, others + e_y
        return product(g, T / s), product(g, (self.off_total * e_y - on_value * others) / s), g

    def cost(self, sums: Sums) -> tuple[Tensor, Statistics]:
        """Return C and the statistics of each example."""
        x_y = exponents(sums.z_y, sums.m, self.c)
        r, T, t_x = sums.others + x_y.expm1(), self.on_value + self.off_total, product(self.on_value, x_y)
        if self.off_weight is not None:
            # Σ off_value z is a product with Σ off_valueⱼ Wⱼ.
            off_value_z = weighted_sum(self.x.mT, self.off_weight) + self.off_bias
            t_x = t_x + self.c * (off_value_z - self.off_total * sums.m)
        return product(T, r.log1p()) - t_x, Statistics(sums.m, r, T, torch.zeros_like(r))


def cost(layer: Layer, c: float) -> tuple[Tensor, Statistics]:
    """Return C of each example, and its statistics."""
    inputs = Inputs(layer, c)
    return inputs.cost(sum_stripes(inputs, inputs.on_value, None))


def add_gradients(gradients: dict[str, Tensor], layer: Layer, factor: Tensor, c: float) -> Tensor:
    """Return C of each example, and write the gradients of Σ factor · C."""
    inputs, factor = Inputs(layer, c), factor.float().contiguous()
    sums = sum_stripes(inputs, factor, gradients.get("x"))
    if "weight" in gradients or "bias" in gradients:
        write_parameter_gradients(inputs, sums, factor, gradients.get("weight"), gradients.get("bias"))
    return inputs.cost(sums)[0]


def sum_stripes(inputs: Inputs, factor: Tensor, x_gradient: Tensor | None) -> Sums:
    """Return the sums of each example, and write the gradient of Σ factor · C by x, if that is there."""
    x, weight = inputs.x, inputs.weight
    (N, D), K = x.shape, len(weight)
    sums = Sums(torch.full_like(factor, -torch.inf), torch.zeros_like(factor), torch.empty_like(factor))
    examples, classes = min(N, STRIPE_EXAMPLES), min(K, STRIPE_CLASSES)
    z_memory, e_memory = x.new_empty(examples * classes, dtype=torch.float32), x.new_empty(examples * classes)
    total_memory = None if x_gradient is None else x.new_empty((examples, D), dtype=torch.float32)
    for stripe in split(N, examples):
        rows, stripe_sums = x[stripe], Sums(*(number[stripe] for number in sums))
        total = None if total_memory is None else total_memory[: len(rows)].zero_()
        for block in split(K, classes):
            z = view(z_memory, len(rows), block)
            e = None if total is None else view(e_memory, len(rows), block)
            gpu.multiply(rows, weight[block].mT, z)
            arguments = z, inputs.bias, inputs.y[stripe], inputs.c, block.start, z.shape[1], z.stride(0), D
            constants = {"tile": power_of_2(z.shape[1]), "tile_inputs": TILE, "num_warps": 8}
            gpu.run("block_exponentials", rows, (len(rows),), e, total, *stripe_sums, *arguments, **constants)
            if e is not None and total is not None:
                gpu.multiply(e, weight[block], total, adds=True)
        if x_gradient is not None:
            factors = inputs.delta_factors(sums, factor, stripe)
            arguments = x_gradient[stripe], total, *factors, weight, inputs.y[stripe], inputs.off_weight, D
            gpu.run("x_gradient", rows, (len(rows), -(-D // TILE)), *arguments, tile=TILE, num_warps=4)
    return sums


def write_parameter_gradients(
    inputs: Inputs, sums: Sums, factor: Tensor, weight_gradient: Tensor | None, bias_gradient: Tensor | None
) -> None:
    """Write δᵀ x and Σ δ, those that are there."""
    x, weight = inputs.x, inputs.weight
    (N, D), K = x.shape, len(weight)
    numbers = sums.m, *inputs.delta_factors(sums, factor)
    examples, classes = min(N, BLOCK_EXAMPLES), min(K, BLOCK_CLASSES)
    z_memory, delta_memory = x.new_empty(examples * classes, dtype=torch.float32), x.new_empty(examples * classes)
    total_memory = x.new_empty((classes, D), dtype=torch.float32)
    for block in split(K, classes):
        total = total_memory[: block.stop - block.start].zero_()
        bias_total = total.new_zeros(len(total))
        for stripe in split(N, examples):
            rows = x[stripe]
            z, delta = (view(memory, len(rows), block) for memory in (z_memory, delta_memory))
            gpu.multiply(rows, weight[block].mT, z)
            arguments = z, inputs.bias, inputs.y[stripe], inputs.c, block.start, z.shape[1], z.stride(0)
            tile = min(power_of_2(z.shape[1]), TILE)
            grid, stripe_numbers = (len(rows), -(-z.shape[1] // tile)), (number[stripe] for number in numbers)
            gpu.run(
                "block_delta", rows, grid, delta, *stripe_numbers, inputs.off_value, *arguments, tile=tile, num_warps=4
            )
            if weight_gradient is not None:
                gpu.multiply(delta.mT, rows, total, adds=True)
            if bias_gradient is not None:
                bias_total += delta.sum(0, dtype=torch.float32)
        if weight_gradient is not None:
            weight_gradient[block] = total
        if bias_gradient is not None:
            bias_gradient[block] = bias_total


def view(memory: Tensor, rows: int, classes: slice) -> Tensor:
    """Return the memory's start as rows of these classes."""
    columns = classes.stop - classes.start
    return memory[: rows * columns].view(rows, columns)


def weighted_sum(rows: Tensor, factor: Tensor) -> Tensor:
    """Return Σⱼ factorⱼ rowsⱼ in float32, of a part of the rows at a time."""
    parts = zip(rows.split(SUM_ROWS), factor.split(SUM_ROWS), strict=True)
    return torch.stack([part_factor @ part.float() for part, part_factor in parts]).sum(0)
