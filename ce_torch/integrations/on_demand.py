"""Logits as a tensor that a model returns, with a shape, a graph and no memory until an operator takes its numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ce_torch.costs._torch_private import DisableTorchFunction, convert, make_wrapper_subclass, tree_map_only
from ce_torch.integrations.deferred import DeferredLogits, Parameters
from ce_torch.integrations.layer_state import LayerState
from ce_torch.integrations.output_layer import is_of_sharding


def on_demand(deferred: DeferredLogits, parameters: Parameters) -> Tensor:
    """Return deferred logits as a tensor with the graph that the model would have given it.

    The parameters are those of the cost, which FSDP had gathered; the layer's own may be sharded again.
    """
    numbers = Numbers(replace(deferred, has_graph=False), LayerState.now(deferred.layer, deferred.x))
    weight, bias, adapter = parameters
    with torch.set_grad_enabled(deferred.has_graph):
        return Output.apply(numbers, deferred.x, weight, bias, *(adapter or (None, None)))


@dataclass(eq=False)
class Numbers:
    """The numbers of logits, which are made once, as if the model had made them when it returned."""

    deferred: DeferredLogits
    state: LayerState  # of the layer when the model returned
    made: Tensor | None = None

    def make(self) -> Tensor:
        """Return the numbers, as contiguous as the logits say that they are."""
        if self.made is None:
            self.check()
            self.made = self.deferred.tensor("a function").contiguous()
        return self.made

    def check(self) -> None:
        """Raise `RuntimeError` if the layer's outputs would not be those of the model when it returned."""
        layer = self.deferred.layer
        # FSDP gathers the weight of a layer that it shards by itself whenever the layer is called.
        is_sharded = isinstance(layer.weight, DTensor) and not isinstance(layer, FSDPModule)
        if is_sharded or not self.state.is_still(LayerState.now(layer, self.deferred.x)):
            raise RuntimeError(
                "logits can't be made any more, since the weight of their layer has been "
                f"{'sharded again' if is_sharded else 'changed, or its adapters'}; take them before the backward "
                "pass, with the adapters that they are of"
            )


class Output(Function):
    """The output layer as a function of autograd: from x and the parameters to logits that are not made."""

    @staticmethod
    def forward(ctx: Any, numbers: Numbers, *inputs: Tensor | None) -> Tensor:
        ctx.set_materialize_grads(False)  # DDP passes on None from logits that nobody took
        # Not by `save_for_backward`, whose hooks would move or copy what nobody may ever ask for.
        ctx.numbers, ctx.inputs = numbers, inputs
        return LogitsOnDemand(numbers)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_outputs == (None,):
            return (None,) * (1 + len(ctx.inputs))
        ctx.numbers.check()
        deferred, is_differentiated = ctx.numbers.deferred, torch.is_grad_enabled()

        def gradients(*_: Any) -> list[Tensor | None]:
            # A tied weight is among the inputs, and x a function of it: a view ends what autograd goes through here.
            inputs: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in ctx.inputs]
            x, weight, bias, A, B = inputs
            logits = deferred.take_steps(Parameters(weight, bias, None if A is None else (A, B)).outputs(x))
            wanted = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
            found = torch.autograd.grad(logits.to(deferred.dtype), wanted, grad_outputs, create_graph=is_differentiated)
            gradient = dict(zip(map(id, wanted), found, strict=True))
            return [gradient.get(id(tensor)) for tensor in inputs]

        with torch.enable_grad(), deferred.autocast_again():
            return None, *deferred.layer(deferred.x, cost=gradients)  # where FSDP has gathered the parameters


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
        first, kwargs = args[0] if args else None, kwargs or {}
        numbers = first.numbers_after(operator, kwargs) if isinstance(first, cls) else None
        if numbers is not None:
            return cls(numbers)
        made_args, made_kwargs = tree_map_only(cls, lambda logits: logits.numbers.make(), (args, kwargs))
        result = operator(*made_args, **made_kwargs)
        is_in_place = isinstance(first, cls) and result is first.numbers.made
        return first if is_in_place else result

    def numbers_after(self, operator: Any, options: Mapping) -> Numbers | None:
        """Return the numbers after what libraries do to all that a model returns; None if they have to be made."""
        if self.numbers.made is not None:
            return None
        if operator is torch.ops.aten.detach.default:
            return self.numbers
        if operator is torch.ops.aten.clone.default and self.requires_grad and not torch.is_grad_enabled():
            return replace(self.numbers)  # DDP, in a function of autograd
        if operator is convert and options == {"dtype": torch.float32}:
            return replace(self.numbers, deferred=self.numbers.deferred.float())
        return None

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
