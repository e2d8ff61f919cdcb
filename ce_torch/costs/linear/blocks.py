"""The sizes of blocks: parts of z, by classes or by examples, that are in memory at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ce_torch.costs.linear.vocabulary_parallel import ALL_CLASSES, Shard

# A block takes a twentieth of z, but no less than 16 rows and 4 MB in float32: smaller ones take longer.
BLOCKS = 20
FEWEST_ROWS = 16
FEWEST_ELEMENTS = 1 << 20
# In a block of many examples.
FEWEST_CLASSES = 32
# Formulas hold so many tensors of a block's size at once.
TENSORS = 12


@dataclass(frozen=True)
class Plan:
    """What all examples share: equation (83)'s c, the rows that a block may take, and the classes of this process."""

    c: float
    block_rows: int | None = None
    shard: Shard = ALL_CLASSES

    def elements(self, N: int, K: int) -> int:
        """Return how many elements of z, for N examples of K classes, the memory is for."""
        if self.block_rows is not None:
            return self.block_rows * K
        return max(N * K // BLOCKS, FEWEST_ROWS * K, FEWEST_ELEMENTS)

    def class_blocks(self, N: int, K: int) -> Iterator[slice]:
        """Yield the classes of each block of all examples."""
        return split(K, max(self.elements(N, K) // (TENSORS * max(N, 1)), FEWEST_CLASSES))

    def example_blocks(self, N: int, K: int) -> tuple[int, Iterator[slice]]:
        """Return the largest number of examples in a block of all classes, and the examples of each block."""
        count = min(max(self.elements(N, K) // max(K, 1), 1), max(N, 1))
        # The products are faster with multiples of 16.
        count = count - count % 16 if count > 16 else count
        return count, split(N, count)


def split(count: int, length: int) -> Iterator[slice]:
    """Yield 0 to `count` in parts of `length`, at least one."""
    length = max(length, 1)
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))


def narrow(tensor: Tensor, classes: slice, dim: int = 0) -> Tensor:
    """Return a view on the classes of a block."""
    return tensor.narrow(dim, classes.start, classes.stop - classes.start)


def column(tensor: Tensor) -> Tensor:
    """Return a number for each example as a column."""
    return tensor.unsqueeze(-1)
