"""The numbers and the cost of a layer as `torch.compile` calls them; apart because `allow_in_graph` loads the compiler.

The compiler does not look inside, but traces the calls down to operators.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ce_torch.costs._product import product
from ce_torch.costs._torch_private import is_recorded
from ce_torch.costs.linear import autograd, fused
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.operators import FIELD_COUNT
from ce_torch.costs.linear.recorded import RecordedLinearLogLikelihood

Result = TypeVar("Result")


@torch.compiler.allow_in_graph
def compiled_numbers(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Return what `autograd.numbers` returns, for the fields of a layer and the options of a plan."""
    return autograd.numbers(Layer(*arguments[:FIELD_COUNT]), Plan(*arguments[FIELD_COUNT:]))


@torch.compiler.allow_in_graph
def compiled_cost(factor: Tensor, z_loss: float, *arguments: Any) -> Tensor:
    """Return Σ factor (C + λ ℓ²) over the examples, λ = `z_loss`, for the same."""
    layer, plan = Layer(*arguments[:FIELD_COUNT]), Plan(*arguments[FIELD_COUNT:])
    if is_recorded() and layer.x.is_cpu and fused.unasked(layer) is None:
        return RecordedLinearLogLikelihood.apply(plan, z_loss, factor, *layer)
    (C, logsumexp, _), _ = autograd.numbers(layer, replace(plan, logsumexp=z_loss != 0))
    return product(factor, C if z_loss == 0 else C + z_loss * logsumexp.square()).sum()


@torch.compiler.disable(
    reason="torch.compile does not support a cost whose classes are shared out among processes, and calls it between "
    "two graphs; with fullgraph=True call it outside of what is compiled"
)
def call_between_graphs(cost: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    return cost(*arguments, **options)
