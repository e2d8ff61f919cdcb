"""The sizes of blocks: the parts of z, by classes or by examples, that are in memory at a time."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from ce_torch.costs.kernels.layer_numbers import LANES
from ce_torch.costs.linear.memory import BLOCK_TENSORS, Sizes, class_block_memory, example_block_memory
from ce_torch.costs.linear.vocabulary_parallel import ALL_CLASSES, Shard

# A block takes a twentieth of z, but at least 16 rows, and 4 MB in float32. Smaller blocks take longer.
BLOCKS = 20
FEWEST_ROWS = 16
FEWEST_ELEMENTS = 1 << 20
FEWEST_CLASSES = 32
# PyTorch shares out operations on more elements among threads, which wait for one another where cores are busy.
SERIAL_ELEMENTS = (1 << 15) - 1


@dataclass(frozen=True)
class Plan:
    """How to compute: with c of equation (83), in blocks, for the classes of `shard`.

    A block has the memory of `block_rows` rows, or whatever size keeps all memory within `max_memory` bytes, of which
    `reserved` are in use. `softcap` is κ. `logsumexp`, `entropy` and `prediction` tell which numbers beside the cost
    are asked for.
    """

    c: float
    block_rows: int | None = None
    softcap: float | None = None
    logsumexp: bool = False
    entropy: bool = False
    prediction: bool = False
    max_memory: int | None = None
    reserved: int = 0
    shard: Shard = ALL_CLASSES

    @property
    def options(self) -> tuple[float, int | None, float | None, bool, bool, bool, int | None, int]:
        """The fields before the shard, as operators take them."""
        numbers = self.logsumexp, self.entropy, self.prediction
        return self.c, self.block_rows, self.softcap, *numbers, self.max_memory, self.reserved

    def reserve(self, size: int) -> Self:
        """Return the plan for a layer that takes so many bytes itself."""
        return self if self.max_memory is None else replace(self, reserved=self.reserved + size)

    def elements(self, N: int, K: int) -> int:
        """Return how many elements of z, for N examples of K classes, may be in memory at a time."""
        if self.block_rows is not None:
            return self.block_rows * K
        return max(N * K // BLOCKS, FEWEST_ROWS * K, FEWEST_ELEMENTS)

    def class_blocks(self, sizes: Sizes) -> Iterator[slice]:
        """Yield the classes of each block. A block holds all examples."""
        N, K, *_ = sizes
        length = max(self.elements(N, K) // (BLOCK_TENSORS * max(N, 1)), FEWEST_CLASSES)
        return split(K, self.fit(length, class_block_memory, sizes))

    def block_examples(self, sizes: Sizes) -> int:
        """Return the largest number of examples, some of which may fill it, in a block that holds all classes."""
        N, K, *_ = sizes
        count = min(max(self.elements(N, K) // max(K, 1), 1), max(N + -N % LANES, 1))
        count = self.fit(count, example_block_memory, sizes)
        # The kernels of products take multiples of 16, and are fastest with those of 48.
        step = next((step for step in (3 * LANES, LANES) if count >= step), 1)
        return count - count % step

    def has_room(self, memory: Callable[[Sizes, int], int], sizes: Sizes) -> bool:
        """Return True if what takes this memory keeps within `max_memory`."""
        return self.max_memory is None or self.reserved + memory(sizes, 1) <= self.max_memory

    def fit(self, length: int, memory: Callable[[Sizes, int], int], sizes: Sizes) -> int:
        """Return the greatest length of a block, up to this one, whose memory keeps within `max_memory`."""
        if self.max_memory is None:
            return length
        fitting = bisect_right(
            range(1, length + 1), self.max_memory - self.reserved, key=lambda count: memory(sizes, count)
        )
        if fitting > 0:
            return fitting
        least = math.ceil((self.reserved + memory(sizes, 1)) / 1e5) / 10
        raise ValueError(
            f'max_memory must be at least "{least} MB" for a layer of {sizes.N} examples, {sizes.K} classes and '
            f'{sizes.D} inputs, got "{self.max_memory / 1e6:g} MB"; give it fewer examples at a time'
        )


def split(count: int, length: int) -> Iterator[slice]:
    """Yield slices of `length`, at least 1, that cover 0 to `count`."""
    length = max(length, 1)
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))


def narrow(tensor: Tensor, classes: slice, dim: int = 0) -> Tensor:
    """Return a view of the part of a tensor that belongs to the classes of a block."""
    return tensor.narrow(dim, classes.start, classes.stop - classes.start)


def column(tensor: Tensor) -> Tensor:
    """Return the numbers of the examples as a column."""
    return tensor.unsqueeze(-1)


def copy_serially(matrix: Tensor, memory: Tensor) -> Tensor:
    """Return the memory, to which PyTorch has copied the matrix in one thread, unless a row is too long for that."""
    for rows in split(len(matrix), SERIAL_ELEMENTS // max(matrix.shape[1], 1)):
        memory[rows] = matrix[rows]
    return memory
