"""The numbers of a layer on the CPU, and their gradients, by kernels, in float32 or bfloat16 with sums in float32.

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
from ce_torch.costs.kernels.layer_numbers import (
    LANES,
    TYPES,
    ColumnSums,
    Targets,
    TiledGradients,
    TiledLayer,
    add_gradients,
    add_numbers,
)
from ce_torch.costs.kernels.products import address, transpose_rows
from ce_torch.costs.linear.blocks import Plan, narrow, split
from ce_torch.costs.linear.class_blocks import Statistics, fixed_precision, with_maximum
from ce_torch.costs.linear.cpu_products import empty, in_float32, view
from ce_torch.costs.linear.example_blocks import general_refusal, new_gradients
from ce_torch.costs.linear.gradients import Needs
from ce_torch.costs.linear.held import HeldGradients
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


class Tiles:
    """A layer as the kernels take it, with examples of zeros at the end that make their number a multiple of 16."""

    def __init__(self, layer: Layer, plan: Plan) -> None:
        self.layer, (N, K, D, *_) = layer, layer.sizes
        self.missing = -N % LANES
        self.N = N + self.missing
        self.most_classes, self.most_examples = min(K, tile_classes()), min(self.N, TILE_EXAMPLES)
        # In bfloat16 the products are of pairs of numbers.
        self.has_pairs = layer.x.dtype == torch.bfloat16 and D % 2 == 0
        self.x = layer.x.contiguous()
        self.x_columns = tile_columns(
            self.x.view(torch.int32) if self.has_pairs else self.x, self.N, self.most_examples
        )
        self.weight_memory = None if self.has_pairs else empty(self.most_classes * D)
        self.bias = None if layer.bias is None else layer.bias.float().contiguous()
        self.outputs = layer.y if layer.y.is_floating_point() else None
        y = layer.y if self.outputs is None else layer.y.new_full((N,), -1, dtype=torch.int64)
        self.y = self.padded(y)
        self.off_value = None if layer.off_value is None else layer.off_value.float().contiguous()
        self.kept: Tensor | None = None
        self.z, self.m = empty(self.most_classes * self.most_examples), empty(self.most_examples)
        self.arguments = TiledLayer(
            x=address(self.x_columns),
            y=address(self.y),
            z=address(self.z),
            m=address(self.m),
            inner=len(self.x_columns) // self.N,
            examples=self.N,
            tile_examples=self.most_examples,
            c=plan.c,
            softcap=plan.softcap or 0.0,
            has_pairs=self.has_pairs,
            threads=torch.get_num_threads(),
        )
        if self.outputs is not None:
            steps = self.outputs.stride()
            self.arguments.targets = Targets(None, None, N, *steps, TYPES[self.outputs.dtype])

    def classes(self) -> Iterator[slice]:
        """Yield the classes of some tiles, which `arguments` then hold."""
        arguments = self.arguments
        for classes in split(self.layer.sizes.K, self.most_classes):
            weight = narrow(self.layer.weight, classes)
            weight = weight.contiguous() if self.has_pairs else in_float32(weight, self.weight_memory)
            arguments.weight = address(weight)
            arguments.bias = None if self.bias is None else address(self.bias[classes])
            arguments.targets.outputs = None if self.outputs is None else address(self.outputs[:, classes])
            arguments.targets.off_value = None if self.off_value is None else address(self.off_value[classes])
            arguments.kept = None if self.kept is None else self.kept[classes].data_ptr()
            arguments.first_class, arguments.classes = classes.start, len(weight)
            yield classes

    @property
    def room(self) -> int:
        """How many tiles of the same classes have room for their z in the gradient by weight."""
        weight = self.layer.weight
        return weight.shape[1] * weight.itemsize // (self.most_examples * self.z.itemsize)

    def keep(self, gradient: Tensor, is_there: bool) -> None:
        """Let z of the first tiles be in the memory of the gradient by weight, in the rows of their classes."""
        self.kept, self.arguments.kept_tiles, self.arguments.has_kept = gradient, self.room, is_there

    def take(self, held: HeldGradients) -> Tensor | None:
        """Return the memory that holds z of the first tiles, to whose place their gradients may come, or None."""
        memory, held.z = held.z, None
        if memory is None or held.tile_classes != self.most_classes:
            return None
        self.keep(memory, is_there=True)
        return memory

    def padded(self, numbers: Tensor) -> Tensor:
        """Return numbers of the examples, which come last, with 0 for those that are none."""
        return (pad(numbers, (0, self.missing)) if self.missing else numbers).contiguous()


def tile_columns(rows: Tensor, columns: int, length: int) -> Tensor:
    """Return the rows as columns, as many with 0 for those that are none: a matrix for each tile of this length."""
    is_paired, inner = rows.dtype == torch.int32, rows.shape[1]
    found = empty(columns * inner, torch.int32 if is_paired else torch.float32)
    for tile in split(columns, length):
        part = rows[tile] if is_paired else in_float32(rows[tile])
        transpose_rows(part, found[tile.start * inner : tile.stop * inner].view(inner, -1))
    return found


@fixed_precision
def numbers(layer: Layer, plan: Plan, held: HeldGradients | None = None) -> tuple[Tensor, Statistics, Tensor]:
    """Return C, ℓ and H, shape (3, N); the statistics; and the predictions. Leave some of z to `held`."""
    tiles, N = Tiles(layer, plan), layer.sizes.N
    if held is not None and tiles.room > 0:
        held.z, held.tile_classes = new_gradients(layer, frozenset({"weight"}))["weight"], tiles.most_classes
        tiles.keep(held.z, is_there=False)
    sums = torch.zeros(len(ColumnSums._fields), tiles.N, dtype=torch.float32)
    sums[0] = -torch.inf
    prediction = torch.zeros(tiles.N, dtype=torch.int64)
    for _ in tiles.classes():
        add_numbers(tiles.arguments, sums, prediction)
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
def gradients(
    g: Tensor, layer: Layer, plan: Plan, statistics: Statistics, needs: Needs, held: HeldGradients | None = None
) -> tuple[Tensor, ...]:
    """Return the needed ones of the gradients of Σ g · numbers by x, weight and bias, in this order."""
    on_value = layer.full(0) if layer.on_value is None else layer.on_value
    tiles = Tiles(layer, plan)
    found = TileGradients(layer, needs, None if held is None else tiles.take(held))
    found.add(tiles, torch.stack([on_value, *statistics, *g.to(layer.dtype)]))
    del tiles  # its memory is free again
    return found.totals()


class TileGradients:
    """The needed gradients of x, weight and bias, to which tiles of δᵀ add their parts."""

    def __init__(self, layer: Layer, needs: Needs, weight: Tensor | None) -> None:
        self.layer, (N, _, D, *_) = layer, layer.sizes
        # It has a column for each example.
        self.x = torch.zeros(D, N + -N % LANES, dtype=torch.float32) if "x" in needs else None
        own = {"weight", "bias"} if weight is None else {"bias"}
        self.found = new_gradients(layer, needs & own)
        if weight is not None and "weight" in needs:
            self.found = {"weight": weight, **self.found}

    def add(self, tiles: Tiles, known: Tensor) -> None:
        """Add what all tiles contribute, for the numbers that `add_gradients` takes of each example."""
        (N, _, D, *_), classes, examples = self.layer.sizes, tiles.most_classes, tiles.most_examples
        width = D + -D % LANES
        # The gradients of weight and bias by some classes, and what they come from.
        memory = {name: empty(classes * (width if name == "weight" else 1)) for name in self.found}
        memory["numbers"] = tiles.padded(known)
        if self.x is not None:
            memory["x"] = self.x
        if "weight" in self.found:
            memory["rows"] = tiles.x if tiles.has_pairs else padded_rows(tiles.x, tiles.N, width)
        if tiles.has_pairs:
            memory["narrowed"] = empty(classes * examples, torch.bfloat16)
            memory["pairs"] = empty((classes + 1) // 2 * examples, torch.int32)
            memory["x_pairs"] = empty(examples // 2 * width, torch.int32)
            memory["weight_pairs"] = empty((classes + 1) // 2 * width, torch.int32)
        addresses = {name: address(tensor) for name, tensor in memory.items()}
        arguments = TiledGradients(**addresses, inputs=D, width=width, examples=N)
        # The statistics hold the largest numbers.
        tiles.arguments.m = None
        for part in tiles.classes():
            add_gradients(tiles.arguments, arguments)
            count = part.stop - part.start
            for name, gradient in self.found.items():
                value = memory[name][:count] if name == "bias" else view(memory[name], count, width)[:, :D]
                narrow(gradient, part).copy_(value)

    def totals(self) -> tuple[Tensor, ...]:
        """Return the gradients in the layer's dtypes, in the order of its fields."""
        if self.x is None:
            return tuple(self.found.values())
        x_gradient = torch.empty_like(self.layer.x, memory_format=torch.contiguous_format)
        return x_gradient.copy_(self.x[:, : len(x_gradient)].mT), *self.found.values()


def padded_rows(x: Tensor, rows: int, columns: int) -> Tensor:
    """Return x in float32, with zeros for more rows and columns."""
    missing = columns - x.shape[1], rows - len(x)
    return pad(in_float32(x), (0, missing[0], 0, missing[1])) if any(missing) else in_float32(x)
