"""Logits as a tensor that a model returns, with a shape and no memory until a function of PyTorch takes it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree

from ce_torch.costs._precision import is_autocast
from ce_torch.costs._torch_private import make_wrapper_subclass
from ce_torch.integrations.deferred import DeferredLogits


class LogitsOnDemand(Tensor):
    """Logits that are made once, when something takes them, as if the model had made them when it returned."""

    deferred: DeferredLogits
    made: Tensor | None
    has_graph: bool
    autocast: torch.dtype | None

    @staticmethod
    def __new__(cls, deferred: DeferredLogits) -> "LogitsOnDemand":
        tensor = make_wrapper_subclass(cls, deferred.shape, dtype=deferred.dtype, device=deferred.device)
        tensor.deferred, tensor.made, tensor.has_graph = deferred, None, torch.is_grad_enabled()
        device = deferred.device
        tensor.autocast = torch.get_autocast_dtype(device.type) if is_autocast(device) else None
        return tensor

    def make(self) -> Tensor:
        """Return the logits."""
        if self.made is None:
            layer = self.deferred.layer
            # FSDP gathers the weight of a layer that it shards by itself whenever the layer is called.
            if isinstance(layer.weight, DTensor) and not isinstance(layer, FSDPModule):
                raise RuntimeError(
                    "logits can't be made any more, since their layer's weight is sharded again; take them before the "
                    "backward pass"
                )
            device, dtype = self.deferred.device.type, self.autocast
            with torch.set_grad_enabled(self.has_graph), torch.autocast(device, dtype, enabled=dtype is not None):
                self.made = self.deferred.tensor("a function")
        return self.made

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Return what a function returns for the logits. Only their shape and the like are known without them."""
        kwargs = kwargs or {}
        if function in KNOWN:
            return super().__torch_function__(function, types, args, kwargs)
        if function is Tensor.float and args[0].made is None:
            tensor = cls(args[0].deferred.float())
            tensor.has_graph, tensor.autocast = args[0].has_graph, args[0].autocast
            return tensor
        args, kwargs = pytree.tree_map_only(cls, cls.make, (args, kwargs))
        return function(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, function: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Return what an operator returns for the logits, where it is called by none of PyTorch's functions."""
        args, kwargs = pytree.tree_map_only(cls, cls.make, (args, kwargs or {}))
        return function(*args, **kwargs)


KNOWN = {Tensor.size, Tensor.dim, Tensor.numel, Tensor.element_size, Tensor.is_floating_point} | {
    getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "grad_fn", "is_leaf")
}
