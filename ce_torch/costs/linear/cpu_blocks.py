"""The numbers of a layer on the CPU, and their gradients, by kernels, in float32 or bfloat16 with sums in float32.

The formulas are those of `class_blocks.py`. The forward pass takes one product, the backward pass three.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from ce_torch.costs._product import product
from ce_torch.costs._softmax import exponents, scale
from ce_torch.costs.kernels import layer_numbers
from ce_torch.costs.kernels.layer_numbers import (
    CAPPED,
    EXPONENTIALS,
    TYPES,
    ColumnSums,
    Targets,
    Z,
    add_gradients,
    add_numbers,
)
from ce_torch.costs.kernels.products import address
from ce_torch.costs.linear.blocks import Plan, copy_serially, narrow, split
from ce_torch.costs.linear.class_blocks import Statistics, fixed_precision, with_maximum
from ce_torch.costs.linear.cpu_tiles import Tangents, Tiles, empty
from ce_torch.costs.linear.example_blocks import Gradients, general_refusal, new_gradients
from ce_torch.costs.linear.gradients import PARAMETERS, Needs
from ce_torch.costs.linear.held import HeldGradients, KeptTiles
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.memory import TILE_EXAMPLES, tile_memory

# φ(z) of larger c κ are rounded more than exponentials, to fewer than 10 bits.
LARGEST_CAPPED = 32
# Parts of fewer examples take longer, since each of them reads the weight.
PART_EXAMPLES = 1024


def refusal(layer: Layer, plan: Plan) -> str | None:
    """Return why a layer is not computed in this way, or None if it is."""
    if not layer_numbers.supports(layer.x, layer.weight):
        return "there is no kernel"
    if layer.adapter_x is not None:
        return "adapters have no kernel"
    if not plan.has_room(tile_memory, layer.sizes):
        return "tiles take more than max_memory"
    return general_refusal(layer, plan)


class LayerTiles(Tiles):
    """The tiles of a layer with its desired outputs, the first of which may be kept for the backward pass."""

    def __init__(self, layer: Layer, plan: Plan) -> None:
        super().__init__(layer.x, layer.weight, layer.bias)
        N, arguments = len(layer.x), self.arguments
        self.outputs = layer.y if layer.y.is_floating_point() else None
        self.y = self.padded(layer.y if self.outputs is None else layer.y.new_full((N,), -1, dtype=torch.int64))
        self.off_value = None if layer.off_value is None else layer.off_value.float().contiguous()
        arguments.kept_kind = self.kept_kind = kept_kind(layer, plan) if self.has_pairs else Z
        self.kept: KeptTiles | None = None
        self.m = empty(self.most_examples)
        arguments.y, arguments.m = address(self.y), address(self.m)
        arguments.c, arguments.softcap = plan.c, plan.softcap or 0.0
        if self.outputs is not None:
            steps = self.outputs.stride()
            arguments.targets = Targets(None, None, N, *steps, TYPES[self.outputs.dtype])

    def classes(self) -> Iterator[slice]:
        arguments = self.arguments
        for classes in super().classes():
            arguments.targets.outputs = None if self.outputs is None else address(self.outputs[:, classes])
            arguments.targets.off_value = None if self.off_value is None else address(self.off_value[classes])
            if self.kept is not None:
                memory, phi, _ = self.kept
                arguments.kept = memory[classes].data_ptr()
                arguments.kept_phi = address(None if phi is None else phi[classes.start // self.most_classes])
            yield classes

    @property
    def room(self) -> int:
        """How many tiles of the same classes have room in the gradient by weight."""
        size = self.z.itemsize if self.kept_kind == Z else 2
        return self.D * self.weight.itemsize // (self.most_examples * size)

    def keep(self, kept: KeptTiles, is_there: bool) -> None:
        """Let the first tiles be in this memory, in the rows of their classes."""
        self.kept, self.arguments.kept_tiles, self.arguments.has_kept = kept, self.room, is_there
        self.known = self.room * self.most_examples if is_there else 0

    def new_kept(self) -> KeptTiles:
        """Return memory for the first tiles."""
        memory = torch.empty_like(self.weight, memory_format=torch.contiguous_format)
        blocks, examples = math.ceil(len(self.weight) / self.most_classes), min(self.room * self.most_examples, self.N)
        phi = empty(blocks, examples) if self.kept_kind == EXPONENTIALS else None
        return KeptTiles(memory, phi, self.most_classes)

    def take(self, held: HeldGradients) -> Tensor | None:
        """Return the memory that holds the first tiles, to whose place their gradients may come, or None."""
        kept, held.tiles = held.tiles, None
        if kept is None or kept.classes != self.most_classes:
            return None
        self.keep(kept, is_there=True)
        return kept.memory

    def padded(self, numbers: Tensor) -> Tensor:
        """Return numbers of the examples, which come last, with 0 for those that are none."""
        return (pad(numbers, (0, self.missing)) if self.missing else numbers).contiguous()


def kept_kind(layer: Layer, plan: Plan) -> int:
    """Return what of a tile in bfloat16 waits for the backward pass: in 16 bits, where they add no error to its own."""
    if plan.entropy or layer.y.is_floating_point():
        return Z
    if plan.softcap is None:
        return EXPONENTIALS
    return CAPPED if plan.c * plan.softcap <= LARGEST_CAPPED else Z


def parts(layer: Layer) -> list[slice]:
    """Return the examples of each part of the layer, whose x, and its gradient, are in memory as columns at a time.

    There are several where the gradient of the weight, which they add up in float32, takes less memory than that.
    """
    N, K, D, *_ = layer.sizes
    # What waits belongs to the first part.
    count = max(PART_EXAMPLES, D + -D % TILE_EXAMPLES)
    return [*split(N, count if 2 * max(K, count) <= N else N)]


@fixed_precision
def numbers(layer: Layer, plan: Plan, held: HeldGradients | None = None) -> tuple[Tensor, Statistics, Tensor]:
    """Return C, ℓ and H, shape (3, N); the statistics; and the predictions. Leave some tiles to `held`."""
    found = [part_numbers(layer.examples(part), plan, None if part.start else held) for part in parts(layer)]
    if len(found) == 1:
        return found[0]
    costs, statistics, predictions = zip(*found, strict=True)
    statistics = Statistics(*map(torch.cat, zip(*statistics, strict=True)))
    return torch.cat(costs, -1), statistics, torch.cat(predictions)


def part_numbers(layer: Layer, plan: Plan, held: HeldGradients | None) -> tuple[Tensor, Statistics, Tensor]:
    """Return the numbers of a part."""
    tiles, N = LayerTiles(layer, plan), layer.sizes.N
    if held is not None and tiles.room > 0:
        held.tiles = tiles.new_kept()
        tiles.keep(held.tiles, is_there=False)
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
    known = torch.stack([*example_numbers(layer, statistics), *g.to(layer.dtype)])
    tiles = LayerTiles(layer.examples(parts(layer)[0]), plan)
    kept = None if held is None else tiles.take(held)
    return add_parts(layer, plan, known, needs, tiles, kept)


def example_numbers(layer: Layer, statistics: Statistics) -> tuple[Tensor, ...]:
    """Return the numbers of each example that all kernels of derivatives take."""
    return layer.full(0) if layer.on_value is None else layer.on_value, *statistics


def add_parts(
    layer: Layer,
    plan: Plan,
    known: Tensor,
    needs: Needs,
    tiles: LayerTiles,
    kept: Tensor | None = None,
    tangent: Callable[[slice], Tangents] | None = None,
) -> tuple[Tensor, ...]:
    """Return the needed gradients, or how they change along a tangent of each part, from numbers of each example.

    The tiles are those of the first part. The gradient by weight comes to what is kept of them, if anything is.
    """
    found = new_gradients(layer, needs - {"x"} if kept is None else needs - {"x", "weight"})
    if kept is not None and "weight" in needs:
        found["weight"] = kept
    first, *others = parts(layer)
    sums = new_sums(found, tiles, layer.sizes.K if others else tiles.most_classes)
    for part in (first, *others):
        part_tiles = tiles if part is first else LayerTiles(layer.examples(part), plan)
        part_tangent = None if tangent is None else tangent(part)
        add_columns(found, layer, part, add_part(found, sums, part, part_tiles, known, needs, part_tangent))
    return tuple(found[name] for name in PARAMETERS if name in found)


def add_columns(found: Gradients, layer: Layer, part: slice, columns: Tensor | None) -> None:
    """Write columns, if there are any, to the gradient by x, whose memory comes when that of the tiles has gone."""
    if columns is None:
        return
    if "x" not in found:
        found["x"] = torch.empty_like(layer.x, memory_format=torch.contiguous_format)
    copy_serially(columns[:, : part.stop - part.start].mT, found["x"][part])


def new_sums(found: Gradients, tiles: Tiles, classes: int) -> Gradients:
    """Return memory for sums of so many rows of the gradients by weight and bias, as far as they are needed."""
    shapes = {"weight": (classes, tiles.width), "bias": (classes,)}
    return {name: empty(*shape) for name, shape in shapes.items() if name in found}


def add_part(
    found: Gradients,
    sums: Gradients,
    part: slice,
    tiles: LayerTiles,
    known: Tensor,
    needs: Needs,
    tangent: Tangents | None = None,
) -> Tensor | None:
    """Return the gradient by x of some examples, a column for each; add those by weight and bias to the sums.

    They come from the numbers that a kernel takes of each example. The last part writes the sums as gradients.
    """
    memory = tiles.gradient_memory(needs) | {"numbers": tiles.padded(known[:, part])}
    arguments = tiles.gradient_arguments(memory)
    arguments.has_weight = part.start > 0
    # The statistics hold the largest numbers.
    tiles.arguments.m = None
    add = add_gradients if tangent is None else tangent.adding(memory)
    for classes in tiles.classes():
        rows = {
            name: narrow(total, classes) if len(total) == len(tiles.weight) else total for name, total in sums.items()
        }
        arguments.weight, arguments.bias = (address(rows.get(name)) for name in ("weight", "bias"))
        add(tiles.arguments, arguments)
        if part.stop < known.shape[1]:
            continue
        for name, total in rows.items():
            gradient = narrow(found[name], classes)
            value = total[: len(gradient)]
            gradient.copy_(value) if name == "bias" else copy_serially(value[:, : tiles.D], gradient)
    if part.stop == known.shape[1]:
        # The gradient by x comes to their place.
        sums.clear()
    return memory.get("x")
