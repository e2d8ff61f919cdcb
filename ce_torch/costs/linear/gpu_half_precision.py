"""The cost of a layer in bfloat16 for classes y, and its gradients, on a GPU, worked out together by two passes over z.

The passes of `gpu_passes.py` sum and keep d = exp(c (z − m)), which they scale down whenever m grows. In notation of
`example_blocks`,

    δⱼ = g (T eⱼ / s − off_valueⱼ),  and  g ((T − on_value) e_y − on_value Σ e of the others) / s  − g off_value_y  at y
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from ce_torch.costs._product import product
from ce_torch.costs._softmax import exponents
from ce_torch.costs.kernels import gpu
from ce_torch.costs.linear.class_blocks import Statistics
from ce_torch.costs.linear.gpu_passes import Steps, sum_stripes, write_parameter_gradients
from ce_torch.costs.linear.layer import Layer

# What a program holds at once: of a stripe, of a block, and of a row of inputs.
STRIPE_TILE = {"tile": 8, "tile_classes": 1024, "tile_inputs": 512, "num_warps": 8}
BLOCK_TILE = {"tile": 128, "tile_classes": 32, "num_warps": 4}
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

    def part(self, examples: slice) -> Self:
        return type(self)(*(number[examples] for number in self))


class Factors(NamedTuple):
    """g T / s, δ of class y without the part of its off_value, and g, for g = c factor, of each example."""

    scale: Tensor
    delta_y: Tensor
    g: Tensor


class Exponentials(Steps):
    """A layer's tensors as the kernels take them, what off_value adds up to, and the sums of each example so far."""

    def __init__(self, layer: Layer, factor: Tensor, c: float) -> None:
        assert layer.on_value is not None
        self.x, self.weight, self.y = layer.x.contiguous(), layer.weight.contiguous(), layer.y.contiguous()
        self.bias = None if layer.bias is None else layer.bias.contiguous()
        self.c, self.factor = gpu.normal(c, torch.float32), factor.float().contiguous()
        self.on_value = layer.on_value.float().contiguous()
        self.off_value, self.off_weight, self.off_bias, self.off_total = None, None, 0.0, 0.0
        if layer.off_value is not None:
            self.off_value = layer.off_value.float().contiguous()
            self.off_weight, self.off_total = weighted_sum(self.weight, self.off_value), self.off_value.sum()
            self.off_bias = 0.0 if self.bias is None else product(self.off_value, self.bias.float()).sum()
        zeros = torch.zeros_like(self.on_value)
        self.sums = Sums(zeros - torch.inf, zeros, torch.empty_like(zeros))
        # Those of all examples, once all sums are known.
        self.factors: Factors | None = None

    def write_terms(
        self, terms: Tensor | None, m: Tensor | None, total: Tensor | None, z: Tensor, classes: slice, examples: slice
    ) -> None:
        place = self.c, classes.start, *z.shape, 0 if terms is None else terms.stride(0), self.x.shape[1]
        arguments = terms, m, total, *self.sums.part(examples), z, self.bias, self.y[examples], *place
        grid = (-(-z.shape[1] // STRIPE_TILE["tile"]),)
        gpu.run("block_exponentials", z, grid, *arguments, **STRIPE_TILE)

    def write_x_gradient(self, gradient: Tensor, total: Tensor, examples: slice) -> None:
        N, D = gradient.shape
        arguments = gradient, total, *self.delta_factors(examples), self.weight, self.y[examples], self.off_weight, D
        gpu.run("x_gradient", gradient, (N, -(-D // TILE)), *arguments, tile=TILE, num_warps=4)

    def write_delta(self, delta: Tensor, z: Tensor, classes: slice, examples: slice) -> None:
        self.make_delta(delta, z, None, classes, examples)

    def write_kept_delta(self, delta: Tensor, terms: Tensor, m: Tensor, classes: slice, examples: slice) -> None:
        self.make_delta(delta, terms, m, classes, examples)

    def make_delta(self, delta: Tensor, source: Tensor, m: Tensor | None, classes: slice, examples: slice) -> None:
        """Write δ of z, or of d for this m."""
        if self.factors is None:
            self.factors = self.delta_factors()
        numbers = self.sums.m[examples], *(factor[examples] for factor in self.factors)
        place = self.c, classes.start, *source.shape, source.stride(0), delta.stride(0)
        arguments = delta, source, m, *numbers, self.off_value, self.bias, self.y[examples], *place
        grid = -(-source.shape[1] // BLOCK_TILE["tile"]), -(-source.shape[0] // BLOCK_TILE["tile_classes"])
        gpu.run("block_delta", delta, grid, *arguments, **BLOCK_TILE)

    def delta_factors(self, examples: slice = slice(None)) -> Factors:
        m, others, z_y = self.sums.part(examples)
        g, on_value, e_y = self.c * self.factor[examples], self.on_value[examples], exponents(z_y, m, self.c).exp()
        T, s = on_value + self.off_total, others + e_y
        return Factors(product(g, T / s), product(g, (self.off_total * e_y - on_value * others) / s), g)

    def cost(self) -> tuple[Tensor, Statistics]:
        """Return C and the statistics of each example."""
        m, others, z_y = self.sums
        x_y = exponents(z_y, m, self.c)
        r, T, t_x = others + x_y.expm1(), self.on_value + self.off_total, product(self.on_value, x_y)
        if self.off_weight is not None:
            # Σ off_value z is a product with Σ off_valueⱼ Wⱼ.
            off_value_z = weighted_sum(self.x.mT, self.off_weight) + self.off_bias
            t_x = t_x + self.c * (off_value_z - self.off_total * m)
        return product(T, r.log1p()) - t_x, Statistics(m, r, T, torch.zeros_like(r))


def cost(layer: Layer, c: float) -> tuple[Tensor, Statistics]:
    """Return C of each example, and its statistics."""
    assert layer.on_value is not None
    exponentials = Exponentials(layer, layer.on_value, c)
    sum_stripes(exponentials, exponentials.weight[:0], None)
    return exponentials.cost()


def add_gradients(gradients: dict[str, Tensor], layer: Layer, factor: Tensor, c: float) -> Tensor:
    """Return C of each example, and write the gradients of Σ factor · C."""
    exponentials = Exponentials(layer, factor, c)
    weight_gradient = gradients.get("weight", exponentials.weight[:0])
    kept = sum_stripes(exponentials, weight_gradient, gradients.get("x"))
    if "weight" in gradients or "bias" in gradients:
        write_parameter_gradients(exponentials, kept, weight_gradient, gradients.get("bias"))
    return exponentials.cost()[0]


def weighted_sum(rows: Tensor, factor: Tensor) -> Tensor:
    """Return Σⱼ factorⱼ rowsⱼ in float32, of a part of the rows at a time."""
    parts = zip(rows.split(SUM_ROWS), factor.split(SUM_ROWS), strict=True)
    return torch.stack([part_factor @ part.float() for part, part_factor in parts]).sum(0)
