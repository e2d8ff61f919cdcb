"""The output layer of a model that the linear cost serves: an `nn.Linear`, alone or with PEFT's adapters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ce_torch.costs._precision import is_autocast
from ce_torch.integrations.deferred import DeferredLogits, Parameters


class ServedLayer(nn.Module):
    """What the class of a served layer adds to its own."""

    is_deferring = False  # True while the model computes its loss
    has_computed = False  # True once it has computed a cost for the model

    def forward(self, x: Tensor, cost: Callable[[Tensor, Parameters], Tensor] | None = None) -> Any:
        """Return the cost of inputs x; without a cost the outputs, which are deferred if the model computes its loss.

        The cost is computed in here because hooks have made the parameters ready: those of FSDP have gathered them.
        """
        if cost is not None:
            self.has_computed = True
            return cost(x, Parameters(self.weight, self.bias))
        if not self.is_deferring:
            return super().forward(x)
        dtype = torch.get_autocast_dtype(x.device.type) if is_autocast(x.device) else x.dtype
        return DeferredLogits(self, x, self.weight.shape[0], dtype)


def refusal(layer: Any) -> str | None:
    """Return why the linear cost can't stand for this output layer, None if it can."""
    if layer is None:
        return "it names no output layer: get_output_embeddings() returns None"
    if not isinstance(layer, nn.Linear) or type(layer).forward is not nn.Linear.forward:
        return f"its output layer is of {type(layer).__module__}.{type(layer).__qualname__}, not an nn.Linear"
    if "forward" in vars(layer):
        return "another library has replaced the forward of its output layer"
    return None
