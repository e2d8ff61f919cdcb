"""A layer on the CPU as the kernels take it, by tiles of zᵀ, in float32 or bfloat16 with sums in float32.

A tile, some classes of some examples, stays in the processor's cache between the product that makes it and those that
take it. In bfloat16 the products are of pairs, two numbers that follow one another in a sum.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from ce_torch.costs.kernels.layer_numbers import LANES, TiledGradients, TiledLayer, add_gradient_changes
from ce_torch.costs.kernels.products import address, transpose_rows
from ce_torch.costs.linear.blocks import copy_serially, narrow, split
from ce_torch.costs.linear.gradients import Needs
from ce_torch.costs.linear.memory import TILE_EXAMPLES, tile_classes


class Tiles:
    """A layer by tiles, with examples of zeros at the end that make their number a multiple of 16."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        (N, self.D), K = x.shape, len(weight)
        self.missing = -N % LANES
        self.N = N + self.missing
        self.most_classes, self.most_examples = min(K, tile_classes()), min(self.N, TILE_EXAMPLES)
        self.has_pairs = x.dtype == torch.bfloat16 and self.D % 2 == 0
        self.x, self.weight = paired(x) if self.has_pairs else x.contiguous(), weight
        # Of so many examples, the first ones, z need not be computed.
        self.known = 0
        self.weight_memory = None if self.has_pairs else empty(self.most_classes * self.D)
        self.bias = None if bias is None else bias.float().contiguous()
        self.z = empty(max(self.most_classes, self.width // 2) * self.most_examples)
        self.arguments = TiledLayer(
            z=address(self.z),
            inner=self.D // 2 if self.has_pairs else self.D,
            examples=self.N,
            tile_examples=self.most_examples,
            has_pairs=self.has_pairs,
            threads=torch.get_num_threads(),
        )

    def classes(self) -> Iterator[slice]:
        """Yield the classes of some tiles, which `arguments` then hold."""
        arguments, rows = self.arguments, self.x.view(torch.int32) if self.has_pairs else self.x
        columns = tile_columns(rows[self.known :], max(self.N - self.known, 0), self.most_examples)
        arguments.x = address(columns)
        for classes in split(len(self.weight), self.most_classes):
            weight = narrow(self.weight, classes)
            weight = weight.contiguous() if self.has_pairs else in_float32(weight, self.weight_memory)
            arguments.weight = address(weight)
            arguments.bias = None if self.bias is None else address(self.bias[classes])
            arguments.first_class, arguments.classes = classes.start, len(weight)
            yield classes

    @property
    def width(self) -> int:
        """The length of a row of the gradient by weight, as the kernels write it."""
        return self.D + -self.D % LANES

    def gradient_memory(self, needs: Needs) -> dict[str, Tensor]:
        """Return the gradient by x, of zeros, with a column for each example; and what the products are of."""
        classes, examples, width = self.most_classes, self.most_examples, self.width
        memory = {}
        if "x" in needs:
            memory["x"] = torch.zeros(self.D, self.N, dtype=torch.float32)
        if "weight" in needs:
            memory["rows"] = self.x if self.has_pairs else padded_rows(self.x, self.N, width)
        if self.has_pairs:
            memory["narrowed"] = empty(classes * examples, dtype=torch.bfloat16)
            memory["pairs"] = empty((classes + 1) // 2 * examples, dtype=torch.int32)
            memory["weight_pairs"] = empty((classes + 1) // 2 * width, dtype=torch.int32)
        return memory

    def gradient_arguments(self, memory: dict[str, Tensor]) -> TiledGradients:
        """Return the gradients, and what they come from, as the kernels take them."""
        addresses = {name: address(tensor) for name, tensor in memory.items()}
        return TiledGradients(**addresses, inputs=self.D, width=self.width, examples=len(self.x))


class Tangents(Tiles):
    """Changes of x, weight and bias, each of which may be none, by the tiles of their layer."""

    def __init__(
        self, x: Tensor, weight: Tensor, x_change: Tensor | None, weight_change: Tensor | None, bias: Tensor | None
    ) -> None:
        # What does not change lends its shape.
        super().__init__(x if x_change is None else x_change, weight if weight_change is None else weight_change, bias)
        self.has_x, self.has_weight = x_change is not None, weight_change is not None
        self.known = 0 if self.has_x else self.N
        # The kernels' arguments hold addresses of these tensors.
        self.memory: dict[str, Tensor] = {}

    def classes(self) -> Iterator[slice]:
        for classes in super().classes():
            if not self.has_x:
                self.arguments.x = None
            if not self.has_weight:
                self.arguments.weight = None
            yield classes

    def adding(self, memory: dict[str, Tensor]) -> Callable[[TiledLayer, TiledGradients], None]:
        """Return what adds to the gradients of some classes how they change, block by block.

        The memory is that of the gradients. `crossed` are δ Ẇ and δᵀ ẋ, which go to the same gradients as δ̇ W and δ̇ᵀ x.
        """
        blocks = self.classes()
        if self.has_pairs:
            self.memory = {name: memory[name] for name in ("narrowed", "pairs")}
            self.memory["weight_pairs"] = torch.empty_like(memory["weight_pairs"])
        if "rows" in memory and self.has_x:
            self.memory["rows"] = self.x if self.has_pairs else padded_rows(self.x, self.N, self.width)
        crossed = self.gradient_arguments(self.memory)

        def add(layer: TiledLayer, gradients: TiledGradients) -> None:
            next(blocks)
            crossed.x = gradients.x if self.has_weight else None
            crossed.weight = gradients.weight if self.has_x else None
            add_gradient_changes(layer, self.arguments, gradients, crossed)

        return add


def tile_columns(rows: Tensor, columns: int, length: int) -> Tensor:
    """Return the rows as columns, as many with 0 for those that are none: a matrix for each tile of this length."""
    is_paired, inner = rows.dtype == torch.int32, rows.shape[1]
    found = empty(columns * inner, dtype=torch.int32 if is_paired else torch.float32)
    for tile in split(columns, length):
        part = rows[tile] if is_paired else in_float32(rows[tile])
        transpose_rows(part, found[tile.start * inner : tile.stop * inner].view(inner, -1))
    return found


def paired(x: Tensor) -> Tensor:
    """Return x, contiguous, from an address on at which a pair can be."""
    x = x.contiguous()
    return x.clone() if x.storage_offset() % 2 else x


def padded_rows(x: Tensor, rows: int, columns: int) -> Tensor:
    """Return x in float32, with zeros for more rows and columns."""
    missing = columns - x.shape[1], rows - len(x)
    return pad(in_float32(x), (0, missing[0], 0, missing[1])) if any(missing) else in_float32(x)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cpu")


def in_float32(matrix: Tensor, memory: Tensor | None = None) -> Tensor:
    """Return the matrix in float32, contiguous; one of another dtype in this memory, if it is given."""
    if matrix.dtype == torch.float32:
        return matrix.contiguous()
    memory = empty(matrix.numel()) if memory is None else memory
    return copy_serially(matrix, memory[: matrix.numel()].view(matrix.shape))
