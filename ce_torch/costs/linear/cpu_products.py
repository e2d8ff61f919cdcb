"""The products that tiles of zᵀ come from and go into, on the CPU: in float32, or of pairs of numbers in bfloat16.

A tile is some classes of some examples. Its products are W xᵀ, which is zᵀ, and Wᵀ δᵀ and δᵀ x, which belong to the
gradients of x and W. Tiles have a multiple of 16 columns; the last ones may stand for no example.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from ce_torch.costs.kernels.layer_numbers import LANES
from ce_torch.costs.kernels.products import add_product, pair_rows, transpose_rows, weighted_inputs
from ce_torch.costs.linear.blocks import narrow, split

# PyTorch shares out operations on more elements among threads, which wait for one another where cores are busy.
SERIAL_ELEMENTS = (1 << 15) - 1


class TransposedRows:
    """The examples of each tile as columns, which all tiles of these examples share."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.tiles = rows, dict[int, Tensor]()

    def tile(self, examples: slice, columns: int) -> Tensor:
        """Return the examples as the first of so many columns; what is missing is 0."""
        if examples.start not in self.tiles:
            rows = self.rows[examples]
            rows = rows if rows.dtype == torch.int32 else in_float32(rows)
            self.tiles[examples.start] = torch.empty(rows.shape[1], columns, dtype=rows.dtype, device="cpu")
            transpose_rows(rows, self.tiles[examples.start])
        return self.tiles[examples.start]


class SingleProducts:
    """The products in float32."""

    def __init__(self, x: Tensor, weight: Tensor, classes: int, examples: int) -> None:
        self.x, self.all_classes, D = x, weight, x.shape[1]
        # The length of the rows that δᵀ x takes.
        self.width = D
        self.x_columns = TransposedRows(x)
        self.memory = None if weight.dtype == torch.float32 else empty(classes * D)

    def take_classes(self, classes: slice) -> None:
        """Make the tiles that follow those of these classes."""
        self.weight = in_float32(narrow(self.all_classes, classes), self.memory)

    def write_z(self, z: Tensor, examples: slice, bias: Tensor | None) -> Tensor:
        """Write zᵀ, and return its largest numbers."""
        return weighted_inputs(self.weight, self.x_columns.tile(examples, z.shape[1]), bias, z)

    def take_delta(self, delta: Tensor) -> None:
        """Make this the factor of the products that follow."""
        self.delta = delta

    def add_to_x(self, gradient: Tensor) -> None:
        """Add Wᵀ δᵀ to the gradient, which has a column for each example."""
        add_product(self.weight.mT, self.delta, gradient)

    def add_to_weight(self, gradient: Tensor, examples: slice, beta: int) -> None:
        """Add δᵀ x to the gradient, or write it there for beta = 0."""
        rows = in_float32(self.x[examples])
        missing = self.delta.shape[1] - len(rows)
        add_product(self.delta, rows if missing == 0 else pad(rows, (0, 0, 0, missing)), gradient, beta)


class PairProducts:
    """The same products of bfloat16, summed in float32, by kernels that take two numbers at a time.

    A pair is two numbers that follow one another in a sum: of inputs in W xᵀ, of classes in Wᵀ δᵀ, of examples in δᵀ x.
    """

    def __init__(self, x: Tensor, weight: Tensor, classes: int, examples: int) -> None:
        self.x, self.all_classes, D = x.contiguous(), weight, x.shape[1]
        self.width = D + -D % LANES
        self.x_columns = TransposedRows(self.x.view(torch.int32))
        self.x_rows = empty(examples // 2 * self.width, torch.int32)
        self.columns = empty((classes + 1) // 2 * examples, torch.int32)
        self.rows = empty(classes * examples, torch.bfloat16)
        self.weight_pairs = empty((classes + 1) // 2 * self.width, torch.int32)

    def take_classes(self, classes: slice) -> None:
        self.weight, self.is_paired = narrow(self.all_classes, classes).contiguous(), False

    def write_z(self, z: Tensor, examples: slice, bias: Tensor | None) -> Tensor:
        x_columns = self.x_columns.tile(examples, z.shape[1])
        return weighted_inputs(self.weight.view(torch.int32), x_columns, bias, z)

    def take_delta(self, delta: Tensor) -> None:
        count, columns = delta.shape
        self.half_delta = half, pairs = view(self.rows, count, columns), view(self.columns, (count + 1) // 2, columns)
        for rows in serial_parts(half):
            half[rows] = delta[rows]
        pair_rows(half, pairs)

    def add_to_x(self, gradient: Tensor) -> None:
        pairs = view(self.weight_pairs, (len(self.weight) + 1) // 2, self.width)
        if not self.is_paired:
            pair_rows(self.weight, pairs)
            self.is_paired = True
        add_product(pairs[:, : len(gradient)].mT, self.half_delta[1], gradient)

    def add_to_weight(self, gradient: Tensor, examples: slice, beta: int) -> None:
        delta = self.half_delta[0].view(torch.int32)
        x_pairs = view(self.x_rows, delta.shape[1], self.width)
        pair_rows(self.x[examples], x_pairs)
        add_product(delta, x_pairs, gradient, beta)


Products = SingleProducts | PairProducts


def tile_products(x: Tensor, weight: Tensor, classes: int, examples: int) -> Products:
    """Return the products of a layer for tiles of at most so many classes and examples."""
    is_paired = x.dtype == torch.bfloat16 and x.shape[1] % 2 == 0
    return (PairProducts if is_paired else SingleProducts)(x, weight, classes, examples)


def empty(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(count, dtype=dtype, device="cpu")


def view(memory: Tensor, rows: int, columns: int) -> Tensor:
    """Return the memory's start as a matrix."""
    return memory[: rows * columns].view(rows, columns)


def in_float32(matrix: Tensor, memory: Tensor | None = None) -> Tensor:
    """Return the matrix in float32, contiguous; one of another dtype in this memory, if it is given."""
    if matrix.dtype == torch.float32:
        return matrix.contiguous()
    result = view(empty(matrix.numel()) if memory is None else memory, *matrix.shape)
    for rows in serial_parts(matrix):
        result[rows] = matrix[rows]
    return result


def serial_parts(matrix: Tensor) -> Iterator[slice]:
    """Yield rows of a matrix on which PyTorch works in one thread, if a row is not too long."""
    return split(len(matrix), SERIAL_ELEMENTS // max(matrix.shape[1], 1))
