"""The gradients of a layer in half precision on a GPU, in two passes over z: without z, and each rounded once.

The first pass goes over all classes of a stripe of examples, and sums Σⱼ dⱼ Wⱼ, of which the gradient of x is made. The
second goes over all examples of a block of classes, and multiplies δᵀ x. So a sum in float32 is no larger than a
stripe's, or a block's, part of the gradient. PyTorch's products give z and take d and δ; kernels make them of z in
between: `Steps`.

Until it is written the gradient of the weight, of K × D numbers, keeps d of the first D examples, whose z the second
pass need not work out again. Whatever else a pass needs is in its last rows. z, d and δ have a row for each class.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ce_torch.costs.kernels import gpu
from ce_torch.costs.linear.blocks import split
from ce_torch.costs.linear.room import Size, borrow, count_bytes, lent_bytes

# Products of these sizes keep a large GPU busy.
STRIPE_EXAMPLES, STRIPE_CLASSES = 1024, 8192
BLOCK_CLASSES, BLOCK_ELEMENTS = 1024, 1 << 24
# The last rows of the gradient lend less and less: blocks shrink to so many classes, or so many multiplications.
FEWEST_CLASSES, FEWEST_MULTIPLICATIONS = 128, 1 << 30
# Products take multiples of so many classes in whole tiles.
UNIT = 128


class Steps(ABC):
    """A layer of x and weight, both contiguous, and what is between the products with them.

    `terms` and δ have the dtype of x, z has float32. Tensors are of the classes and examples given, or rows of them.
    """

    x: Tensor
    weight: Tensor

    @abstractmethod
    def write_terms(
        self, terms: Tensor | None, m: Tensor | None, total: Tensor | None, z: Tensor, classes: slice, examples: slice
    ) -> None:
        """Write d, and what it depends on beside z to `m`, if those are there; make the total so far one of such d."""

    @abstractmethod
    def write_x_gradient(self, gradient: Tensor, total: Tensor, examples: slice) -> None:
        """Write the gradient of x, of Σⱼ dⱼ Wⱼ."""

    @abstractmethod
    def write_delta(self, delta: Tensor, z: Tensor, classes: slice, examples: slice) -> None:
        """Write δ, of z."""

    @abstractmethod
    def write_kept_delta(self, delta: Tensor, terms: Tensor, m: Tensor, classes: slice, examples: slice) -> None:
        """Write δ, of d and m."""


class Kept(NamedTuple):
    """d of the first classes and examples, and m of each stripe of these classes."""

    terms: Tensor
    m: Tensor

    @classmethod
    def within(cls, gradient: Tensor, examples: int, lent: int) -> Self:
        """Return memory for examples in the gradient of the weight, all but so many bytes, which it lends to others.

        If it has fewer it lends none.
        """
        K, D = gradient.shape
        rows = -(-lent // (D * gradient.element_size()))
        rows += UNIT - rows % UNIT
        classes = K - rows if rows < K else K
        terms = gradient[:classes, : min(examples, D) if K else 0]
        stripes = -(-classes // STRIPE_CLASSES)
        return cls(terms, terms.new_empty((stripes, terms.shape[1]), dtype=torch.float32))

    @property
    def classes(self) -> int:
        return self.terms.shape[0]

    def examples(self, classes: slice) -> int:
        """Return of how many examples d of these classes is kept."""
        return self.terms.shape[1] if classes.stop <= self.classes else 0

    def part(self, classes: slice, examples: slice) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Return d and m of these classes and examples, if they are kept."""
        if examples.stop > self.examples(classes):
            return None, None
        return self.terms[classes, examples], self.m[classes.start // STRIPE_CLASSES, examples]


def sum_stripes(steps: Steps, weight_gradient: Tensor, x_gradient: Tensor | None) -> Kept:
    """Go over the stripes, write the gradient of x, if it is there, and return what is kept.

    That is nothing if the gradient of the weight has no rows.
    """
    (N, D), K = steps.x.shape, len(steps.weight)
    examples, summed = min(N, STRIPE_EXAMPLES), 0 if x_gradient is None else 1
    elements = examples * min(K, STRIPE_CLASSES)
    sizes = (elements, torch.float32), (elements * summed, steps.x.dtype), (examples * D * summed, torch.float32)
    of_block = count_bytes(*block_sizes(steps.x, block_classes(N)))
    kept = Kept.within(weight_gradient, N, max(count_bytes(*sizes), min(of_block, weight_gradient.nbytes // 4)))
    z_memory, terms_memory, total_memory = borrow(weight_gradient, kept.classes, *sizes)
    for stripe in parts(N, kept.terms.shape[1], STRIPE_EXAMPLES):
        count = stripe.stop - stripe.start
        total = total_memory.view(-1, D)[:count] if x_gradient is not None else None
        sum_stripe(steps, stripe, kept, z_memory, terms_memory, total)
        if x_gradient is not None and total is not None:
            steps.write_x_gradient(x_gradient[stripe], total, stripe)
    return kept


def sum_stripe(
    steps: Steps, stripe: slice, kept: Kept, z_memory: Tensor, terms_memory: Tensor, total: Tensor | None
) -> None:
    """Go over the classes of a stripe, and write Σⱼ dⱼ Wⱼ to `total`, if that is there."""
    for classes in parts(len(steps.weight), kept.classes, STRIPE_CLASSES):
        z, adds = weighted_inputs(steps, z_memory, classes, stripe), classes.start > 0
        terms, m = kept.part(classes, stripe)
        if terms is None and total is not None:
            terms = view(terms_memory, *z.shape)
        steps.write_terms(terms, m, total if adds else None, z, classes, stripe)
        if terms is not None and total is not None:
            gpu.multiply(terms.mT, steps.weight[classes], total, adds=adds)


def write_parameter_gradients(steps: Steps, kept: Kept, weight_gradient: Tensor, bias_gradient: Tensor | None) -> None:
    """Go over the blocks, and write δᵀ x, if the weight's gradient has rows, and Σ δ, if that of the bias is there."""
    N = len(steps.x)
    for block in parameter_blocks(steps, kept, weight_gradient):
        count, known = block.stop - block.start, kept.examples(block)
        sizes = block_sizes(steps.x, count)
        z_memory, delta_memory, total_memory = borrow(weight_gradient, max(block.stop, kept.classes), *sizes)
        delta = view(delta_memory, count, N)
        for stripe in parts(N, known, block_examples(N, count)):
            terms, m = kept.part(block, stripe)
            if terms is not None and m is not None:
                steps.write_kept_delta(delta[:, stripe], terms, m, block, stripe)
            else:
                z = weighted_inputs(steps, z_memory, block, stripe)
                steps.write_delta(delta[:, stripe], z, block, stripe)
        if len(weight_gradient):
            # Products that give half precision may add parts in it.
            total = total_memory.view(count, -1)
            gpu.multiply(delta, steps.x, total)
            weight_gradient[block] = total
        if bias_gradient is not None:
            bias_gradient[block] = delta.sum(1, dtype=torch.float32)


def parameter_blocks(steps: Steps, kept: Kept, weight_gradient: Tensor) -> Iterator[slice]:
    """Yield the classes of each block: as many as the gradient's last rows lend memory to, or few with their own."""
    (N, D), K, row = steps.x.shape, len(steps.weight), steps.weight[0].nbytes
    most = block_classes(N)
    fewest = max(FEWEST_MULTIPLICATIONS // (max(N, STRIPE_EXAMPLES) * D), FEWEST_CLASSES)
    # Where nothing is lent all blocks have memory of their own, not only the last.
    fewest = min(fewest if kept.classes < len(weight_gradient) else BLOCK_CLASSES, most)
    counts, start = range(UNIT, most + 1, UNIT), 0
    while start < K:
        is_kept = start < kept.classes
        # What is kept of a block is of one stripe of classes. Where nothing is, a block's own rows do not lend either.
        end = min((start // STRIPE_CLASSES + 1) * STRIPE_CLASSES, kept.classes) if is_kept else K
        lent, own = lent_bytes(weight_gradient, max(start, kept.classes)), 0 if is_kept else row
        # What does not fit after all has memory of its own.
        fitting = UNIT * bisect_right(counts, lent, key=lambda n: count_bytes(*block_sizes(steps.x, n)) + n * own)
        # Of a few blocks none is smaller than others.
        pieces = -(-(end - start) // max(fitting, fewest))
        count = -(-(end - start) // pieces)
        yield slice(start, start := min(start + count + -count % UNIT, end))


def block_classes(N: int) -> int:
    """Return how many classes a large block has."""
    return max(BLOCK_ELEMENTS // N, BLOCK_CLASSES)


def block_sizes(x: Tensor, classes: int) -> tuple[Size, Size, Size]:
    """Return what z of some examples, δ of all, and δᵀ x take in a block of so many classes."""
    N, D = x.shape
    z, total = block_examples(N, classes) * classes, D * classes
    return (z, torch.float32), (N * classes, x.dtype), (total, torch.float32)


def block_examples(N: int, classes: int) -> int:
    """Return of how many examples z of so many classes is worked out at a time."""
    return min(N, max(BLOCK_ELEMENTS // (2 * classes), 1))


def weighted_inputs(steps: Steps, memory: Tensor, classes: slice, examples: slice) -> Tensor:
    """Return W xᵀ of these classes and examples, in memory that is large enough."""
    z = view(memory, classes.stop - classes.start, examples.stop - examples.start)
    gpu.multiply(steps.weight[classes], steps.x[examples].mT, z)
    return z


def parts(count: int, first: int, length: int) -> Iterator[slice]:
    """Yield slices of this length that cover 0 to `first`, and from there to `count`."""
    yield from split(first, length)
    for part in split(count - first, length):
        yield slice(first + part.start, first + part.stop)


def view(memory: Tensor, classes: int, examples: int) -> Tensor:
    """Return the memory's start as a row of so many examples for each of so many classes."""
    return memory[: classes * examples].view(classes, examples)
