"""The output layer of a model that the linear cost serves: an `nn.Linear`, alone or with PEFT's adapters."""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.parametrize import is_parametrized

from ce_torch.integrations.deferred import DeferredLogits, Parameters, autocast_dtype


class Served(nn.Module):
    """What a served model or layer has before the code of its own class, whose name it keeps."""

    @classmethod
    def subclass(cls, stock: type) -> type:
        """Return the class of served objects of a stock class."""
        return subclass(stock, cls)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Return how to copy or unpickle the object: by its name pickle would find the stock class."""
        served, stock = type(self).__bases__
        if not issubclass(served, Served):
            return super().__reduce_ex__(protocol)
        return new, (served, stock), self.__getstate__()


class ServedLayer(Served):
    """What a served layer has before the code of its own class."""

    is_deferring = False  # True while the model computes its loss
    parameters_of_cost: Parameters | None = None  # once it has computed a cost in that time
    cost_memory: int | None = None  # the most bytes that the cost may take
    logits_dtype: torch.dtype | None = None  # that of the outputs, if it isn't that of the product

    def forward(
        self: Any, x: Tensor, cost: Callable[[Tensor, Parameters], Tensor] | None = None, **options: Any
    ) -> Any:
        """Return the cost of inputs x; without a cost the outputs, which are deferred if the model computes its loss.

        The cost is computed in here because hooks have made the parameters ready: those of FSDP have gathered them.
        Options that the class of the layer has, such as PEFT's adapter for each text, are none that the cost has.
        """
        if cost is not None:
            self.parameters_of_cost = self.cost_parameters()
            return cost(x, self.parameters_of_cost)
        if options or not self.is_deferring:
            return super().forward(x, **options)
        autocast = autocast_dtype(x.device)
        return DeferredLogits(
            layer=self,
            x=x,
            classes=self.weight.shape[0],
            dtype=self.logits_dtype or autocast or x.dtype,
            autocast=autocast,
            has_graph=torch.is_grad_enabled(),
        )

    def cost_parameters(self: Any) -> Parameters:
        return Parameters(self.weight, self.bias)


class ServedLoraLayer(ServedLayer):
    """The same for a layer with PEFT's adapters of low rank."""

    def cost_parameters(self: Any) -> Parameters:
        """Return the parameters of the base layer, and of all active adapters as one."""
        weight, bias = self.base_layer.weight, self.base_layer.bias
        names = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged or not names:
            return Parameters(weight, bias)
        A = [self.lora_A[name].weight for name in names]
        B = [self.scaling[name] * self.lora_B[name].weight for name in names]
        for name in names:
            if self.lora_B[name].bias is not None:
                addend = self.scaling[name] * self.lora_B[name].bias
                bias = addend if bias is None else bias + addend
        return Parameters(weight, bias, (A[0], B[0]) if len(names) == 1 else (torch.cat(A), torch.cat(B, 1)))


class ServedDoryHead(ServedLayer):
    """The same for Dory's head, z = s ⊙ (x weightᵀ) with a number s for each word."""

    logits_dtype = torch.float32

    def cost_parameters(self: Any) -> Parameters:
        s = self.logit_scale.float() * self.logit_scale_factor
        return Parameters((s.unsqueeze(-1) * self.weight).to(self.weight.dtype), None)


def output_layer(model: Any) -> Any:
    """Return the layer that makes a model's logits: of PEFT's `modules_to_save` the copy that is trained."""
    layer = model.get_output_embeddings()
    if not hasattr(layer, "modules_to_save"):
        return layer
    is_copied = layer.active_adapters and not layer.disable_adapters
    return layer.modules_to_save[layer.active_adapters[0]] if is_copied else layer.original_module


def served_layer(model: Any) -> Any:
    """Return a model's output layer, as a served one; raise `ValueError` if the cost can't stand for it."""
    layer = output_layer(model)
    reason = refusal(layer)
    if reason is not None:
        raise ValueError(f"the linear cost can't serve {type(model).__name__}: {reason}")
    if not isinstance(layer, ServedLayer):
        served = ServedLoraLayer if is_lora(layer) else ServedDoryHead if is_dory(layer) else ServedLayer
        layer.__class__ = served.subclass(type(layer))
    return layer


def refusal(layer: Any) -> str | None:
    """Return why the cost can't stand for an output layer, or None. A served one may have changed since."""
    if layer is None:
        return "it has no output layer: its get_output_embeddings() returns None"
    if "forward" in vars(layer):
        return "another library has replaced the forward of its output layer"
    if has_hooks(layer):
        return "its output layer has hooks, which would get no logits"
    if is_parametrized(layer):
        return "its output layer has a parametrization, which would be computed more than once"
    base = layer.base_layer if is_lora(layer) else layer
    if not is_linear(base) and not (base is layer and is_dory(layer)):
        which = "its output layer" if base is layer else "the base of its output layer"
        return f"{which} is a {type(base).__name__}, not an nn.Linear"
    if hasattr(type(base.weight), "__tensor_flatten__") and not isinstance(base.weight, DTensor):
        return f"the weight of its output layer is a {type(base.weight).__name__}, not a plain tensor"
    return None if base is layer else refusal_of_adapter(layer)


def refusal_of_adapter(layer: Any) -> str | None:
    """Return why the cost can't stand for PEFT's adapters of an output layer, or None."""
    if layer.lora_variant:
        return "the adapter of its output layer is a variant of LoRA, such as DoRA"
    if any(getattr(dropout, "p", 0) for dropout in layer.lora_dropout.values()):
        return "the adapter of its output layer drops inputs; set lora_dropout to 0"
    return None


def has_hooks(layer: nn.Module) -> bool:
    """Return True if the layer has hooks, other than those that make its parameters ready."""
    names = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    hooks = [(module, hook) for module in layer.modules() for name in names for hook in getattr(module, name).values()]
    return any(module is not layer or not is_of_sharding(hook) for module, hook in hooks)


def is_of_sharding(hook: Callable[..., Any]) -> bool:
    function = getattr(hook, "func", hook)  # of a `functools.partial`
    return str(getattr(function, "__module__", None)).startswith(("torch.distributed.", "deepspeed."))


def is_linear(layer: nn.Module) -> bool:
    """Return True if all that the layer does is x weightᵀ + bias."""
    forwards = nn.Linear.forward, ServedLayer.forward
    return isinstance(layer, nn.Linear) and type(layer).forward in forwards and not is_dory(layer)


def is_lora(layer: nn.Module) -> bool:
    peft = sys.modules.get("peft")  # whoever has a layer of PEFT's has imported it
    return isinstance(layer, ServedLoraLayer) or (
        peft is not None and type(layer).forward is peft.tuners.lora.Linear.forward
    )


def is_dory(layer: nn.Module) -> bool:
    dory = sys.modules.get("transformers.models.dory.modeling_dory")
    return isinstance(layer, ServedDoryHead) or (dory is not None and type(layer).forward is dory.DoryLMHead.forward)


def new(served: type[Served], stock: type) -> Any:
    """Return a served object without a state yet."""
    return object.__new__(served.subclass(stock))


@cache
def subclass(stock: type, served: type, **attributes: Any) -> type:
    """Return a class with the name of a stock class, and what a served one has before its code."""
    names = {name: getattr(stock, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(stock.__name__, (served, stock), names | attributes)
