"""The divergence of a student's layer from its teacher, and its gradients, by blocks of examples.

    s = c z,  z = x Wᵀ + b        ∂D/∂z = c ∂D/∂s        ∂D/∂x = ∂D/∂z W        ∂D/∂W = (∂D/∂z)ᵀ x

A block holds all classes of a few examples, of the student and of the teacher. The formulas of `divergences` take a few
of its rows at a time, whose intermediate results stay in the caches, and write the gradient over z.

A teacher may be known by the log-probabilities of a few classes alone. Then the student's scores are those of the same
classes and, for a tail, ln Σ exp s of all others, which take part as one more class.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import NamedTuple, ParamSpec, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import linear

from ce_torch.costs._arguments import values_can_be_read
from ce_torch.costs._precision import compute_dtype, is_autocast
from ce_torch.costs._product import product
from ce_torch.costs._softmax import Exponentials, exponentials, exponents, scale
from ce_torch.costs.kernels import divergences as divergence_kernel
from ce_torch.costs.kernels.layer_numbers import LANES
from ce_torch.costs.linear import blocks
from ce_torch.costs.linear.blocks import column, split
from ce_torch.costs.linear.distillation_sides import Side, new_side
from ce_torch.costs.linear.divergences import Divergence

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# So many elements fit into the caches, with the formulas' intermediate results, of which there are this many at once.
CACHED_ELEMENTS = 1 << 15
INTERMEDIATE_RESULTS = 16
# Products with fewer rows take longer.
FEWEST_ROWS = 48


class Inputs(NamedTuple):
    """The tensors: the student's layer, and the teacher's or, with `classes`, the teacher's scores of these as x.

    Shapes: x (N, D), weight (K, D), bias (K,); scores (N, k), or (N, k + 1) with a tail, and classes (N, k).
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    teacher_x: Tensor
    teacher_weight: Tensor | None
    teacher_bias: Tensor | None
    classes: Tensor | None

    def examples(self, examples: slice | Tensor) -> Self:
        """Return the inputs of some examples."""
        selected = {name: tensor[examples] for name in EXAMPLES if (tensor := getattr(self, name)) is not None}
        return self._replace(**selected)


# The tensors that have a row for each example.
EXAMPLES = "x", "teacher_x", "classes"


@dataclass(frozen=True)
class Distillation:
    """How to compute: the divergence, both softmax layers' c = 1 / temperature, and the rows of z in memory."""

    divergence: Divergence
    c: float
    teacher_c: float
    block_rows: int | None

    def student_scores(self, z: Tensor, inputs: Inputs) -> Exponentials:
        """Return the student's softmax of the scores that the teacher is compared with."""
        if inputs.classes is None:
            return exponentials(z, self.c)
        s = exponents(z, z.detach().amax(-1, keepdim=True), self.c)
        known = s.gather(-1, inputs.classes)
        if not has_tail(inputs):
            return exponentials(known, 1.0)
        return exponentials(torch.cat([known, column(others(s, inputs.classes).logsumexp(-1))], -1), 1.0)

    def value(self, z: Tensor, teacher_z: Tensor, inputs: Inputs) -> Tensor:
        """Return D of each example, which autograd differentiates."""
        student, teacher = self.student_scores(z, inputs), exponentials(teacher_z, self.teacher_c)
        return self.divergence.value(student, teacher)

    def value_and_gradients(
        self, z: Tensor, teacher_z: Tensor, inputs: Inputs, factor: Tensor | None, needs: tuple[bool, bool]
    ) -> Tensor:
        """Return D of each example, and write the needed ones of factor ∂D/∂z over z and `teacher_z`."""
        if inputs.classes is None and divergence_kernel.supports(z, teacher_z):
            c = self.c, self.teacher_c
            D = divergence_kernel.write_divergences(*self.divergence, z, teacher_z, c, factor, needs)
            if D is not None:
                return D
        D = torch.empty_like(z[:, 0])
        for rows in split(len(z), max(CACHED_ELEMENTS // max(z.shape[1], 1), 1)):
            row_factor = None if factor is None else factor[rows]
            D[rows] = self.formulas(z[rows], teacher_z[rows], inputs.examples(rows), row_factor, needs)
        return D

    def formulas(
        self, z: Tensor, teacher_z: Tensor, inputs: Inputs, factor: Tensor | None, needs: tuple[bool, bool]
    ) -> Tensor:
        """Do the same by operations of PyTorch."""
        student = softmax(z, self.c) if inputs.classes is None else self.student_scores(z, inputs)
        teacher = softmax(teacher_z, self.teacher_c)
        D = self.divergence.value(student, teacher)
        if factor is not None and needs[1]:
            gradient = self.divergence.swapped().gradient(teacher, student)
            teacher_z.copy_(product(column(factor), scale(self.teacher_c, gradient)))
        if factor is not None and needs[0]:
            gradient = product(column(factor), scale(self.c, self.divergence.gradient(student, teacher)))
            z.copy_(gradient if inputs.classes is None else self.spread(gradient, z, inputs))
        return D

    def spread(self, gradient: Tensor, z: Tensor, inputs: Inputs) -> Tensor:
        """Return the gradient by z from that by the scores: each class of the tail gets its share of the tail's."""
        classes = inputs.classes
        assert classes is not None
        if not has_tail(inputs):
            return torch.zeros_like(z).scatter_(-1, classes, gradient)
        s = others(exponents(z, z.amax(-1, keepdim=True), self.c), classes)
        return product(gradient[:, -1:], s.softmax(-1)).scatter(-1, classes, gradient[:, :-1])


def softmax(z: Tensor, c: float) -> Exponentials:
    """Return `exponentials(z, c)` as numbers, in fewer passes where all z are finite."""
    if not (values_can_be_read(z) and math.isfinite(z.sum().item())):
        return exponentials(z, c)
    m, largest = z.max(-1, keepdim=True)
    x = scale(c, z - m)
    e = x.exp()
    r = e.scatter_(-1, largest, 0).sum(-1, keepdim=True)
    return Exponentials(x, e.scatter_(-1, largest, 1), r)


def has_tail(inputs: Inputs) -> bool:
    return inputs.classes is not None and inputs.teacher_x.shape[-1] > inputs.classes.shape[-1]


def others(s: Tensor, classes: Tensor) -> Tensor:
    """Return the scores with −∞ for those of the classes."""
    return s.scatter(-1, classes, -torch.inf)


def without_autocast(formula: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Turn autocast off for a formula, which chooses its precision itself."""

    @wraps(formula)
    def wrapped(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        device = next(argument for argument in arguments if isinstance(argument, Inputs)).x.device
        if not is_autocast(device):
            return formula(*arguments, **options)
        with torch.autocast(device.type, enabled=False):
            return formula(*arguments, **options)

    return wrapped


@torch.no_grad()
@without_autocast
def value_and_gradients(
    inputs: Inputs, factor: Tensor | None, how: Distillation, needs: tuple[bool, ...]
) -> tuple[Tensor, list[Tensor | None]]:
    """Return D of each example, and the needed gradients of Σ factor · D by all inputs, none without a factor."""
    needs = needs if factor is not None else (False,) * len(needs)
    dtype = compute_dtype(inputs.x)
    sides = [new_side(inputs[i : i + 3], needs[i : i + 3], dtype) for i in (0, 3)]  # pyright: ignore[reportArgumentType]
    D = add_blocks(sides, inputs, factor, how, (any(needs[:3]), any(needs[3:])))
    # The memory of blocks is free again when the gradients are converted.
    return D, [*sides[0].totals(), *sides[1].totals(), None]


def add_blocks(
    sides: list[Side], inputs: Inputs, factor: Tensor | None, how: Distillation, both_need: tuple[bool, bool]
) -> Tensor:
    """Return D of each example, and let each side that needs it add up its gradients."""
    N, K = len(inputs.x), len(inputs.weight)
    count = block_examples(N, K, how.block_rows)
    D = torch.empty(N, dtype=sides[0].dtype, device=inputs.x.device)
    memory = [None if side.weight is None else D.new_empty(count, K) for side in sides]
    for block in split(N, count):
        z, teacher_z = (side.z(block, m) for side, m in zip(sides, memory, strict=True))
        block_factor = None if factor is None else factor[block].to(D.dtype)
        D[block] = how.value_and_gradients(z, teacher_z, inputs.examples(block), block_factor, both_need)
        for side, gradient, needed in zip(sides, (z, teacher_z), both_need, strict=True):
            if needed:
                side.add(block, gradient)
    return D


def block_examples(N: int, K: int, block_rows: int | None) -> int:
    """Return how many examples a block has. It holds two z: together a twentieth of z, but at least 48 rows each."""
    if block_rows is not None:
        return max(block_rows // 2, 1)
    intermediate = INTERMEDIATE_RESULTS * max(CACHED_ELEMENTS, K)
    elements = max(N * K // blocks.BLOCKS - intermediate, blocks.FEWEST_ELEMENTS) // 2
    count = max(elements // K, FEWEST_ROWS)
    # The kernels of products take multiples of 16.
    return min(count - count % LANES if count > LANES else count, max(N, 1))


@without_autocast
def whole_value(inputs: Inputs, how: Distillation) -> Tensor:
    """Return D of each example from whole z, by operations that autograd and every transform differentiate."""
    dtype = compute_dtype(inputs.x)
    # Converted once, so that half precision rounds the sum of all gradients.
    inputs = Inputs(*(t.to(dtype) if t is not None and t.is_floating_point() else t for t in inputs))  # pyright: ignore[reportArgumentType]
    z, teacher_z = linear(*inputs[:3]), inputs.teacher_x
    if inputs.teacher_weight is not None:
        teacher_z = linear(teacher_z, inputs.teacher_weight, inputs.teacher_bias)
    return how.value(z, teacher_z, inputs)
