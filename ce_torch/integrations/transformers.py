"""Models of `transformers` that train on the linear cost: the loss takes their hidden states, and no logits are made."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from ce_torch.integrations.deferred import DeferredLogits, LogitsOnDemand
from ce_torch.integrations.output_layer import ServedLayer, refusal


def use_linear_cost(model: nn.Module) -> None:
    """Let a causal language model of `transformers` compute its loss without logits, by `linear_log_likelihood`.

    Whenever the model gets `labels`, its outputs have the same loss and the same gradients as before, to rounding. The
    model runs its own code, from the shift of the labels to the auxiliary loss of a mixture of experts; its output layer
    and the cross-entropy become one cost. Logits among the outputs are made only if something takes them. Without
    labels, as in generation, the model is what it was.

    Call it before the model is compiled, wrapped for several processes or prepared by `accelerate`, and after PEFT has
    added adapters. `remove_linear_cost` undoes it.

    Args:
        model: a model of `transformers`, or of PEFT around one.

    Raises:
        TypeError, ValueError: the cost can't serve the model, and why. A model whose loss turns out to need the logits
            raises `RuntimeError` in its first step; no loss is ever a different one.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> model = LlamaForCausalLM(LlamaConfig(**sizes))
        >>> use_linear_cost(model)
        >>> words = torch.tensor([[3, 1, 4, 1, 5]])
        >>> model(words, labels=words).loss.backward()
    """
    if isinstance(model, ServedModel):
        return
    layer = model.get_output_embeddings()
    reason = refusal(layer)
    if reason is not None:
        raise ValueError(f"the linear cost can't serve {type(model).__name__}: {reason}")
    layer.__class__ = subclass(type(layer), ServedLayer)
    model.__class__ = subclass(type(model), ServedModel, forward=served_forward(type(model)))


def remove_linear_cost(model: nn.Module) -> None:
    """Let a model compute its loss by itself again.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> model = LlamaForCausalLM(LlamaConfig(**sizes))
        >>> use_linear_cost(model)
        >>> remove_linear_cost(model)
        >>> type(model) is LlamaForCausalLM
        True
    """
    for module in (model.get_output_embeddings(), model):
        if isinstance(module, ServedLayer | ServedModel):
            module.__class__ = type(module).__mro__[2]


class ServedModel(nn.Module):
    """What the class of a served model adds to its own."""


@cache
def subclass(stock: type, served: type, **attributes: Any) -> type:
    """Return a class with the name and the code of a stock class, behind what a served one has."""
    names = {name: getattr(stock, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(stock.__name__, (served, stock), names | attributes)


@cache
def served_forward(stock: type) -> Callable[..., Any]:
    """Return the forward pass of a stock class with deferred logits wherever it computes a loss."""
    signature = inspect.signature(stock.forward)
    position = [*signature.parameters].index("labels") - 1

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        labels = args[position] if len(args) > position else kwargs.get("labels")
        if labels is None:
            return stock.forward(self, *args, **kwargs)
        layer = self.get_output_embeddings()
        layer.has_computed, layer.is_deferring = False, True
        try:
            outputs = stock.forward(self, *args, **kwargs)
        finally:
            layer.is_deferring = False
        if not layer.has_computed:
            raise RuntimeError(
                f"the linear cost can't serve {stock.__name__}, whose loss is no cross-entropy of its output layer; call "
                "remove_linear_cost(model) to train with the model's own loss"
            )
        return outputs

    # Trainer reads the names of the arguments. `functools.wraps` would let accelerate undo this function with its own.
    forward.__signature__ = signature
    return forward
