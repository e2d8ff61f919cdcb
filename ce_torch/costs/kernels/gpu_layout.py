"""How the programs of a GPU share out z: as groups of rows of columns, a tile of rows by columns at a time.

Sizes and strides are those of the columns, the rows, and the dimensions of the groups from the last to the first.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

# Elements of a tile in a long row: enough loads under way to keep the memory busy, few enough for the registers.
LARGEST_TILE = 4096
# Elements of a tile of short rows.
SMALL_TILE = 1024
# The tile where rows, not columns, are neighbours in memory: enough of them to read it line by line.
NEIGHBOURS, NEIGHBOUR_COLUMNS = 64, 32
# How many columns that are neighbours in memory share a maximum.
LANE_COLUMNS = 8

Integers = tuple[int, ...]


class Strided(NamedTuple):
    """A tensor as the kernels take it: its strides are 0 where it is broadcast."""

    memory: Tensor
    strides: Integers


class Layout(NamedTuple):
    """Tensors that a kernel takes, the first of them z, and the tile of a program."""

    sizes: Integers
    tile_rows: int
    tile_columns: int
    lane_columns: int
    tensors: tuple[Strided | None, ...]

    @property
    def z(self) -> Tensor:
        z = self.tensors[0]
        assert z is not None
        return z.memory

    def programs(self, part: int) -> int:
        """Return how many programs there are if each takes this many columns of its rows."""
        columns, rows, *groups = self.sizes
        return -(-columns // part) * -(-rows // self.tile_rows) * math.prod(groups)


def lay_out(z: Tensor, *others: Tensor | None, merges_columns: bool = False) -> Layout:
    """Return the layout of z and of tensors that broadcast to it; None stands for none.

    With `merges_columns` it does not matter where a row ends.
    """
    tensors = z, *others
    sizes, strides = coalesce(
        z.shape, tuple((tensor.shape, tensor.stride()) for tensor in tensors if tensor is not None), merges_columns
    )
    next_strides = iter(strides)
    strided = tuple(None if tensor is None else Strided(tensor, next(next_strides)) for tensor in tensors)
    return Layout(sizes, *tile(sizes, strides[0], 1 if z.dtype != torch.float64 else 2), strided)


@lru_cache(maxsize=4096)
def coalesce(
    shape: Integers, tensors: tuple[tuple[Integers, Integers], ...], merges_columns: bool
) -> tuple[Integers, tuple[Integers, ...]]:
    """Return the fewest sizes that will do for tensors of these shapes and strides, broadcast to `shape`, and strides.

    Dimensions are in the order of the first tensor's memory, but for the columns.
    """
    strides = [broadcast_strides(shape, *tensor) for tensor in tensors]
    dims = [(size, *steps) for size, *steps in zip(shape, *strides, strict=True)]
    columns = [] if merges_columns else [dims.pop()]
    merged: list[list[int]] = []
    for size, *steps in sorted(dims, key=lambda dim: dim[1]):
        if size == 1:
            continue
        if merged and all(step == merged[-1][0] * last for step, last in zip(steps, merged[-1][1:], strict=True)):
            merged[-1][0] *= size
        else:
            merged.append([size, *steps])
    while len(columns) + len(merged) < 2:
        merged.append([1, *(0 for _ in tensors)])
    sizes, *strides = zip(*columns, *merged, strict=True)
    return sizes, tuple(strides)


def broadcast_strides(shape: Integers, own_shape: Integers, own_strides: Sequence[int]) -> Integers:
    strides = (0 if size == 1 else stride for size, stride in zip(own_shape, own_strides, strict=True))
    return *(0 for _ in range(len(shape) - len(own_shape))), *strides


def tile(sizes: Integers, z_strides: Integers, width: int) -> tuple[int, int, int]:
    """Return how many rows and columns a program holds at once, and how many columns a lane, all powers of two.

    A number is `width` registers wide.
    """
    columns, rows = map(power_of_2, sizes[:2])
    if rows > 1 and z_strides[1] < z_strides[0]:
        return min(rows, NEIGHBOURS), min(columns, NEIGHBOUR_COLUMNS), 1
    columns = min(columns, LARGEST_TILE // width)
    return min(rows, max(SMALL_TILE // columns, 1)), columns, min(columns, LANE_COLUMNS)


def power_of_2(size: int) -> int:
    """Return the smallest power of 2 that is no smaller."""
    return 1 << (size - 1).bit_length()
