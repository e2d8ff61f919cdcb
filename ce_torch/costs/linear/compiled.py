"""The numbers of a layer as `torch.compile` calls it; not with the rest because `allow_in_graph` loads the compiler."""

from typing import Any

import torch
from torch import Tensor

from ce_torch.costs.linear import autograd
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.operators import FIELD_COUNT


@torch.compiler.allow_in_graph
def compiled_numbers(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Return what `autograd.numbers` returns, for the fields of a layer and the options of a plan.

    The compiler does not look inside, but traces the call down to operators.
    """
    return autograd.numbers(Layer(*arguments[:FIELD_COUNT]), Plan(*arguments[FIELD_COUNT:]))
