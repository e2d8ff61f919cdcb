"""Formulas on whole tensors, in PyTorch's operations: they run on every device, and for every input."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ce_torch.costs._precision import to_compute_dtype, to_dtype
from ce_torch.costs._product import product
from ce_torch.costs._reduction import example_grad, reduce
from ce_torch.costs.kernels import Implementation

if TYPE_CHECKING:
    from ce_torch.costs._spec import CostSpec


def formulas(spec: "CostSpec") -> Implementation:
    """Return the cost's formulas as an implementation, without statistics."""

    def refusal(*inputs: Any) -> None:
        return None

    def cost(dtype: torch.dtype, reduction: str, *inputs: Any) -> tuple[Tensor, None]:
        C = reduce(reduction, spec.cost(*to_compute_dtype(inputs)), spec.counted(*inputs))
        return to_dtype(C, dtype), None

    def delta(grad_output: Tensor, statistics: Tensor | None, reduction: str, z: Tensor, *inputs: Any) -> Tensor:
        g = example_grad(grad_output, reduction, z, spec.counted(z, *inputs))
        return follow(z, product(g, spec.delta(*to_compute_dtype((z, *inputs)))))

    def change(
        v: Tensor, grad_output: Tensor | None, statistics: Tensor | None, reduction: str, z: Tensor, *inputs: Any
    ) -> tuple[Tensor, Tensor | None]:
        C_change, delta_change = change_by_formulas(spec, v, grad_output, reduction, z, *inputs)
        return C_change, None if delta_change is None else follow(z, delta_change)

    return Implementation("formulas", refusal, cost, delta, change)


def change_by_formulas(
    spec: "CostSpec", v: Tensor, grad_output: Tensor | None, reduction: str, *inputs: Any
) -> tuple[Tensor, Tensor | None]:
    """Return the derivatives of C and, where there is a grad_output, of ∂C/∂z in the direction v."""
    z, counted = inputs[0], spec.counted(*inputs)
    arguments = to_compute_dtype(inputs)
    v = v.to(arguments[0].dtype)
    C_change = reduce(reduction, product(v, spec.delta(*arguments)).sum(-1), counted, empty=0)
    if grad_output is None:
        return C_change, None
    g = example_grad(grad_output, reduction, z, counted)
    return C_change, product(g, spec.curvature(v, *arguments))


def follow(z: Tensor, delta: Tensor) -> Tensor:
    """Return δ, or its change, in the dtype and the memory format of z."""
    delta = delta.to(z.dtype)
    return delta if z.is_contiguous() else torch.empty_like(z).copy_(delta)
