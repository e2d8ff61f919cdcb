"""How much memory the cost of a layer takes, for blocks that keep it within a limit.

Counted are bytes of tensors in use at once, beyond inputs and gradients, in a forward pass or its backward pass. All
counts are upper bounds.
"""

import math
import re
from typing import NamedTuple

import torch
from torch import Tensor

from ce_torch.costs._arguments import OPTIONS, check_number
from ce_torch.costs._torch_private import is_transformed, read_address
from ce_torch.costs.kernels import is_plain
from ce_torch.costs.kernels.products import PART_ELEMENTS, PRODUCT_ELEMENTS

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SIZE = re.compile(rf"\s*(\d+(?:\.\d+)?)\s*({'|'.join(UNITS)})\s*")
# How many tensors with a number for each example, class, and element of a block of classes are in use at once.
EXAMPLE_TENSORS, CLASS_TENSORS, BLOCK_TENSORS = 40, 8, 16
# The same for a part of a block, which PyTorch's operations take at a time where no kernel runs.
PART_TENSORS = 9
# z of a tile takes a quarter of a megabyte.
TILE_CLASSES, TILE_EXAMPLES = 512, 128


def tile_classes() -> int:
    """Return how many classes a tile has. A thread takes 256 of them at a time."""
    return TILE_CLASSES * max(1, torch.get_num_threads() // 2)


class Sizes(NamedTuple):
    """N examples, K classes, D inputs, and the bytes of a number in memory, and of one that is computed."""

    N: int
    K: int
    D: int
    stored: int
    computed: int


def example_block_memory(sizes: Sizes, count: int) -> int:
    """Return the bytes for blocks of so many examples, one of which holds z."""
    N, K, D, _, size = sizes
    block = count * K
    # Where no kernel runs, PyTorch's operations take a part of the block and of the gradient by weight at a time.
    parts = PART_TENSORS * max(min(block, PART_ELEMENTS), block // 16) + min(PRODUCT_ELEMENTS, K * D)
    return size * (block + 4 * count * D + EXAMPLE_TENSORS * N + CLASS_TENSORS * K + parts)


def class_block_memory(sizes: Sizes, count: int) -> int:
    """Return the bytes for blocks of so many classes, beside which there is the gradient of x."""
    N, K, D, stored, size = sizes
    copies = 2 if stored == size else 3
    block = count * (BLOCK_TENSORS * N + 4 * D)
    return size * (block + copies * N * D + EXAMPLE_TENSORS * N + CLASS_TENSORS * K)


def tile_memory(sizes: Sizes, count: int) -> int:
    """Return the bytes for tiles of a fixed size, whatever the count, with x and its gradient in float32."""
    N, K, D, _, size = sizes
    classes = min(tile_classes(), K)
    tile = 6 * classes * TILE_EXAMPLES + 2 * classes * (D + 16) + 3 * TILE_EXAMPLES * (D + 16)
    return size * (tile + 3 * N * D + EXAMPLE_TENSORS * N + CLASS_TENSORS * K)


def is_copy(tensor: Tensor, first: Tensor) -> bool:
    """Return False if both tensors are known to have the same memory."""
    if torch.compiler.is_compiling() or is_transformed() or not (is_plain(tensor) and is_plain(first)):
        return True
    return read_address(tensor) != read_address(first)


def check_max_memory(max_memory: str | int | None) -> int | None:
    """Return the bytes."""
    if not isinstance(max_memory, str):
        expected = 'a number of bytes, at least 1, a text such as "64 MB", or None'
        return None if max_memory is None else check_number("max_memory", (int,), 1, math.inf, expected, max_memory)
    found = SIZE.fullmatch(max_memory)
    size = int(float(found[1]) * UNITS[found[2]]) if found else 0
    if size < 1:
        *units, last = UNITS
        raise ValueError(
            f'max_memory must be a number of bytes, at least 1, a text such as "64 MB", or None, got {max_memory!r}; '
            f"units are {', '.join(units)} and {last}"
        )
    return size


OPTIONS.update(max_memory=check_max_memory)


def check_block_size(block_rows: int | None, max_memory: str | int | None) -> int | None:
    """Return the bytes of `max_memory`; raise `ValueError` if both options that size a block are given."""
    if block_rows is not None and max_memory is not None:
        raise ValueError(
            f"block_rows={block_rows} and max_memory={max_memory} both choose the size of a block; leave one out"
        )
    return check_max_memory(max_memory)
