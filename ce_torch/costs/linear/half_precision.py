"""The cost of a layer in bfloat16 for classes y, and its gradients, without z and each rounded once.

Two passes work out z, and make two products each. The first goes over all classes of a stripe of examples, and makes
the sums and the gradient of x; the second over all examples of a part of the classes, and makes those of weight and
bias. So no gradient needs a sum in float32 of its own size. In notation of `example_blocks`,

    δⱼ = g (T eⱼ / s − off_valueⱼ),  and  g ((T − on_value) e_y − on_value Σ e of the others) / s  − g off_value_y  at y
"""

from types import ModuleType

import torch
from torch import Tensor

from ce_torch.costs._product import product
from ce_torch.costs._softmax import exponents
from ce_torch.costs.kernels import gpu_half_products, half_products
from ce_torch.costs.kernels.half_products import Sums, delta_factors
from ce_torch.costs.linear.class_blocks import Statistics
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.memory import SUM_COLUMNS, SUM_ROWS


def find_kernels(layer: Layer) -> ModuleType | None:
    """Return the kernels that support this layer, or None."""
    modules = half_products, gpu_half_products
    return next((module for module in modules if module.supports(layer.x, layer.weight)), None)


class Inputs:
    """A layer's tensors as the kernels take them, and what off_value adds up to."""

    def __init__(self, layer: Layer) -> None:
        assert layer.on_value is not None
        self.kernels = find_kernels(layer)
        self.x, self.weight, self.y = layer.x.contiguous(), layer.weight.contiguous(), layer.y.contiguous()
        self.bias = None if layer.bias is None else layer.bias.contiguous()
        self.on_value = layer.on_value.float().contiguous()
        self.off_value, self.off_weight, self.off_bias, self.off_total = None, None, 0.0, 0.0
        if layer.off_value is not None:
            self.off_value = layer.off_value.float().contiguous()
            self.off_weight, self.off_total = weighted_sum(self.weight, self.off_value), self.off_value.sum()
            self.off_bias = 0.0 if self.bias is None else product(self.off_value, self.bias.float()).sum()

    def sums(self, c: float, factor: Tensor, x_gradient: Tensor | None) -> Sums:
        """Return the sums of each example, and write the gradient of Σ factor · C."""
        target = factor, self.on_value, self.off_total, self.off_weight
        assert self.kernels is not None
        return self.kernels.half_sums(self.x, self.weight, self.bias, self.y, c, target, x_gradient)

    def cost(self, c: float, sums: Sums) -> tuple[Tensor, Statistics]:
        """Return C and the statistics of each example."""
        x_y = exponents(sums.z_y, sums.m, c)
        r, T, t_x = sums.others + x_y.expm1(), self.on_value + self.off_total, product(self.on_value, x_y)
        if self.off_weight is not None:
            # Σ off_value z is a product with Σ off_valueⱼ Wⱼ.
            off_value_z = weighted_sum(self.x.mT, self.off_weight) + self.off_bias
            t_x = t_x + c * (off_value_z - self.off_total * sums.m)
        return product(T, r.log1p()) - t_x, Statistics(sums.m, r, T, torch.zeros_like(r))


def cost(layer: Layer, c: float) -> tuple[Tensor, Statistics]:
    """Return C of each example, and its statistics."""
    inputs, c = Inputs(layer), normal(c)
    return inputs.cost(c, inputs.sums(c, inputs.on_value, None))


def add_gradients(gradients: dict[str, Tensor], layer: Layer, factor: Tensor, c: float) -> Tensor:
    """Return C of each example, and write the gradients of Σ factor · C."""
    inputs, c, factor = Inputs(layer), normal(c), factor.float().contiguous()
    sums = inputs.sums(c, factor, gradients.get("x"))
    if "weight" in gradients or "bias" in gradients:
        delta = sums.m, *delta_factors(sums, c, factor, inputs.on_value, inputs.off_total), inputs.off_value
        assert inputs.kernels is not None
        parameters = inputs.x, inputs.weight, inputs.bias, inputs.y
        inputs.kernels.half_gradients(*parameters, c, delta, gradients.get("weight"), gradients.get("bias"))
    return inputs.cost(c, sums)[0]


def normal(c: float) -> float:
    """Return c, or the smallest normal number for one below, so that c · ∞ is ∞."""
    return max(c, torch.finfo(torch.float32).tiny)


def weighted_sum(rows: Tensor, factor: Tensor) -> Tensor:
    """Return Σⱼ factorⱼ rowsⱼ in float32, of a part of the rows and columns at a time."""
    factors = factor.split(SUM_ROWS)
    return torch.cat(
        [
            torch.stack([f @ part.float() for part, f in zip(columns.split(SUM_ROWS), factors, strict=True)]).sum(0)
            for columns in rows.split(SUM_COLUMNS if rows.is_cpu else rows.shape[1], 1)
        ]
    )
