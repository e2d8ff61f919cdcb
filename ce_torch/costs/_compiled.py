"""Costs under `torch.func` in the graph of `torch.compile`; apart because `allow_in_graph` loads the compiler.

Where the compiler traces a `torch.autograd.Function` itself, its backward pass has no derivatives, silently, and
`torch.func` finds those of the formulas only. A function in the graph is called where the graph is differentiated.
"""

from typing import Any

import torch

from ce_torch.costs._in_graph import call


@torch.compiler.allow_in_graph
def call_in_graph(*arguments: Any) -> Any:
    """Return what `call` does."""
    return call(*arguments)
