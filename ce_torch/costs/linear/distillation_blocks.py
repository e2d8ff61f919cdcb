"""The divergence of a student's layer from its teacher, and its gradients, by blocks of examples.

    s = c z,  z = x Wᵀ + b        ∂D/∂z = c ∂D/∂s        ∂D/∂x = ∂D/∂z W        ∂D/∂W = (∂D/∂z)ᵀ x

A block holds all classes of a few examples, of the student and of the teacher. The formulas of `divergences` take a few
of its rows at a time, whose intermediate results stay in the caches, and write the gradient over z.

A teacher may be known by the log-probabilities of a few classes alone. Then the student's scores are those of the same
classes and, for a tail, ln Σ exp s of all others, which take part as one more class.
"""

import math
from collections.abc import Callable, Iterator
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
from ce_torch.costs.kernels import layer_numbers
from ce_torch.costs.kernels.layer_numbers import LANES
from ce_torch.costs.kernels.products import transpose_rows
from ce_torch.costs.linear import blocks
from ce_torch.costs.linear.blocks import column, split
from ce_torch.costs.linear.cpu_products import empty, tile_products, view
from ce_torch.costs.linear.divergences import Divergence
from ce_torch.costs.linear.memory import tile_classes

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


class Side:
    """Student or teacher: z of a block, and the needed gradients of x, weight and bias, to which blocks add."""

    def __init__(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, needs: tuple[bool, ...], dtype: torch.dtype
    ) -> None:
        self.x, self.weight, self.bias, self.dtype = x, weight, bias, dtype
        self.gradients = [
            # Sums of many blocks in half precision would be rounded many times.
            torch.zeros(tensor.shape, dtype=self.dtype, device=x.device) if needed and tensor is not None else None
            for tensor, needed in zip((x, weight, bias), needs, strict=True)
        ]

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the weight, in half precision a part at a time, in the dtype to compute in."""
        assert self.weight is not None
        K, D = self.weight.shape
        rows = K if self.weight.dtype == self.dtype else max(blocks.FEWEST_ELEMENTS // max(D, 1), 1)
        for classes in split(K, rows):
            yield classes, self.weight[classes].to(self.dtype)

    def z(self, block: slice, memory: Tensor | None) -> Tensor:
        """Return z of a block of examples."""
        if self.weight is None:
            return self.x[block].to(self.dtype, copy=True)
        rows = block.stop - block.start
        z = self.x.new_empty(rows, len(self.weight), dtype=self.dtype) if memory is None else memory[:rows]
        self.write_products(z, block)
        return z if self.bias is None else z.add_(self.bias)

    def write_products(self, z: Tensor, block: slice) -> None:
        """Write x Wᵀ of a block."""
        x = self.x[block].to(self.dtype)
        for classes, weight in self.parts():
            torch.mm(x, weight.mT, out=z[:, classes])

    def add(self, block: slice, gradient: Tensor) -> None:
        """Add what the gradient by z of a block contributes."""
        x_gradient, weight_gradient, bias_gradient = self.gradients
        if self.weight is None:
            if x_gradient is not None:
                x_gradient[block] = gradient
            return
        if bias_gradient is not None:
            bias_gradient.add_(gradient.sum(0))
        self.add_products(block, gradient, x_gradient, weight_gradient)

    def add_products(
        self, block: slice, gradient: Tensor, x_gradient: Tensor | None, weight_gradient: Tensor | None
    ) -> None:
        """Add the products of the gradient by z to those by x and weight."""
        if weight_gradient is not None:
            weight_gradient.addmm_(gradient.mT, self.x[block].to(self.dtype))
        if x_gradient is not None:
            for classes, weight in self.parts():
                x_gradient[block].addmm_(gradient[:, classes], weight)

    def totals(self) -> Iterator[Tensor | None]:
        """Yield the gradients of x, weight and bias, each in its tensor's dtype."""
        for tensor, gradient in zip((self.x, self.weight, self.bias), self.gradients, strict=True):
            if gradient is None or tensor is None:
                yield None
            else:
                yield gradient[..., : tensor.shape[-1]].to(tensor.dtype).contiguous()


class TiledSide(Side):
    """The same with the CPU's kernels for products, which take tiles of zᵀ."""

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        needs: tuple[bool, ...],
        dtype: torch.dtype,
        most_examples: int,
    ) -> None:
        super().__init__(x, weight, bias, needs, dtype)
        self.most_classes, columns = min(tile_classes(), len(weight)), most_examples + -most_examples % LANES
        self.products = tile_products(x, weight, self.most_classes, columns)
        self.memory = empty(self.most_classes * columns)
        if self.gradients[1] is not None:
            self.gradients[1] = torch.zeros(len(weight), self.products.width, dtype=dtype)

    def tiles(self, block: slice) -> Iterator[tuple[slice, Tensor]]:
        """Yield the memory for each tile of a block, whose columns are a multiple of 16, and turn to its classes."""
        assert self.weight is not None
        rows = block.stop - block.start
        for classes in split(len(self.weight), self.most_classes):
            self.products.take_classes(classes)
            yield classes, view(self.memory, classes.stop - classes.start, rows + -rows % LANES)

    def write_products(self, z: Tensor, block: slice) -> None:
        for classes, tile in self.tiles(block):
            self.products.write_z(tile, block, None)
            transpose_rows(tile[:, : len(z)], z[:, classes])

    def add_products(
        self, block: slice, gradient: Tensor, x_gradient: Tensor | None, weight_gradient: Tensor | None
    ) -> None:
        x_columns = None
        if x_gradient is not None:
            x_columns = x_gradient.new_zeros(x_gradient.shape[1], len(gradient) + -len(gradient) % LANES)
        for classes, tile in self.tiles(block):
            transpose_rows(gradient[:, classes], tile)
            self.products.take_delta(tile)
            self.products.narrow_delta()
            if x_columns is not None:
                self.products.add_to_x(x_columns)
            if weight_gradient is not None:
                self.products.add_to_weight(weight_gradient[classes], block, beta=1)
        if x_gradient is not None and x_columns is not None:
            x_gradient[block] = x_columns[:, : len(gradient)].mT


def new_side(
    tensors: tuple[Tensor, Tensor | None, Tensor | None], needs: tuple[bool, ...], dtype: torch.dtype, count: int
) -> Side:
    """Return x, weight and bias as a side, for blocks of at most so many examples."""
    x, weight, bias = tensors
    if weight is None or dtype != torch.float32 or not layer_numbers.supports(x, weight):
        return Side(x, weight, bias, needs, dtype)
    return TiledSide(x, weight, bias, needs, dtype, count)


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
    (N, K), dtype = (len(inputs.x), len(inputs.weight)), compute_dtype(inputs.x)
    count = block_examples(N, K, how.block_rows)
    student, teacher = (
        new_side(inputs[i : i + 3], needs[i : i + 3], dtype, count)  # pyright: ignore[reportArgumentType]
        for i in (0, 3)
    )
    D = torch.empty(N, dtype=dtype, device=inputs.x.device)
    memory = [D.new_empty(count, K), None if inputs.teacher_weight is None else D.new_empty(count, K)]
    both_need = any(needs[:3]), any(needs[3:])
    for block in split(N, count):
        z, teacher_z = (side.z(block, m) for side, m in zip((student, teacher), memory, strict=True))
        block_factor = None if factor is None else factor[block].to(D.dtype)
        D[block] = how.value_and_gradients(z, teacher_z, inputs.examples(block), block_factor, both_need)
        for side, gradient, needed in zip((student, teacher), (z, teacher_z), both_need, strict=True):
            if needed:
                side.add(block, gradient)
    return D, [*student.totals(), *teacher.totals(), None]


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
