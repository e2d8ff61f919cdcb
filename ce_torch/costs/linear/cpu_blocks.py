"""The numbers of a layer on the CPU, and their gradients, by kernels, in float32 or bfloat16 with sums in float32.

The formulas are those of `class_blocks.py`. A tile of zᵀ, some classes of some examples, stays in the processor's cache
between the product that makes it and those that take it. The forward pass takes one product, the backward pass three.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ce_torch.costs._product import product
from ce_torch.costs._softmax import exponents, scale
from ce_torch.costs.kernels import layer_numbers
from ce_torch.costs.kernels.layer_numbers import LANES, TYPES, ColumnSums, Targets, add_numbers, write_gradient
from ce_torch.costs.linear.blocks import Plan, narrow, split
from ce_torch.costs.linear.class_blocks import Statistics, fixed_precision, with_maximum
from ce_torch.costs.linear.cpu_products import Products, empty, in_float32, serial_parts, tile_products, view
from ce_torch.costs.linear.example_blocks import general_refusal, new_gradients
from ce_torch.costs.linear.gradients import Needs
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.memory import TILE_EXAMPLES, tile_classes, tile_memory


def refusal(layer: Layer, plan: Plan) -> str | None:
    """Return why a layer is not computed in this way, or None if it is."""
    if not layer_numbers.supports(layer.x, layer.weight):
        return "there is no kernel"
    if layer.adapter_x is not None:
        return "adapters have no kernel"
    if not plan.has_room(tile_memory, layer.sizes):
        return "tiles take more than max_memory"
    return general_refusal(layer, plan)


class Tile(NamedTuple):
    """Some classes of some examples: zᵀ, its largest numbers, and what desired outputs there are."""

    classes: slice
    examples: slice
    z: Tensor
    m: Tensor
    y: Tensor
    targets: Targets


class Tiles:
    """A layer, with examples of zeros at the end that make their number a multiple of 16."""

    def __init__(self, layer: Layer, plan: Plan) -> None:
        self.layer, self.plan, (N, K, *_) = layer, plan, layer.sizes
        self.missing = -N % LANES
        self.N = N + self.missing
        self.most_classes, self.most_examples = min(K, tile_classes()), min(self.N, TILE_EXAMPLES)
        self.products = tile_products(layer.x, layer.weight, self.most_classes, self.most_examples)
        self.outputs = layer.y if layer.y.is_floating_point() else None
        y = layer.y if self.outputs is None else layer.y.new_full((N,), -1, dtype=torch.int64)
        self.y = self.padded(y)
        self.off_value = None if layer.off_value is None else layer.off_value.float().contiguous()

    def __iter__(self) -> Iterator[Tile]:
        """Yield all tiles, those of the same classes one after the other. Each overwrites the one before."""
        memory, bias = empty(self.most_classes * self.most_examples), self.layer.bias
        bias = None if bias is None else bias.float().contiguous()
        for classes in split(self.layer.sizes.K, self.most_classes):
            self.products.take_classes(classes)
            class_bias = None if bias is None else bias[classes]
            for examples in split(self.N, TILE_EXAMPLES):
                z = view(memory, classes.stop - classes.start, examples.stop - examples.start)
                m = self.products.write_z(z, examples, class_bias)
                yield Tile(classes, examples, z, m, self.y[examples], self.targets(classes, examples))

    def padded(self, numbers: Tensor) -> Tensor:
        """Return numbers of the examples, which come last, with 0 for those that are none."""
        return (pad(numbers, (0, self.missing)) if self.missing else numbers).contiguous()

    def targets(self, classes: slice, examples: slice) -> Targets:
        """Return what desired outputs a tile has beside classes."""
        outputs = None if self.outputs is None else self.outputs[examples, classes]
        if outputs is not None and (outputs.dtype not in TYPES or outputs.stride(1) != 1):
            outputs = in_float32(outputs)
        off_value = None if self.off_value is None else self.off_value[classes]
        return Targets(outputs, off_value, self.plan.c, self.plan.softcap)


@fixed_precision
def numbers(layer: Layer, plan: Plan) -> tuple[Tensor, Statistics, Tensor]:
    """Return C, ℓ and H, shape (3, N); the statistics; and the predictions."""
    tiles, N = Tiles(layer, plan), layer.sizes.N
    sums = torch.zeros(len(ColumnSums._fields), tiles.N, dtype=torch.float32)
    sums[0] = -torch.inf
    prediction = torch.zeros(tiles.N, dtype=torch.int64)
    for tile in tiles:
        add_numbers(
            tile.z, tile.m, tile.y, tile.targets, sums[:, tile.examples], prediction[tile.examples], tile.classes.start
        )
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
    on_value = layer.full(0) if layer.on_value is None else layer.on_value
    sums = TileGradients(layer, needs)
    sums.add_tiles(Tiles(layer, plan), torch.stack([on_value, *statistics, *g.to(layer.dtype)]))
    # The memory of the tiles is free again.
    return sums.totals()


class TileGradients:
    """The needed gradients of x, weight and bias, to which each tile of δᵀ adds its part."""

    def __init__(self, layer: Layer, needs: Needs) -> None:
        self.layer, (N, _, D, *_) = layer, layer.sizes
        # It has a column for each example.
        self.x = torch.zeros(D, N + -N % LANES, dtype=torch.float32) if "x" in needs else None
        self.found = new_gradients(layer, needs & {"weight", "bias"})

    def add_tiles(self, tiles: Tiles, known: Tensor) -> None:
        """Add what all tiles contribute, for what `write_gradient` takes of each example."""
        known = tiles.padded(known)
        weight_memory, bias_memory = empty(tiles.most_classes * tiles.products.width), empty(tiles.most_classes)
        for tile in tiles:
            tiles.products.take_delta(tile.z)
            half = tiles.products.half_delta
            write_gradient(tile.z, half, tile.y, known[:, tile.examples], tile.targets, tile.classes.start)
            weight, bias = view(weight_memory, len(tile.z), tiles.products.width), bias_memory[: len(tile.z)]
            self.add(tile, tiles.products, weight, bias)
            if tile.examples.stop == tiles.N:
                for name, value in (("weight", weight[:, : self.layer.x.shape[1]]), ("bias", bias)):
                    if name in self.found:
                        narrow(self.found[name], tile.classes).copy_(value)

    def add(self, tile: Tile, products: Products, weight: Tensor, bias: Tensor) -> None:
        """Add the part of a tile whose δᵀ the products have taken, those by weight and bias to sums of its classes."""
        is_first = tile.examples.start == 0
        if self.x is not None:
            products.add_to_x(self.x[:, tile.examples])
        if "weight" in self.found:
            products.add_to_weight(weight, tile.examples, beta=0 if is_first else 1)
        if "bias" in self.found:
            for rows in serial_parts(tile.z):
                terms = tile.z[rows].sum(1)
                bias[rows] = terms if is_first else bias[rows] + terms

    def totals(self) -> tuple[Tensor, ...]:
        """Return the gradients in the layer's dtypes, in the order of its fields."""
        if self.x is None:
            return tuple(self.found.values())
        x_gradient = torch.empty_like(self.layer.x, memory_format=torch.contiguous_format)
        return x_gradient.copy_(self.x[:, : len(x_gradient)].mT), *self.found.values()
