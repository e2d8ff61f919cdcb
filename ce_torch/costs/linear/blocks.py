"""The sizes of blocks: the parts of z, by classes or by examples, that are in memory at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ce_torch.costs.linear.vocabulary_parallel import ALL_CLASSES, Shard

# A block takes a twentieth of z, but at least 16 rows, and 4 MB in float32. Smaller blocks take longer.
BLOCKS = 20
FEWEST_ROWS = 16
FEWEST_ELEMENTS = 1 << 20
FEWEST_CLASSES = 32
# The formulas hold this many tensors of a block's size at once.
TENSORS = 16


@dataclass(frozen=True)
class Plan:
    """How to compute: with c of equation (83), with the memory of `block_rows` rows, for the classes of `shard`.

    `softcap` is κ. `logsumexp`, `entropy` and `prediction` tell which numbers beside the cost are asked for.
    """

    c: float
    block_rows: int | None = None
    softcap: float | None = None
    logsumexp: bool = False
    entropy: bool = False
    prediction: bool = False
    shard: Shard = ALL_CLASSES

    @property
    def options(self) -> tuple[float, int | None, float | None, bool, bool, bool]:
        """The fields before the shard, as operators take them."""
        return self.c, self.block_rows, self.softcap, self.logsumexp, self.entropy, self.prediction

    def elements(self, N: int, K: int) -> int:
        """Return how many elements of z, for N examples of K classes, may be in memory at a time."""
        if self.block_rows is not None:
            return self.block_rows * K
        return max(N * K // BLOCKS, FEWEST_ROWS * K, FEWEST_ELEMENTS)

    def class_blocks(self, N: int, K: int) -> Iterator[slice]:
        """Yield the classes of each block. A block holds all examples."""
        return split(K, max(self.elements(N, K) // (TENSORS * max(N, 1)), FEWEST_CLASSES))

    def example_blocks(self, N: int, K: int) -> tuple[int, Iterator[slice]]:
        """Return the largest number of examples in a block, and yield those of each. A block holds all classes."""
        count = min(max(self.elements(N, K) // max(K, 1), 1), max(N, 1))
        # The kernels of products take multiples of 16.
        count = count - count % 16 if count > 16 else count
        return count, split(N, count)


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
