"""The kernels of a cost as operators of PyTorch: what `torch.compile`, tracers and fake tensors see of it.

    ce_torch::<name>(reduction, z, y, ...) -> C, statistics
    ce_torch::<name>_delta(grad_output, statistics, reduction, z, y, ...) -> ∂C/∂z
    ce_torch::<name>_change(v, grad_output, statistics, reduction, z, y, ...) -> their derivatives in the direction v
    ce_torch::<name>_value_and_change(v, reduction, z, y, ...) -> C and its derivative in the direction v

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
    inputs = input_schema(spec)
    upstream = "Tensor? grad_output, Tensor? statistics"
    schemas = {
        spec.name: f"({inputs}) -> (Tensor C, Tensor statistics)",
        f"{spec.name}_delta": f"(Tensor grad_output, Tensor? statistics, {inputs}) -> Tensor",
        f"{spec.name}_change": f"(Tensor v, {upstream}, {inputs}) -> (Tensor C_change, Tensor delta_change)",
        f"{spec.name}_value_and_change": f"(Tensor v, {inputs}) -> (Tensor C, Tensor C_change)",
    }
    fakes = fake_cost, fake_delta, fake_change, fake_value_and_change
    for (name, schema), fake in zip(schemas.items(), fakes, strict=True):
        LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(f"ce_torch::{name}", fake, lib=LIBRARY)
    for key, choices in implementations.items():
        implement([*schemas], key, choices)
    operator, delta, change_operator, both_operator = (getattr(torch.ops.ce_torch, name).default for name in schemas)

    def cost(dtype: torch.dtype, reduction: str, *inputs: Any) -> tuple[Tensor, Tensor]:
        C, statistics = operator(reduction, *inputs)
        return to_dtype(C, dtype), statistics

    def change(v: Tensor, grad_output: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor | None]:
        C_change, delta_change = change_operator(v, grad_output, *rest)
        return C_change, None if grad_output is None else delta_change

    def both(dtype: torch.dtype, v: Tensor, reduction: str, *inputs: Any) -> tuple[Tensor, Tensor]:
        C, C_change = both_operator(v, reduction, *inputs)
        return to_dtype(C, dtype), to_dtype(C_change, dtype)

    return Implementation("operator", lambda *inputs: None, cost, delta, change, both)


def input_schema(spec: CostSpec) -> str:
    """Return the inputs of a cost's operators as a schema names them."""
    inputs = ", ".join(f"{SCHEMA_TYPES.get(kind, 'Tensor?')} {name}" for name, kind in spec.parameters.items())
    return f"str reduction, {inputs}"


def implement(names: Sequence[str], key: str, implementations: Sequence[Implementation]) -> None:
    """Let the first implementation that supports the inputs run for this dispatch key."""

    def cost(reduction: str, *inputs: Any) -> tuple[Tensor, Tensor]:
        z, y = inputs[:2]
        C, statistics = first(implementations, inputs).cost(compute_dtype(z), reduction, *inputs)
        # An operator returns tensors.
        return C, new_statistics(z, y, compute_dtype(z), on_gpu=z.is_cuda) if statistics is None else statistics

    def delta(grad_output: Tensor, statistics: Tensor | None, reduction: str, *inputs: Any) -> Tensor:
        return first(implementations, inputs).delta(grad_output, statistics, reduction, *inputs)

    def change(
        v: Tensor, grad_output: Tensor | None, statistics: Tensor | None, reduction: str, *inputs: Any
    ) -> tuple[Tensor, Tensor]:
        C_change, delta_change = first(implementations, inputs).change(v, grad_output, statistics, reduction, *inputs)
        return C_change, inputs[0].new_empty(0) if delta_change is None else delta_change

    def both(v: Tensor, reduction: str, *inputs: Any) -> tuple[Tensor, Tensor]:
        return first(implementations, inputs).value_and_change(compute_dtype(inputs[0]), v, reduction, *inputs)

    for name, function in zip(names, (cost, delta, change, both), strict=True):
        LIBRARY.impl(name, function, key)


def first(implementations: Sequence[Implementation], inputs: Sequence[Any]) -> Implementation:
    return next(implementation for implementation in implementations if implementation.refusal(*inputs) is None)


def fake_cost(reduction: str, z: Tensor, y: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(z)
    return new_cost(reduction, z, dtype), new_statistics(z, y, dtype, on_gpu=z.is_cuda)


def fake_delta(grad_output: Tensor, statistics: Tensor | None, reduction: str, z: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(z)


def fake_change(
    v: Tensor, grad_output: Tensor | None, statistics: Tensor | None, reduction: str, z: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return new_cost(reduction, z, compute_dtype(z)), z.new_empty(0) if grad_output is None else torch.empty_like(z)


def fake_value_and_change(v: Tensor, reduction: str, z: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return new_cost(reduction, z, compute_dtype(z)), new_cost(reduction, z, compute_dtype(z))
