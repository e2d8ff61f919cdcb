"""The numbers of a layer in half precision on a GPU, and their gradients, by blocks of classes and the GPU's kernels.

The formulas are those of `class_blocks.py`. The forward pass takes one product, the backward pass three: the kernels
write what goes into the last two products in half precision, and the products sum in float32.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ce_torch.costs.kernels import gpu
from ce_torch.costs.kernels.gpu_layout import power_of_2
from ce_torch.costs.kernels.layer_numbers import ColumnSums
from ce_torch.costs.linear.blocks import Plan, split
from ce_torch.costs.linear.class_blocks import Statistics, fixed_precision
from ce_torch.costs.linear.cpu_blocks import total_numbers
from ce_torch.costs.linear.example_blocks import general_refusal
from ce_torch.costs.linear.gpu_half_precision import TILE
from ce_torch.costs.linear.gradients import Needs
from ce_torch.costs.linear.layer import Layer

# Elements of z in a block: enough classes for fast products, and few hundredths of a large layer's z.
ELEMENTS = 1 << 23
FEWEST_CLASSES, MOST_CLASSES = 256, 8192


def refusal(layer: Layer, plan: Plan) -> str | None:
    """Return why a layer is not computed in this way, or None if it is."""
    x, weight = layer.x, layer.weight
    is_half = x.dtype == weight.dtype and x.dtype in (torch.bfloat16, torch.float16)
    if not is_half or x.numel() == 0 or gpu.refusal(x, weight) is not None:
        return "there is no kernel"
    if layer.adapter_x is not None:
        return "adapters have no kernel"
    if plan.max_memory is not None:
        return "max_memory is given, but blocks are of a fixed size"
    return general_refusal(layer, plan)


class Blocks:
    """A layer's tensors as the kernels take them, and z of one block of classes after the other."""

    def __init__(self, layer: Layer, plan: Plan) -> None:
        self.x, self.weight = layer.x.contiguous(), layer.weight.contiguous()
        self.bias = None if layer.bias is None else layer.bias.contiguous()
        has_outputs = layer.y.is_floating_point()
        self.y = None if has_outputs else layer.y.contiguous()
        t = layer.y if has_outputs else layer.off_value
        self.t = None if t is None else t.contiguous()
        self.t_stride = len(layer.weight) if has_outputs else 0
        self.c, self.softcap = gpu.normal(plan.c, torch.float32), plan.softcap
        self.constants = {"caps": plan.softcap is not None, "entropy": plan.entropy}
        N, K, *_ = layer.sizes
        self.classes = min(K, MOST_CLASSES, max(ELEMENTS // max(N, 1), FEWEST_CLASSES))
        self.memory = self.x.new_empty(N * self.classes, dtype=torch.float32)

    def z(self, block: slice) -> Tensor:
        """Return x Wᵀ of a block."""
        z = view(self.memory, len(self.x), block)
        gpu.multiply(self.x, self.weight[block].mT, z)
        return z

    def __iter__(self) -> Iterator[slice]:
        return split(len(self.weight), self.classes)

    def sizes(self, block: slice) -> tuple[float, float, int, int, int, int, int]:
        classes = block.stop - block.start
        return self.c, self.softcap or 1.0, len(self.x), block.start, classes, classes, self.t_stride


@fixed_precision
def numbers(layer: Layer, plan: Plan) -> tuple[Tensor, Statistics, Tensor]:
    """Return C, ℓ and H, shape (3, N); the statistics; and the predictions."""
    blocks, zero = Blocks(layer, plan), layer.full(0)
    sums = torch.stack([layer.full(-torch.inf), *[zero] * 7])
    prediction = torch.zeros_like(zero, dtype=torch.int64)
    for block in blocks:
        z = blocks.z(block)
        inputs = z, blocks.bias, blocks.y, blocks.t, *blocks.sizes(block)
        tile = power_of_2(z.shape[1])
        constants = {**blocks.constants, "tile": tile, "num_warps": max(tile // 1024, 4)}
        gpu.run("block_numbers", z, (len(z),), sums, prediction, *inputs, **constants)
    return *total_numbers(layer, plan, ColumnSums(*sums)), prediction


@fixed_precision
def gradients(g: Tensor, layer: Layer, plan: Plan, statistics: Statistics, needs: Needs) -> tuple[Tensor, ...]:
    """Return the needed ones of the gradients of Σ g · numbers by x, weight and bias, in this order."""
    blocks, x = Blocks(layer, plan), layer.x
    delta_memory = x.new_empty(blocks.memory.shape)
    known, g = torch.stack(statistics), g.float().contiguous()
    on_value = None if layer.on_value is None else layer.on_value.float().contiguous()
    found: dict[str, Tensor] = {}
    if "x" in needs:
        found["x"] = torch.zeros_like(blocks.x, dtype=torch.float32)
    if "weight" in needs:
        found["weight"] = torch.empty_like(blocks.weight)
    if "bias" in needs and blocks.bias is not None:
        found["bias"] = torch.empty_like(blocks.bias)
    for block in blocks:
        z, delta = blocks.z(block), view(delta_memory, len(x), block)
        tile = min(power_of_2(z.shape[1]), TILE)
        inputs = z, blocks.bias, blocks.y, on_value, blocks.t, *blocks.sizes(block)
        constants = {**blocks.constants, "logsumexp": plan.logsumexp, "tile": tile, "num_warps": 4}
        gpu.run("block_gradient", z, (len(z), -(-z.shape[1] // tile)), delta, g, known, *inputs, **constants)
        if "x" in found:
            gpu.multiply(delta, blocks.weight[block], found["x"], adds=True)
        if "weight" in found:
            found["weight"][block] = gpu.product_in_float32(delta.mT, blocks.x)
        if "bias" in found:
            found["bias"][block] = delta.sum(0, dtype=torch.float32)
    return tuple(gradient.to(x.dtype) for gradient in found.values())


def view(memory: Tensor, rows: int, classes: slice) -> Tensor:
    """Return the memory's start as rows of these classes."""
    columns = classes.stop - classes.start
    return memory[: rows * columns].view(rows, columns)
