"""Logits as a tensor that a model returns, with a shape and no memory until a function of PyTorch takes it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ce_torch.costs._torch_private import make_wrapper_subclass, tree_map_only
from ce_torch.integrations.deferred import DeferredLogits
from ce_torch.integrations.layer_state import LayerState


class LogitsOnDemand(Tensor):
    """Logits that are made once, when something takes them, as if the model had made them when it returned."""

    deferred: DeferredLogits
    made: Tensor | None
    state: LayerState  # of the layer when the model returned

    @staticmethod
    def __new__(
        cls: type["LogitsOnDemand"], deferred: DeferredLogits, state: LayerState | None = None
    ) -> "LogitsOnDemand":
        tensor = make_wrapper_subclass(cls, deferred.shape, dtype=deferred.dtype, device=deferred.device)
        tensor.deferred, tensor.made = deferred, None
        tensor.state = state or LayerState.now(deferred.layer, deferred.x)
        return tensor

    def make(self) -> Tensor:
        """Return the logits; raise `RuntimeError` if they would not be those of the model when it returned."""
        if self.made is None:
            layer = self.deferred.layer
            # FSDP gathers the weight of a layer that it shards by itself whenever the layer is called.
            is_sharded = isinstance(layer.weight, DTensor) and not isinstance(layer, FSDPModule)
            if is_sharded or not self.state.is_still(LayerState.now(layer, self.deferred.x)):
                raise RuntimeError(
                    "logits can't be made any more, since the weight of their layer has been "
                    f"{'sharded again' if is_sharded else 'changed, or its adapters'}; take them before the backward "
                    "pass, with the adapters that they are of"
                )
            self.made = self.deferred.tensor("a function")
        return self.made

    def float(self) -> Tensor:
        """Return the logits in float32, which are not made either."""
        if self.made is not None:
            return self.made.float()
        return LogitsOnDemand(self.deferred.float(), self.state)

    def detach(self) -> Tensor:
        """Return the logits without a graph, which are not made either: DeepSpeed detaches whatever a model returns."""
        if self.made is not None:
            return self.made.detach()
        return LogitsOnDemand(replace(self.deferred, has_graph=False), self.state)

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Return what a function returns for the logits. Only their shape and the like are known without them."""
        if function in KNOWN:
            return super().__torch_function__(function, types, args, kwargs or {})
        if function in OF_THE_LOSS:
            raise RuntimeError(
                f"{function.__name__} would miss the gradient of the loss, which is computed without logits; call "
                "remove_linear_cost(model) to have it"
            )
        made_args, made_kwargs = tree_map_only(cls, cls.make, (args, kwargs or {}))
        return function(*made_args, **made_kwargs)

    @classmethod
    def __torch_dispatch__(cls, function: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Return what an operator returns for the logits, where it is called by none of PyTorch's functions."""
        made_args, made_kwargs = tree_map_only(cls, cls.make, (args, kwargs or {}))
        return function(*made_args, **made_kwargs)


KNOWN = {Tensor.size, Tensor.dim, Tensor.numel, Tensor.element_size, Tensor.is_floating_point} | {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "requires_grad", "grad_fn", "is_leaf")
}
OF_THE_LOSS = {Tensor.register_hook, Tensor.retain_grad}
