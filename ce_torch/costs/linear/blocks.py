"""A layer and its desired outputs, class by class, and the gradients that come together so."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ce_torch.costs._function import may_be_differentiated
from ce_torch.costs._precision import compute_dtype
from ce_torch.costs.kernels import gpu
from ce_torch.costs.linear.shards import Shard

# A block takes a twentieth of z, but no less than 16 rows and 4 MB in float32: smaller ones take longer.
BLOCKS = 20
FEWEST_ROWS = 16
FEWEST_ELEMENTS = 1 << 20
# In a block of many examples.
FEWEST_CLASSES = 32


@dataclass(frozen=True)
class Setting:
    """What is the same for all examples: equation (83)'s c, the elements of a block, which classes are here."""

    c: float
    elements: int
    shard: Shard


class Layer(NamedTuple):
    """Inputs x (N, D), weight (C, D), bias (C,) and desired outputs; or how each of them changes, None for not at all.

    y is (N, C) desired outputs t, or (N,) classes: then tⱼ is baseⱼ, of shape (C,), and at j = y `peak`, (N,), more.
    """

    x: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    y: Tensor | None = None
    peak: Tensor | None = None
    base: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The precision to work in."""
        return compute_dtype(self.x)

    def to(self, dtype: torch.dtype) -> Self:
        """Return the same layer with its floating tensors in another dtype."""
        return Layer(*(t.to(dtype) if t is not None and t.is_floating_point() else t for t in self))

    def examples(self, block: slice) -> Self:
        """Return the layer for some of the examples."""
        return self._replace(x=self.x[block], y=self.y[block], peak=self.peak[block])

    def of_examples(self, value: float) -> Tensor:
        return torch.full(self.x.shape[:1], value, dtype=self.dtype, device=self.x.device)

    def blocks(self, setting: Setting) -> Iterator[slice]:
        """Yield the classes of each block; formulas hold up to twelve tensors of its size at once."""
        return parts(len(self.weight), max(setting.elements // (12 * max(self.x.shape[0], 1)), FEWEST_CLASSES))

    def z(self, classes: slice) -> Tensor:
        z = self.product(self.x, of_classes(self.weight, classes).mT)
        return z if self.bias is None else z + of_classes(self.bias, classes).to(self.dtype)

    def change_of_z(self, change: Self, classes: slice) -> Tensor | None:
        """Return v = ẋ Wᵀ + x Ẇᵀ + ḃ, or None if that is nothing."""
        terms = []
        if change.x is not None:
            terms.append(self.product(change.x, of_classes(self.weight, classes).mT))
        if change.weight is not None:
            terms.append(self.product(self.x, of_classes(change.weight, classes).mT))
        if change.bias is not None:
            terms.append(of_classes(change.bias, classes).to(self.dtype))
        return sum(terms[1:], start=terms[0]) if terms else None

    def t(self, classes: slice, setting: Setting) -> Tensor:
        """Return the desired outputs of the block."""
        return self.change_of_t(self, classes, setting)

    def change_of_t(self, change: Self, classes: slice, setting: Setting) -> Tensor | None:
        """Return ṫ, or None if that is nothing."""
        if self.y.is_floating_point():
            return None if change.y is None else of_classes(change.y, classes, dim=1).to(self.dtype)
        terms = []
        if change.peak is not None:
            terms.append(torch.where(self.is_class(classes, setting), column(change.peak).to(self.dtype), 0))
        if change.base is not None:
            terms.append(of_classes(change.base, classes).to(self.dtype))
        return sum(terms[1:], start=terms[0]) if terms else None

    def is_class(self, classes: slice, setting: Setting) -> Tensor:
        """Return which elements of the block are at j = y."""
        of_block = torch.arange(classes.start, classes.stop, device=self.x.device) + setting.shard.start
        return column(self.y) == of_block

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        half = self.x.dtype
        if half != self.dtype and gpu.is_on_gpu(self.x) and only_numbers((left, right)):
            return gpu.product_in_float32(left.to(half), right.to(half))
        return left.to(self.dtype) @ right.to(self.dtype)


NOTHING = Layer()
# The names of the fields of a Layer by which gradients are wanted: x, weight, bias.
Wanted = frozenset[str]


def only_numbers(factors: tuple[Tensor | None, ...]) -> bool:
    """Whether of what is made with these factors only the numbers are asked for, so that memory can be written to."""
    return not any(may_be_differentiated(factor) for factor in factors if factor is not None)


class Joined:
    """A gradient that comes part by part along a dimension, shaped like a tensor and of its dtype."""

    def __init__(self, like: Tensor, in_place: bool, dim: int = 0) -> None:
        self.dtype, self.dim, self.parts = like.dtype, dim, []
        # Parts that are joined only in the end are there twice.
        self.whole = torch.empty_like(like, memory_format=torch.contiguous_format) if in_place else None

    def add(self, classes: slice, value: Tensor) -> None:
        if self.whole is None:
            self.parts.append(value.to(self.dtype))
        else:
            of_classes(self.whole, classes, self.dim).copy_(value)

    def joined(self) -> Tensor:
        return torch.cat(self.parts, self.dim) if self.whole is None else self.whole


class Gradients:
    """The gradients that are wanted by x, weight and bias; each block of classes adds its own to them."""

    def __init__(self, layer: Layer, wanted: Wanted, *factors: Tensor | None) -> None:
        self.layer, self.in_place = layer, only_numbers(factors)
        self.x = torch.zeros(layer.x.shape, dtype=layer.dtype, device=layer.x.device) if "x" in wanted else None
        self.weight = Joined(layer.weight, self.in_place) if "weight" in wanted else None
        self.bias = Joined(layer.bias, self.in_place) if "bias" in wanted else None

    def add(self, classes: slice, rows: Tensor, rows_by_change: Tensor | None = None, change: Layer = NOTHING) -> None:
        """Add rows W, rowsᵀ x and Σ rows, and what `rows_by_change` make with Ẇ and ẋ."""
        terms = [(rows, self.layer), (rows_by_change, change)]
        if self.x is not None:
            for of_term, layer in terms:
                if layer.weight is not None:
                    # Apart, because addmm may add one class after the other to what there is, and round every time.
                    product = self.layer.product(of_term, of_classes(layer.weight, classes))
                    self.x = self.x.add_(product) if self.in_place else self.x + product
        if self.weight is not None:
            products = [self.layer.product(of_term.mT, layer.x) for of_term, layer in terms if layer.x is not None]
            self.weight.add(classes, sum(products[1:], start=products[0]))
        if self.bias is not None:
            self.bias.add(classes, rows.sum(0))

    def totals(self, setting: Setting) -> tuple[Tensor, ...]:
        """Return the gradients that are wanted, one after the other."""
        of_x = None if self.x is None else setting.shard.total(self.x).to(self.layer.x.dtype)
        of_layer = of_x, self.weight and self.weight.joined(), self.bias and self.bias.joined()
        return tuple(gradient for gradient in of_layer if gradient is not None)


class TargetGradients:
    """The gradients by y, peak and base, None where there is no such; each block of classes adds its own to them."""

    def __init__(self, layer: Layer, *factors: Tensor | None) -> None:
        self.layer, in_place = layer, only_numbers(factors)
        self.y = Joined(layer.y, in_place, dim=1) if layer.y.is_floating_point() else None
        self.peak = None if layer.peak is None else layer.of_examples(0)
        self.base = None if layer.base is None else Joined(layer.base, in_place)

    def add(self, classes: slice, of_t: Tensor, setting: Setting) -> None:
        if self.y is not None:
            self.y.add(classes, of_t)
        if self.peak is not None:
            self.peak = self.peak + torch.where(self.layer.is_class(classes, setting), of_t, 0).sum(-1)
        if self.base is not None:
            self.base.add(classes, of_t.sum(0))

    def totals(self, setting: Setting) -> tuple[Tensor | None, ...]:
        of_peak = None if self.peak is None else setting.shard.total(self.peak).to(self.layer.peak.dtype)
        return self.y and self.y.joined(), of_peak, self.base and self.base.joined()


def elements_of_block(examples: int, classes: int, block_rows: int | None) -> int:
    if block_rows is not None:
        return block_rows * classes
    return max(examples * classes // BLOCKS, FEWEST_ROWS * classes, FEWEST_ELEMENTS)


def parts(count: int, of_part: int) -> Iterator[slice]:
    """Yield 0 to `count` in parts, of at least one."""
    of_part = max(of_part, 1)
    for start in range(0, count, of_part):
        yield slice(start, min(start + of_part, count))


def of_classes(tensor: Tensor, classes: slice, dim: int = 0) -> Tensor:
    return tensor.narrow(dim, classes.start, classes.stop - classes.start)


def column(of_examples: Tensor) -> Tensor:
    return of_examples.unsqueeze(-1)
