"""An output layer and its desired outputs, computed for a block of classes at a time."""

from collections.abc import Iterator
from typing import Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from ce_torch.costs._autograd import may_be_differentiated
from ce_torch.costs._precision import compute_dtype
from ce_torch.costs.kernels import gpu
from ce_torch.costs.linear.blocks import Plan, column, narrow
from ce_torch.costs.linear.memory import Sizes

Field = TypeVar("Field", bound=Tensor | None, covariant=True)


class Fields(NamedTuple, Generic[Field]):
    """Inputs x (N, D), weight (K, D), bias (K,), c of each example (N,) or None for the plan's, desired outputs t.

    y holds t itself, shape (N, K), or classes, shape (N,). For classes tⱼ is `off_value`, shape (K,) or None for 0,
    plus `on_value`, shape (N,), at j = y.
    """

    x: Field
    weight: Field
    bias: Tensor | None
    c: Tensor | None
    y: Field
    on_value: Tensor | None
    off_value: Tensor | None


AnyFields = TypeVar("AnyFields", bound=Fields)

# How each field changes; None if it does not.
Tangent = Fields[Tensor | None]
NO_TANGENT = Tangent(*(None,) * len(Fields._fields))


class Layer(Fields[Tensor]):
    """A layer for N examples of D inputs, K classes, and their desired outputs."""

    __slots__ = ()

    @property
    def sizes(self) -> Sizes:
        """N, K, D, and the bytes of numbers."""
        return Sizes(self.x.shape[0], self.weight.shape[0], self.weight.shape[1], self.x.itemsize, self.dtype.itemsize)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype to compute in."""
        return compute_dtype(self.x)

    def examples(self, block: slice) -> Self:
        """Return the layer of a block of examples."""
        c, on_value = (None if tensor is None else tensor[block] for tensor in (self.c, self.on_value))
        return self._replace(x=self.x[block], c=c, y=self.y[block], on_value=on_value)

    def full(self, value: float) -> Tensor:
        """Return a tensor that holds the value for each example, in the dtype to compute in."""
        return torch.full(self.x.shape[:1], value, dtype=self.dtype, device=self.x.device)

    def scale(self, plan: Plan) -> float | Tensor:
        """Return c, a number for all examples or a column."""
        return plan.c if self.c is None else column(self.c).to(self.dtype)

    def blocks(self, plan: Plan) -> Iterator[slice]:
        """Yield the classes of each block."""
        return plan.class_blocks(self.sizes)

    def z(self, classes: slice) -> Tensor:
        """Return the weighted inputs of the block."""
        z = self.matmul(self.x, narrow(self.weight, classes).mT)
        return z if self.bias is None else z + narrow(self.bias, classes).to(self.dtype)

    def z_tangent(self, tangent: Tangent, classes: slice) -> Tensor | None:
        """Return v = ẋ Wᵀ + x Ẇᵀ + ḃ of the block, or None if it has no term."""
        terms = []
        if tangent.x is not None:
            terms.append(self.matmul(tangent.x, narrow(self.weight, classes).mT))
        if tangent.weight is not None:
            terms.append(self.matmul(self.x, narrow(tangent.weight, classes).mT))
        if tangent.bias is not None:
            terms.append(narrow(tangent.bias, classes).to(self.dtype))
        return add(terms)

    def t(self, classes: slice, plan: Plan) -> Tensor:
        """Return the desired outputs of the block."""
        t = self.t_tangent(self, classes, plan)
        assert t is not None
        return t

    def t_tangent(self, tangent: Tangent, classes: slice, plan: Plan) -> Tensor | None:
        """Return ṫ of the block, or None if it has no term."""
        if self.y.is_floating_point():
            return None if tangent.y is None else narrow(tangent.y, classes, dim=1).to(self.dtype)
        terms = []
        if tangent.on_value is not None:
            terms.append(torch.where(self.class_mask(classes, plan), column(tangent.on_value).to(self.dtype), 0))
        if tangent.off_value is not None:
            terms.append(narrow(tangent.off_value, classes).to(self.dtype))
        return add(terms)

    def class_mask(self, classes: slice, plan: Plan) -> Tensor:
        """Return True for the elements of the block at j = y."""
        indices = torch.arange(classes.start, classes.stop, device=self.x.device) + plan.shard.start
        return column(self.y) == indices

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the product in the dtype to compute in."""
        dtype = self.x.dtype
        if dtype != self.dtype and gpu.is_on_gpu(self.x) and is_constant(left, right):
            return gpu.product_in_float32(left.to(dtype), right.to(dtype))
        return left.to(self.dtype) @ right.to(self.dtype)


def cast(fields: AnyFields, dtype: torch.dtype) -> AnyFields:
    """Return the same fields with floating tensors in another dtype."""
    return fields._make(t.to(dtype) if t is not None and t.is_floating_point() else t for t in fields)


def add(terms: list[Tensor]) -> Tensor | None:
    """Return the sum of the terms, or None if there are none."""
    return sum(terms[1:], start=terms[0]) if terms else None


def is_constant(*tensors: Tensor | None) -> bool:
    """Return True if nobody differentiates what is computed from the tensors, so that its memory can be reused."""
    return not any(may_be_differentiated(tensor) for tensor in tensors if tensor is not None)
