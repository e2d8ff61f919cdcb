"""Logits as a tensor that a model returns, with a shape, a graph and no memory until an operator takes its numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ce_torch.costs._torch_private import DisableTorchFunction, make_wrapper_subclass, tree_map_only
from ce_torch.integrations.deferred import DeferredLogits
from ce_torch.integrations.layer_state import LayerState
from ce_torch.integrations.output_layer import is_of_sharding

aten = torch.ops.aten


def on_demand(deferred: DeferredLogits, parameters: tuple[Tensor, ...]) -> Tensor:
    """Return deferred logits as a tensor with the graph that the model would have given it.

    FSDP has gathered the parameters of the layer; those that the layer has now are sharded again.
    """
    numbers = Numbers(deferred, LayerState.now(deferred.layer, deferred.x))
    with torch.set_grad_enabled(deferred.has_graph):
        return Output.apply(numbers, deferred.x, *parameters)


@dataclass(eq=False)
class Numbers:
    """The numbers of logits, which are made once, as if the model had made them when it returned."""

    deferred: DeferredLogits
    state: LayerState  # of the layer when the model returned
    made: Tensor | None = None

    def make(self) -> Tensor:
        """Return the numbers, without a graph and as contiguous as they pretend to be."""
        if self.made is None:
            self.made = self.compute(has_graph=False).contiguous()
        return self.made

    def compute(self, has_graph: bool) -> Tensor:
        """Return the layer's logits; raise `RuntimeError` if they would not be those of the model when it returned."""
        layer = self.deferred.layer
        # FSDP gathers the weight of a layer that it shards by itself whenever the layer is called.
        is_sharded = isinstance(layer.weight, DTensor) and not isinstance(layer, FSDPModule)
        if is_sharded or not self.state.is_still(LayerState.now(layer, self.deferred.x)):
            raise RuntimeError(
                "logits can't be made any more, since the weight of their layer has been "
                f"{'sharded again' if is_sharded else 'changed, or its adapters'}; take them before the backward "
                "pass, with the adapters that they are of"
            )
        return replace(self.deferred, has_graph=has_graph).tensor("a function")


class Output(Function):
    """The output layer as a function of autograd: from x and the parameters to logits that are not made."""

    @staticmethod
    def forward(ctx: Any, numbers: Numbers, *inputs: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)  # DDP passes on None from logits that nobody took
        # Not by `save_for_backward`, whose hooks would move or copy what nobody may ever ask for.
        ctx.numbers, ctx.inputs = numbers, inputs
        return LogitsOnDemand(numbers)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_output is None:
            return (None,) * (1 + len(ctx.inputs))
        with torch.enable_grad():
            logits = ctx.numbers.compute(has_graph=True)
        wanted = [tensor for tensor in ctx.inputs if tensor.requires_grad]
        options = {"allow_unused": True, "create_graph": torch.is_grad_enabled()}
        grads = iter(torch.autograd.grad(logits, wanted, grad_output, **options))
        return None, *(next(grads) if tensor.requires_grad else None for tensor in ctx.inputs)


class LogitsOnDemand(Tensor):
    """Logits without numbers. Autograd sees whatever is done to them; below it an operator takes the numbers."""

    numbers: Numbers

    @staticmethod
    def __new__(cls: type["LogitsOnDemand"], numbers: Numbers) -> "LogitsOnDemand":
        deferred = numbers.deferred
        tensor = make_wrapper_subclass(cls, deferred.shape, dtype=deferred.dtype, device=deferred.device)
        tensor.numbers = numbers
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Return what an operator returns for the numbers, or logits on demand again."""
        first, kwargs = args[0], kwargs or {}
        if isinstance(first, cls) and first.numbers.made is None:
            numbers = first.numbers
            if operator is aten.detach.default:
                return cls(numbers)
            if operator is aten.clone.default and not torch.is_grad_enabled():  # DDP clones what a model returns
                return cls(replace(numbers))
            if operator is aten._to_copy.default and kwargs == {"dtype": torch.float32}:
                return cls(replace(numbers, deferred=numbers.deferred.float()))
        made_args, made_kwargs = tree_map_only(cls, lambda logits: logits.numbers.make(), (args, kwargs))
        result = operator(*made_args, **made_kwargs)
        is_in_place = isinstance(first, cls) and result is first.numbers.made
        return first if is_in_place else result

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Return what a function returns for the logits, as a plain tensor if it calls no operators."""
        if function is Tensor.retain_grad or (function is Tensor.register_hook and not is_of_sharding(args[1])):
            raise RuntimeError(
                f"{function.__name__} would miss the gradient of the loss, which is computed without logits; call "
                "remove_linear_cost(model) to have it"
            )
        with DisableTorchFunction():
            if function in READERS:
                args = args[0].view(args[0].shape), *args[1:]
            return function(*args, **(kwargs or {}))


READERS = {  # of memory that logits on demand don't have
    *(Tensor.numpy, Tensor.tolist, Tensor.data_ptr, Tensor.untyped_storage, Tensor.storage, Tensor.share_memory_),
    *(Tensor.__array__, Tensor.__dlpack__, Tensor.__reduce_ex__, Tensor.__deepcopy__, Tensor.__repr__),
}
