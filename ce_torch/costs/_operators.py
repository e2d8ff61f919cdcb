"""The kernels of a cost as operators of PyTorch: what `torch.compile`, tracers and fake tensors see of it.

    ce_torch::<name>(reduction, z, y, ...) -> C, statistics
    ce_torch::<name>_delta(grad_output, statistics, reduction, z, y, ...) -> ∂C/∂z

They have no derivatives of their own: `_function.py` gives them some.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._precision import compute_dtype, to_dtype
from ce_torch.costs._spec import CostSpec
from ce_torch.costs.kernels import Implementation, new_cost, new_statistics

LIBRARY = torch.library.Library("ce_torch", "FRAGMENT")
SCHEMA_TYPES = {float: "float", int: "int", Tensor: "Tensor"}


def define(spec: CostSpec, implementations: dict[str, Sequence[Implementation]]) -> Implementation:
    """Define a cost's operators, with what each dispatch key can choose from, and return them as an implementation."""
    inputs = ", ".join(f"{SCHEMA_TYPES.get(kind, 'Tensor?')} {name}" for name, kind in spec.parameters.items())
    name, delta_name = spec.name, f"{spec.name}_delta"
    tags = (torch.Tag.pt2_compliant_tag,)
    LIBRARY.define(f"{name}(str reduction, {inputs}) -> (Tensor C, Tensor statistics)", tags=tags)
    LIBRARY.define(f"{delta_name}(Tensor grad_output, Tensor statistics, str reduction, {inputs}) -> Tensor", tags=tags)
    for key, choices in implementations.items():
        implement(name, delta_name, key, choices)
    torch.library.register_fake(f"ce_torch::{name}", fake_cost, lib=LIBRARY)
    torch.library.register_fake(f"ce_torch::{delta_name}", fake_delta, lib=LIBRARY)
    operators = torch.ops.ce_torch
    operator, delta = getattr(operators, name).default, getattr(operators, delta_name).default

    def cost(dtype: torch.dtype, reduction: str, *inputs: Any) -> tuple[Tensor, Tensor]:
        C, statistics = operator(reduction, *inputs)
        return to_dtype(C, dtype), statistics

    return Implementation("operator", lambda *inputs: None, cost, delta)


def implement(name: str, delta_name: str, key: str, implementations: Sequence[Implementation]) -> None:
    """Let the first implementation that supports the inputs run for this dispatch key."""

    def cost(reduction: str, *inputs: Any) -> tuple[Tensor, Tensor]:
        dtype = compute_dtype(inputs[0])
        C, statistics = first(implementations, inputs).cost(dtype, reduction, *inputs)
        # An operator returns tensors.
        return C, new_statistics(inputs[0], dtype) if statistics is None else statistics

    def delta(grad_output: Tensor, statistics: Tensor, reduction: str, *inputs: Any) -> Tensor:
        return first(implementations, inputs).delta(grad_output, statistics, reduction, *inputs)

    LIBRARY.impl(name, cost, key)
    LIBRARY.impl(delta_name, delta, key)


def first(implementations: Sequence[Implementation], inputs: Sequence[Any]) -> Implementation:
    return next(implementation for implementation in implementations if implementation.refusal(*inputs) is None)


def fake_cost(reduction: str, z: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(z)
    return new_cost(reduction, z, dtype), new_statistics(z, dtype)


def fake_delta(grad_output: Tensor, statistics: Tensor, reduction: str, z: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(z)
