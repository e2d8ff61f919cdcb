"""Formulas on whole tensors, in PyTorch's operations: they run on every device, and for every input."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ce_torch.costs._precision import to_compute_dtype, to_dtype
from ce_torch.costs._product import product
from ce_torch.costs._reduction import example_grad, reduce
from ce_torch.costs.kernels import Implementation, new_statistics

if TYPE_CHECKING:
    from ce_torch.costs._spec import CostSpec


def formulas(spec: "CostSpec") -> Implementation:
    """Return the cost's formulas as an implementation; its statistics hold nothing."""

    def refusal(*inputs: Any) -> None:
        return None

    def cost(dtype: torch.dtype, reduction: str, *inputs: Any) -> tuple[Tensor, Tensor]:
        C = reduce(reduction, spec.cost(*to_compute_dtype(inputs)), spec.counted(*inputs))
        return to_dtype(C, dtype), new_statistics(inputs[0], C.dtype)

    def delta(grad_output: Tensor, statistics: Tensor | None, reduction: str, z: Tensor, *inputs: Any) -> Tensor:
        g = example_grad(grad_output, reduction, z, spec.counted(z, *inputs))
        result = product(g, spec.delta(*to_compute_dtype((z, *inputs)))).to(z.dtype)
        # δ has the memory format of z.
        return result if z.is_contiguous() else torch.empty_like(z).copy_(result)

    return Implementation("formulas", refusal, cost, delta)
