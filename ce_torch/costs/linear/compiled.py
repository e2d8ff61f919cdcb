"""The cost of a layer as `torch.compile` calls it, in a file of its own because `allow_in_graph` loads the compiler."""

from typing import Any

import torch
from torch import Tensor

from ce_torch.costs.linear import autograd
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.layer import Layer


@torch.compiler.allow_in_graph
def compiled_costs(c: float, block_rows: int | None, z_loss: float, *layer: Any) -> Tensor:
    """Return the numbers of the examples. The compiler does not look inside, but traces the call down to operators."""
    return autograd.cost(Layer(*layer), Plan(c, block_rows, z_loss=z_loss))
