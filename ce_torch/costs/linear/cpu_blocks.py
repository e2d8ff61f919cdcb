"""The numbers of a layer on the CPU, and their gradients, by kernels that compute in float32.

The formulas are those of `class_blocks.py`. A tile of zᵀ, some classes of some examples, stays in the processor's cache
between the product that makes it and those that take it. The forward pass takes one product, the backward pass three.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from ce_torch.costs._product import product
from ce_torch.costs._softmax import exponents, scale
from ce_torch.costs.kernels import layer_numbers
from ce_torch.costs.kernels.layer_numbers import LANES, ColumnSums, Targets, add_numbers, write_gradient
from ce_torch.costs.kernels.products import add_product, weighted_inputs
from ce_torch.costs.linear.blocks import Plan, narrow, split
from ce_torch.costs.linear.class_blocks import Statistics, fixed_precision, with_maximum
from ce_torch.costs.linear.example_blocks import general_refusal, new_gradients
from ce_torch.costs.linear.gradients import Needs
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.memory import TILE_EXAMPLES, tile_classes, tile_memory

# PyTorch shares out operations on more elements among threads, which wait for one another where cores are busy.
SERIAL_ELEMENTS = (1 << 15) - 1


def refusal(layer: Layer, plan: Plan) -> str | None:
    """Return why a layer is not computed in this way, or None if it is."""
    if not layer_numbers.supports(layer.x, layer.weight):
        return "there is no kernel"
    if layer.adapter_x is not None:
        return "adapters have no kernel"
    if not plan.has_room(tile_memory, layer.sizes):
        return "tiles take more than max_memory"
    return general_refusal(layer, plan)


class Tile:
    """Some classes of some examples: zᵀ, its largest numbers, and what desired outputs there are."""

    def __init__(self, classes: slice, examples: slice, weight: Tensor, z: Tensor, m: Tensor, targets: Targets) -> None:
        self.classes, self.examples, self.weight = classes, examples, weight
        self.z, self.m, self.targets = z, m, targets

    @property
    def is_first(self) -> bool:
        """True for the first examples of the classes."""
        return self.examples.start == 0


class Tiles:
    """A layer in float32, with examples of zeros at the end that make their number a multiple of 16."""

    def __init__(self, layer: Layer, plan: Plan) -> None:
        self.layer, self.plan, N = layer, plan, layer.sizes.N
        self.missing = -N % LANES
        self.N = N + self.missing
        # Zeros follow the examples.
        self.x_transposed = layer.x.new_zeros((layer.x.shape[1], self.N), dtype=torch.float32)
        self.x_transposed[:, :N] = layer.x.mT
        self.y, self.outputs = layer.y, None
        if layer.y.is_floating_point():
            self.y, self.outputs = layer.y.new_full((N,), -1, dtype=torch.int64), layer.y
        self.y = pad(self.y, (0, self.missing)).contiguous()
        self.off_value = None if layer.off_value is None else layer.off_value.float().contiguous()

    def __iter__(self) -> Iterator[Tile]:
        """Yield all tiles, those of the same classes one after the other. Each overwrites the one before."""
        K, N, new = self.layer.sizes.K, self.N, self.x_transposed.new_empty
        most = min(K, tile_classes())
        memory = new(most * min(N, TILE_EXAMPLES))
        is_single = self.layer.weight.dtype == torch.float32
        weight_memory = None if is_single else new((most, self.layer.weight.shape[1]))
        for classes in split(K, most):
            weight = in_float32(narrow(self.layer.weight, classes), weight_memory)
            bias = None if self.layer.bias is None else narrow(self.layer.bias, classes).float().contiguous()
            for examples in split(N, TILE_EXAMPLES):
                x = self.x_transposed[:, examples]
                z = memory[: len(weight) * x.shape[1]].view(len(weight), -1)
                m = weighted_inputs(weight, x, bias, z)
                yield Tile(classes, examples, weight, z, m, self.targets(classes, examples))

    def x(self, examples: slice) -> Tensor:
        """Return the inputs of some examples."""
        return padded(in_float32(self.layer.x[examples]))

    def targets(self, classes: slice, examples: slice) -> Targets:
        outputs = off_value = None
        if self.outputs is not None:
            outputs = narrow(self.outputs[examples], classes, dim=1)
            outputs = padded(outputs if outputs.dtype == torch.float32 else in_float32(outputs))
        if self.off_value is not None:
            off_value = narrow(self.off_value, classes)
        return Targets(outputs, off_value, self.plan.c, self.plan.softcap)


def in_float32(matrix: Tensor, memory: Tensor | None = None) -> Tensor:
    """Return the matrix in float32, contiguous; one of another dtype in this memory, if it is given."""
    if matrix.dtype == torch.float32:
        return matrix.contiguous()
    new = torch.empty_like(matrix, dtype=torch.float32, memory_format=torch.contiguous_format)
    result = new if memory is None else memory[: len(matrix)]
    for rows in serial_parts(matrix):
        result[rows] = matrix[rows]
    return result


def serial_parts(matrix: Tensor) -> Iterator[slice]:
    """Yield rows of a matrix on which PyTorch works in one thread, if a row is not too long."""
    return split(len(matrix), SERIAL_ELEMENTS // max(matrix.shape[1], 1))


def padded(rows: Tensor) -> Tensor:
    """Return the rows, and rows of zeros up to a multiple of 16."""
    missing = -len(rows) % LANES
    return rows if missing == 0 else pad(rows, (0, 0, 0, missing))


@fixed_precision
def numbers(layer: Layer, plan: Plan) -> tuple[Tensor, Statistics, Tensor]:
    """Return C, ℓ and H, shape (3, N); the statistics; and the predictions."""
    tiles = Tiles(layer, plan)
    sums = tiles.x_transposed.new_zeros((len(ColumnSums._fields), tiles.N))
    sums[0] = -torch.inf
    prediction = torch.zeros_like(sums[0], dtype=torch.int64)
    for tile in tiles:
        y, outputs = tiles.y[tile.examples], (sums[:, tile.examples], prediction[tile.examples])
        add_numbers(tile.z, tile.m, y, tile.targets, *outputs, tile.classes.start)
    N = layer.sizes.N
    return *total_numbers(layer, plan, ColumnSums(*sums[:, :N])), prediction[:N]


def total_numbers(layer: Layer, plan: Plan, sums: ColumnSums) -> tuple[Tensor, Statistics]:
    """Return C, ℓ and H, shape (3, N), and the statistics, of what kernels have added up over all classes."""
    on_value = layer.full(0) if layer.on_value is None else layer.on_value
    T = sums.T + on_value
    m, r = with_maximum(sums.phi, sums.others + (sums.ones - 1), T)
    ln = r.log1p()
    # Without classes y, on_value is 0.
    t_x = sums.t_x + product(on_value, exponents(sums.phi_y, m, plan.c))
    H = ln - sums.e_x / (1 + r) if plan.entropy else layer.full(0)
    return torch.stack([product(T, ln) - t_x, scale(plan.c, m) + ln, H]), Statistics(m, r, T, H)


@fixed_precision
def gradients(g: Tensor, layer: Layer, plan: Plan, statistics: Statistics, needs: Needs) -> tuple[Tensor, ...]:
    """Return the needed ones of the gradients of Σ g · numbers by x, weight and bias, in this order."""
    tiles = Tiles(layer, plan)
    on_value = layer.full(0) if layer.on_value is None else layer.on_value
    known = pad(torch.stack([on_value, *statistics, *g.to(layer.dtype)]), (0, tiles.missing)).contiguous()
    x_gradient = torch.zeros_like(tiles.x_transposed) if "x" in needs else None
    found = new_gradients(layer, needs & {"weight", "bias"})
    new = tiles.x_transposed.new_zeros
    weight_memory, bias_sum = new((min(tile_classes(), len(layer.weight)), layer.x.shape[1])), new(0)
    for tile in tiles:
        examples, x = tile.examples, tiles.x(tile.examples)
        weight_sum = weight_memory[: len(tile.weight)]
        write_gradient(tile.z, tiles.y[examples], known[:, examples], tile.targets, tile.classes.start)
        if tile.is_first:
            bias_sum = new(len(tile.weight))
        if x_gradient is not None:
            add_product(tile.weight.mT, tile.z, x_gradient[:, examples])
        if "weight" in found:
            add_product(tile.z, x, weight_sum, beta=0 if tile.is_first else 1)
        if "bias" in found:
            for rows in serial_parts(tile.z):
                bias_sum[rows] += tile.z[rows].sum(1)
        if examples.stop == tiles.N:
            for name, value in (("weight", weight_sum), ("bias", bias_sum)):
                if name in found:
                    narrow(found[name], tile.classes).copy_(value)
    parameters = tuple(found.values())
    if x_gradient is None:
        return parameters
    return x_gradient[:, : len(layer.x)].mT.to(layer.x.dtype).contiguous(), *parameters
