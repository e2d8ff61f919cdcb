"""The cost of a layer in bfloat16 for classes y, and its gradients, without z and each rounded once.

Two passes work out z, and make two products each. The first goes over all classes of a stripe of examples, and makes
the sums and the gradient of x; the second over all examples of a part of the classes, and makes those of weight and
bias. So no gradient needs a sum in float32 of its own size. In notation of `example_blocks`,

    δⱼ = g (T eⱼ / s − off_valueⱼ),  and  g ((T − on_value) e_y − on_value Σ e of the others) / s  − g off_value_y  at y
"""

import torch
from torch import Tensor

from ce_torch.costs._product import product
from ce_torch.costs._softmax import exponents
from ce_torch.costs.kernels.half_products import half_gradients, half_sums
from ce_torch.costs.linear.layer import Layer


def add_gradients(gradients: dict[str, Tensor], layer: Layer, factor: Tensor, c: float) -> Tensor:
    """Return C of each example, and write the gradients of Σ factor · C."""
    x, weight, y = layer.x.contiguous(), layer.weight.contiguous(), layer.y.contiguous()
    bias = None if layer.bias is None else layer.bias.contiguous()
    assert layer.on_value is not None
    on_value, factor = layer.on_value.float().contiguous(), factor.float().contiguous()
    off_value, off_weight, off_bias, off_total = None, None, 0.0, 0.0
    if layer.off_value is not None:
        off_value = layer.off_value.float().contiguous()
        off_weight, off_total = weighted_sum(weight, off_value), off_value.sum().item()
        off_bias = 0.0 if bias is None else product(off_value, bias.float()).sum()
    target = factor, on_value, off_total, off_weight
    m, others, z_y = half_sums(x, weight, bias, y, c, target, gradients.get("x"))
    x_y = exponents(z_y, m, c)
    e_y, T = x_y.exp(), on_value + off_total
    s = others + e_y
    if "weight" in gradients or "bias" in gradients:
        g = c * factor
        delta_y = product(g, (off_total * e_y - on_value * others) / s)
        delta = m, product(g, T / s), delta_y, g, off_value
        half_gradients(x, weight, bias, y, c, delta, gradients.get("weight"), gradients.get("bias"))
    t_x = product(on_value, x_y)
    if off_weight is not None:
        t_x = t_x + c * (weighted_sum(x.mT, off_weight) + off_bias - off_total * m)
    return product(T, (others + x_y.expm1()).log1p()) - t_x


def weighted_sum(rows: Tensor, factor: Tensor) -> Tensor:
    """Return Σⱼ factorⱼ rowsⱼ in float32, of a part of the rows at a time."""
    blocks = zip(rows.split(SUM_ROWS), factor.split(SUM_ROWS), strict=True)
    return torch.stack([block_factor @ block.float() for block, block_factor in blocks]).sum(0)


SUM_ROWS = 1024
