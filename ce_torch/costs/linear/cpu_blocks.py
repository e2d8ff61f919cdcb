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
from ce_torch.costs.linear.class_blocks import Statistics, fixed_precision
from ce_torch.costs.linear.example_blocks import general_refusal
from ce_torch.costs.linear.gradients import Needs
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.memory import TILE_CLASSES, TILE_EXAMPLES, by_tiles

# PyTorch shares out operations on more elements among threads, which wait for one another where cores are busy.
SERIAL_ELEMENTS = (1 << 15) - 1


def refusal(layer: Layer, plan: Plan) -> str | None:
    """Return why a layer is not computed in this way, or None if it is."""
    if not layer_numbers.supports(layer.x, layer.weight):
        return "there is no kernel"
    if layer.adapter_x is not None:
        return "adapters have no kernel"
    if not plan.has_room(by_tiles, layer.sizes):
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
            self.y, self.outputs = torch.full((N,), -1), layer.y
        self.y = pad(self.y, (0, self.missing)).contiguous()
        self.off_value = None if layer.off_value is None else layer.off_value.float().contiguous()

    def __iter__(self) -> Iterator[Tile]:
        """Yield all tiles, those of the same classes one after the other. Each overwrites the one before."""
        K, N = self.layer.sizes.K, self.N
        memory = self.x_transposed.new_empty(min(K, TILE_CLASSES) * min(N, TILE_EXAMPLES))
        for classes in split(K, TILE_CLASSES):
            weight = in_float32(narrow(self.layer.weight, classes))
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


def in_float32(matrix: Tensor) -> Tensor:
    """Return the matrix in float32, contiguous."""
    if matrix.dtype == torch.float32:
        return matrix.contiguous()
    result = torch.empty(matrix.shape)
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
    sums = torch.zeros((len(ColumnSums._fields), tiles.N))
    sums[0] = -torch.inf
    prediction = torch.zeros(tiles.N, dtype=torch.int64)
    for tile in tiles:
        of_tile = tile.examples
        y, outputs = tiles.y[of_tile], (sums[:, of_tile], prediction[of_tile])
        add_numbers(tile.z, tile.m, y, tile.targets, *outputs, tile.classes.start)
    N = layer.sizes.N
    found = ColumnSums(*sums[:, :N])
    m, r, t_x, T = found.phi, found.others + (found.ones - 1), found.t_x, found.T
    ln = r.log1p()
    if layer.on_value is not None:
        t_x = t_x + product(layer.on_value, exponents(found.phi_y, m, plan.c))
        T = T + layer.on_value
    H = ln - found.e_x / (1 + r) if plan.entropy else layer.full(0)
    return torch.stack([product(T, ln) - t_x, scale(plan.c, m) + ln, H]), Statistics(m, r, T, H), prediction[:N]


@fixed_precision
def gradients(g: Tensor, layer: Layer, plan: Plan, statistics: Statistics, needs: Needs) -> tuple[Tensor, ...]:
    """Return the needed ones of the gradients of Σ g · numbers by x, weight and bias, in this order."""
    tiles = Tiles(layer, plan)
    on_value = layer.full(0) if layer.on_value is None else layer.on_value
    known = pad(torch.stack([on_value, *statistics, *g.to(layer.dtype)]), (0, tiles.missing)).contiguous()
    by_x = torch.zeros_like(tiles.x_transposed) if "x" in needs else None
    by_weight = torch.empty_like(layer.weight, memory_format=torch.contiguous_format) if "weight" in needs else None
    by_bias = torch.empty_like(layer.bias) if "bias" in needs and layer.bias is not None else None
    weight_memory, bias_sum = torch.empty((min(TILE_CLASSES, len(layer.weight)), layer.x.shape[1])), torch.empty(0)
    for tile in tiles:
        of_tile, x = tile.examples, tiles.x(tile.examples)
        weight_sum = weight_memory[: len(tile.weight)]
        write_gradient(tile.z, tiles.y[of_tile], known[:, of_tile], tile.targets, tile.classes.start)
        if tile.is_first:
            bias_sum = torch.zeros(len(tile.weight))
        if by_x is not None:
            add_product(tile.weight.mT, tile.z, by_x[:, of_tile])
        if by_weight is not None:
            add_product(tile.z, x, weight_sum, beta=0 if tile.is_first else 1)
        if by_bias is not None:
            for rows in serial_parts(tile.z):
                bias_sum[rows] += tile.z[rows].sum(1)
        if of_tile.stop == tiles.N:
            for whole, value in ((by_weight, weight_sum), (by_bias, bias_sum)):
                if whole is not None:
                    narrow(whole, tile.classes).copy_(value)
    found = None if by_x is None else by_x[:, : len(layer.x)].mT.to(layer.x.dtype).contiguous(), by_weight, by_bias
    return tuple(gradient for gradient in found if gradient is not None)
