"""The numbers of a layer in half precision on a GPU, and their gradients, by the GPU's kernels.

The formulas are those of `class_blocks.py`. The forward pass takes a product for each block of classes. The gradients
take the two passes of `gpu_passes.py`, for which d and δ are the same.
"""

import torch
from torch import Tensor

from ce_torch.costs.kernels import gpu
from ce_torch.costs.kernels.gpu_layout import power_of_2
from ce_torch.costs.kernels.layer_numbers import ColumnSums
from ce_torch.costs.linear.blocks import Plan, split
from ce_torch.costs.linear.class_blocks import Statistics, fixed_precision
from ce_torch.costs.linear.cpu_blocks import total_numbers
from ce_torch.costs.linear.example_blocks import general_refusal
from ce_torch.costs.linear.gpu_half_precision import BLOCK_TILE
from ce_torch.costs.linear.gpu_passes import Kept, Steps, sum_stripes, write_parameter_gradients
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


class Inputs:
    """A layer's tensors as the kernels take them."""

    def __init__(self, layer: Layer, plan: Plan) -> None:
        self.x, self.weight = layer.x.contiguous(), layer.weight.contiguous()
        self.bias = None if layer.bias is None else layer.bias.contiguous()
        has_outputs = layer.y.is_floating_point()
        self.y = None if has_outputs else layer.y.contiguous()
        # Of desired outputs each example has a row of its own.
        t = layer.y if has_outputs else layer.off_value
        self.t, self.t_stride = None if t is None else t.contiguous().view(-1, len(layer.weight)), 0
        if has_outputs:
            self.t_stride = len(layer.weight)
        self.on_value = None if layer.on_value is None else layer.on_value.float().contiguous()
        self.c, self.softcap = gpu.normal(plan.c, torch.float32), plan.softcap or 1.0
        self.constants = {"caps": plan.softcap is not None, "entropy": plan.entropy}

    def targets(self, examples: slice) -> tuple[Tensor | None, Tensor | None]:
        """Return y and t of examples."""
        y = None if self.y is None else self.y[examples]
        return y, self.t[examples] if self.t_stride and self.t is not None else self.t


class Gradients(Inputs, Steps):
    """What makes G of z, for the gradients g (3, N) of the numbers."""

    def __init__(self, g: Tensor, layer: Layer, plan: Plan, statistics: Statistics) -> None:
        super().__init__(layer, plan)
        self.g, self.statistics = g.float().contiguous(), torch.stack(statistics)
        self.constants |= {"logsumexp": plan.logsumexp}

    def write_terms(
        self, terms: Tensor | None, m: Tensor | None, total: Tensor | None, z: Tensor, classes: slice, examples: slice
    ) -> None:
        if terms is not None:
            self.write_delta(terms, z, classes, examples)

    def write_x_gradient(self, gradient: Tensor, total: Tensor, examples: slice) -> None:
        gradient.copy_(total)

    def write_kept_delta(self, delta: Tensor, terms: Tensor, m: Tensor, classes: slice, examples: slice) -> None:
        delta.copy_(terms)

    def write_delta(self, delta: Tensor, z: Tensor, classes: slice, examples: slice) -> None:
        y, t = self.targets(examples)
        on_value = None if self.on_value is None else self.on_value[examples]
        arguments = delta, self.g[:, examples], self.statistics[:, examples], z, self.bias, y, on_value, t
        strides = self.g.stride(0), delta.stride(0), self.t_stride
        grid = -(-z.shape[1] // BLOCK_TILE["tile"]), -(-z.shape[0] // BLOCK_TILE["tile_classes"])
        place = self.c, self.softcap, classes.start, *z.shape, *strides
        gpu.run("block_gradient", z, grid, *arguments, *place, **self.constants, **BLOCK_TILE)


@fixed_precision
def numbers(layer: Layer, plan: Plan) -> tuple[Tensor, Statistics, Tensor]:
    """Return C, ℓ and H, shape (3, N); the statistics; and the predictions."""
    inputs, zero, (N, K, *_) = Inputs(layer, plan), layer.full(0), layer.sizes
    sums = torch.stack([layer.full(-torch.inf), *[zero] * 7])
    prediction = torch.zeros_like(zero, dtype=torch.int64)
    classes = min(K, MOST_CLASSES, max(ELEMENTS // max(N, 1), FEWEST_CLASSES))
    memory = layer.x.new_empty(N * classes, dtype=torch.float32)
    for block in split(K, classes):
        count = block.stop - block.start
        z, tile = memory[: N * count].view(N, count), power_of_2(count)
        gpu.multiply(inputs.x, inputs.weight[block].mT, z)
        place = inputs.c, inputs.softcap, N, block.start, count, count, inputs.t_stride
        arguments = z, inputs.bias, inputs.y, inputs.t, *place
        constants = {**inputs.constants, "tile": tile, "num_warps": max(tile // 1024, 4)}
        gpu.run("block_numbers", z, (N,), sums, prediction, *arguments, **constants)
    return *total_numbers(layer, plan, ColumnSums(*sums)), prediction


@fixed_precision
def gradients(g: Tensor, layer: Layer, plan: Plan, statistics: Statistics, needs: Needs) -> tuple[Tensor, ...]:
    """Return the needed ones of the gradients of Σ g · numbers by x, weight and bias, in this order."""
    steps = Gradients(g, layer, plan, statistics)
    parameters = {"x": steps.x, "weight": steps.weight, "bias": steps.bias}
    found = {
        name: torch.empty_like(tensor) for name, tensor in parameters.items() if name in needs and tensor is not None
    }
    weight_gradient = found.get("weight", steps.weight[:0])
    kept = Kept.within(steps.weight[:0], 0, 0)
    if "x" in found:
        kept = sum_stripes(steps, weight_gradient, found["x"])
    if "weight" in found or "bias" in found:
        write_parameter_gradients(steps, kept, weight_gradient, found.get("bias"))
    return tuple(found.values())
