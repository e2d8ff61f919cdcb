"""Faster ways than the formulas, for a cost and its δ that are only worked out, and not differentiated again."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ce_torch.costs import blocks
from ce_torch.costs.precision import wide, widen

Formula = Callable[..., Tensor]


class Fast(NamedTuple):
    """C, sums = cost(z, ...), and ∂C/∂z = delta(of_example, sums, z, ...)."""

    cost: Callable[..., tuple[Tensor, Any]]
    delta: Formula


def by_blocks(cost: Formula, write_delta: Callable[..., Any]) -> Fast:
    """Return formulas in place, as `costs/in_place.py` has them, worked out block of rows by block of rows."""

    def cost_by_blocks(z: Tensor, *inputs: Any) -> tuple[Tensor, tuple]:
        C = torch.empty(z.shape[:-1], dtype=wide(z, *inputs))
        out, buffer = blocks.Buffer(z, C.dtype), blocks.Buffer(z, C.dtype)
        for part in blocks.parts(z.shape):
            z_part, *inputs_part = widen(blocks.parts_of((z, *inputs), part))
            C_part = cost(z_part, *inputs_part, out=out.like(z_part), buffer=partial(buffer.like, z_part))
            blocks.part_of(C, part, dimensions_lacking=1).copy_(C_part)
        return C, ()

    def delta_by_blocks(of_example: Tensor, sums: tuple, z: Tensor, *inputs: Any) -> Tensor:
        delta, dtype = torch.empty_like(z), wide(z, *inputs)
        wide_delta, buffer = blocks.Buffer(z, dtype), blocks.Buffer(z, dtype)
        for part in blocks.parts(z.shape):
            of_part, delta_part, z_part = blocks.parts_of((of_example, delta, z), part)
            out = delta_part if delta.dtype == dtype else wide_delta.like(z_part)
            inputs_part = widen((z_part, *blocks.parts_of(inputs, part)))
            write_delta(*inputs_part, out=out, buffer=partial(buffer.like, z_part))
            torch.mul(out, of_part, out=delta_part)
        return delta

    return Fast(cost_by_blocks, delta_by_blocks)


def with_buffers(cost: Formula, delta: Formula) -> tuple[Formula, Callable[..., Tensor]]:
    """Return formulas as `by_blocks` takes them."""
    return (
        lambda *inputs, out, buffer: cost(*inputs),
        lambda *inputs, out, buffer: out.copy_(delta(*inputs)),
    )
