"""An output layer and its desired outputs, computed for a block of classes at a time."""

from collections.abc import Iterator
from typing import Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from ce_torch.costs._autograd import may_be_differentiated
from ce_torch.costs._precision import compute_dtype, to_dtype
from ce_torch.costs.kernels import gpu
from ce_torch.costs.linear.blocks import Plan, column, narrow
from ce_torch.costs.linear.memory import Sizes

Field = TypeVar("Field", bound=Tensor | None, covariant=True)


class Fields(NamedTuple, Generic[Field]):
    """Inputs x (N, D), weight (K, D), bias (K,), c of each example (N,) or None for the plan's, desired outputs t.

    An adapter of low rank r has inputs and a weight of its own, (N, r) and (K, r), whose product is added to z.
    y holds t itself, shape (N, K), or classes, shape (N,). For classes tⱼ is `off_value`, shape (K,) or None for 0,
    plus `on_value`, shape (N,), at j = y.
    """

    x: Field
    weight: Field
    bias: Tensor | None
    c: Tensor | None
    adapter_x: Tensor | None
    adapter_weight: Tensor | None
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
        """N, K, D, to which an adapter adds its rank, and the bytes of numbers."""
        (N, K), D = (self.x.shape[0], self.weight.shape[0]), sum(weight.shape[1] for _, weight in self.pairs())
        return Sizes(N, K, D, self.x.itemsize, self.dtype.itemsize)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype to compute in."""
        return compute_dtype(self.x)

    def examples(self, block: slice | Tensor) -> Self:
        """Return the layer of some examples."""
        names = "x", "c", "adapter_x", "y", "on_value"
        return self._replace(**{name: None if (t := getattr(self, name)) is None else t[block] for name in names})

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
        z = add([self.matmul(x, narrow(weight, classes).mT) for x, weight in self.pairs()])
        assert z is not None
        return z if self.bias is None else z + narrow(self.bias, classes).to(self.dtype)

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return the inputs and weights whose products z is the sum of."""
        pairs = [(self.x, self.weight)]
        if self.adapter_x is not None and self.adapter_weight is not None:
            pairs.append((self.adapter_x, self.adapter_weight))
        return pairs

    def z_tangent(self, tangent: Tangent, classes: slice) -> Tensor | None:
        """Return v = ẋ Wᵀ + x Ẇᵀ + ḃ of the block, or None if it has no term."""
        terms = []
        tangents = (tangent.x, tangent.weight), (tangent.adapter_x, tangent.adapter_weight)
        for (x, weight), (x_tangent, weight_tangent) in zip(self.pairs(), tangents, strict=False):
            if x_tangent is not None:
                terms.append(self.matmul(x_tangent, narrow(weight, classes).mT))
            if weight_tangent is not None:
                terms.append(self.matmul(x, narrow(weight_tangent, classes).mT))
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
    return fields._make(to_dtype(t, dtype) if t is not None and t.is_floating_point() else t for t in fields)


def add(terms: list[Tensor]) -> Tensor | None:
    """Return the sum of the terms, or None if there are none."""
    return sum(terms[1:], start=terms[0]) if terms else None


def is_constant(*tensors: Tensor | None) -> bool:
    """Return True if nobody differentiates what is computed from the tensors, so that its memory can be reused."""
    return not any(may_be_differentiated(tensor) for tensor in tensors if tensor is not None)
