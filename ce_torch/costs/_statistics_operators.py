"""The kernels of a softmax layer's numbers as operators of PyTorch.

    ce_torch::<name>(z, y, c, κ, ignore_index, whether H is asked for) -> p, ℓ, H, ĵ, statistics
    ce_torch::<name>_delta(gradients of p, ℓ and H, statistics, z, y, ...) -> the gradient by z

They have no derivatives of their own: `_statistics_function.py` gives them some.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ce_torch.costs._operators import LIBRARY
from ce_torch.costs._precision import compute_dtype
from ce_torch.costs.kernels.statistics import StatisticsImplementation

INPUTS = "Tensor z, Tensor? y, float c, float? softcap, int ignore_index"
ALL_INPUTS = f"{INPUTS}, bool entropy"
OUTPUTS = "(Tensor, Tensor, Tensor, Tensor)"
# p, ℓ, H and ĵ; None for what was not asked for.
Found = tuple[Tensor | None, Tensor, Tensor | None, Tensor]


def define(name: str, implementations: dict[str, Sequence[StatisticsImplementation]]) -> StatisticsImplementation:
    """Define the operators, with what each dispatch key can choose from, and return them as an implementation."""
    schemas = {
        name: f"({ALL_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
        f"{name}_delta": f"(Tensor? g_p, Tensor? g_l, Tensor? g_H, Tensor? statistics, {INPUTS}) -> Tensor",
    }
    for (operator, schema), fake in zip(schemas.items(), (fake_numbers, fake_delta), strict=True):
        LIBRARY.define(operator + schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(f"ce_torch::{operator}", fake, lib=LIBRARY)
    for key, choices in implementations.items():
        for operator, function in zip(schemas, operator_functions(choices), strict=True):
            LIBRARY.impl(operator, function, key)
    all_numbers, delta = (getattr(torch.ops.ce_torch, operator).default for operator in schemas)

    def numbers(z: Tensor, y: Tensor | None, *constants: Any) -> tuple[Found, Tensor]:
        *found, statistics = all_numbers(z, y, *constants)
        return asked_for(found, z, y, *constants), statistics

    return StatisticsImplementation("operator", lambda *inputs: None, numbers, delta)


def operator_functions(choices: Sequence[StatisticsImplementation]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return what the operators do: the first implementation that supports the inputs runs. They return tensors."""

    def first(*inputs: Any) -> StatisticsImplementation:
        return next(choice for choice in choices if choice.refusal(*inputs) is None)

    def numbers(*inputs: Any) -> tuple[Tensor, ...]:
        found, statistics = first(*inputs).numbers(*inputs)
        if statistics is None:
            _, logsumexp, *_ = found
            statistics = logsumexp.new_zeros(3, *logsumexp.shape)
        return *without_none(found, inputs[0]), statistics

    def delta(g_p: Tensor | None, g_l: Tensor | None, g_H: Tensor | None, statistics: Any, *inputs: Any) -> Tensor:
        return first(*inputs, False).delta(g_p, g_l, g_H, statistics, *inputs)

    return numbers, delta


def asked_for(found: Sequence[Tensor], z: Tensor, y: Tensor | None, *constants: Any) -> Found:
    """Return what an operator found, None for what was not asked for."""
    p, logsumexp, H, prediction = found
    return None if y is None else p, logsumexp, H if constants[-1] else None, prediction


def without_none(found: Found, z: Tensor) -> tuple[Tensor, ...]:
    """Return tensors, as an operator does, which share no memory."""
    return tuple(z.new_empty(0, dtype=compute_dtype(z)) if number is None else number for number in found)


def fake_numbers(
    z: Tensor, y: Tensor | None, c: float, softcap: float | None, ignore_index: int, entropy: bool
) -> tuple[Tensor, ...]:
    def new(*shape: Any) -> Tensor:
        return z.new_empty(shape, dtype=compute_dtype(z))

    examples = z.shape[:-1]
    return (
        new(0) if y is None else new(*examples),
        new(*examples),
        new(*examples) if entropy else new(0),
        z.new_empty(examples, dtype=torch.int64),
        new(3, *examples),
    )


def fake_delta(g_p: Any, g_l: Any, g_H: Any, statistics: Any, z: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(z)
