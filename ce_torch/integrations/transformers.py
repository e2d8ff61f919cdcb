"""Models of `transformers` that train on the linear cost, which takes their hidden states: no logits are made."""

import inspect
from collections.abc import Callable, MutableMapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ce_torch.costs._arguments import OPTIONS
from ce_torch.costs._torch_private import is_forward_mode, is_transformed
from ce_torch.costs.log_likelihood import log_likelihood
from ce_torch.integrations.deferred import DeferredLogits, Parameters
from ce_torch.integrations.on_demand import on_demand
from ce_torch.integrations.output_layer import Served, served_layer, subclass


def use_linear_cost(model: nn.Module, *, max_memory: str | int | None = None) -> None:
    """Let a language model of `transformers` compute its loss without logits, by `linear_log_likelihood`.

    Whenever the model gets `labels`, its outputs have the loss and the gradients that they had before, to rounding. The
    model runs its own code, from the shift of the labels to the auxiliary loss of a mixture of experts; its output
    layer and the cross-entropy become one cost. `outputs.logits` are made only if something takes them. Without
    labels, as in generation, the model does what it did before.

    Call it before the model is compiled, sharded or prepared by accelerate. `remove_linear_cost` undoes it.

    Args:
        model: a model of `transformers`, or PEFT's model of one.
        max_memory: the most memory that the cost may take beyond its inputs and gradients, as in
            `linear_log_likelihood`: a number of bytes, or a text such as "64 MB"; None for a twentieth of the logits.
            To change it call `use_linear_cost` again.

    Raises:
        TypeError, ValueError: `max_memory` is not as above, or the cost can't serve the model; the sentence says why. A
            model whose loss turns out to need the logits raises `RuntimeError` in the first step. The loss is never a
            different one.

    Example:
        >>> from ce_torch.integrations.transformers import use_linear_cost
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> model = LlamaForCausalLM(LlamaConfig(**sizes))
        >>> use_linear_cost(model)
        >>> words = torch.tensor([[3, 1, 4, 1, 5]])
        >>> model(words, labels=words).loss.backward()
    """
    base, cost_memory = base_model(model), OPTIONS["max_memory"](max_memory)
    if isinstance(base, ServedModel):
        base.cost_memory = cost_memory
        return
    if "forward" in vars(base):
        raise ValueError(
            f"the linear cost can't serve {type(base).__name__}: another library has replaced its forward, as "
            "accelerate does; call use_linear_cost before that"
        )
    served_class = ServedModel.subclass(type(base))
    served_layer(base)
    base.__class__ = served_class
    base.cost_memory = cost_memory


def remove_linear_cost(model: nn.Module) -> None:
    """Let a model compute its loss by itself again, as before `use_linear_cost`.

    Example:
        >>> from ce_torch.integrations.transformers import remove_linear_cost, use_linear_cost
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> model = LlamaForCausalLM(LlamaConfig(**sizes))
        >>> use_linear_cost(model)
        >>> remove_linear_cost(model)
        >>> type(model) is LlamaForCausalLM
        True
    """
    served = [module for module in base_model(model).modules() if isinstance(module, Served)]
    for module in served:
        if not issubclass(type(module).__bases__[0], Served):
            raise RuntimeError(f"{type(module).__name__} has been sharded since; call remove_linear_cost before that")
    for module in served:
        module.__class__ = type(module).__bases__[1]
        for name in ("cost_memory", "is_deferring", "parameters_of_cost"):
            vars(module).pop(name, None)


def base_model(model: Any) -> Any:
    """Return a model of transformers, out of PEFT's; raise `TypeError` if it is something else."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not hasattr(base, "get_output_embeddings"):
        raise TypeError(
            f"model must be a language model of transformers, got {type(base).__name__}; pass the model itself, before "
            "anything wraps it"
        )
    return base


class ServedModel(Served):
    """What a served model has before the code of its own class."""

    cost_memory: int | None = None  # the most bytes that the cost may take

    @classmethod
    def subclass(cls, stock: type) -> type:
        return subclass(stock, cls, forward=served_forward(stock))


@cache
def served_forward(stock: type) -> Callable[..., Any]:
    """Return the forward pass of a model's class, with deferred logits where it computes a loss."""
    signature = inspect.signature(stock.forward)
    if "labels" not in signature.parameters:
        raise ValueError(
            f"the linear cost can't serve {stock.__name__}: it computes no loss, as its forward takes no labels"
        )
    position = [*signature.parameters].index("labels") - 1

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        labels = args[position] if len(args) > position else kwargs.get("labels")
        if labels is None:
            return stock.forward(self, *args, **kwargs)
        layer = served_layer(self)
        layer.parameters_of_cost, layer.is_deferring, layer.cost_memory = None, True, self.cost_memory
        try:
            outputs = stock.forward(self, *args, **kwargs)
        finally:
            layer.is_deferring = False
        parameters, layer.parameters_of_cost = layer.parameters_of_cost, None
        if parameters is None:
            raise RuntimeError(
                f"the linear cost can't serve {stock.__name__}: its loss isn't a cross-entropy of its output layer; "
                "call remove_linear_cost(model) to train with the model's own loss"
            )
        return visible(outputs, parameters, self.training)

    # Trainer reads the names of the arguments. `functools.wraps` would let accelerate take this function off.
    forward.__signature__ = signature
    return forward


def visible(outputs: Any, parameters: Parameters, is_training: bool) -> Any:
    """Return a model's outputs with tensors in place of deferred logits; if it is compiled, in evaluation only."""
    if isinstance(outputs, DeferredLogits):
        if torch.compiler.is_compiling():
            return outputs if is_training else outputs.tensor("evaluation")
        if is_transformed() or is_forward_mode():
            return outputs.tensor("a transform")
        return on_demand(outputs, parameters)
    if isinstance(outputs, tuple):
        return tuple(visible(output, parameters, is_training) for output in outputs)
    if isinstance(outputs, MutableMapping):
        for name, output in [*outputs.items()]:
            if isinstance(output, DeferredLogits):
                outputs[name] = visible(output, parameters, is_training)
    return outputs


def causal_lm_loss(
    logits: Tensor,
    labels: Tensor | None,
    vocab_size: int,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """Return the loss of a causal language model whose logits exist: `log_likelihood` of the next word, in float32.

    It stands for a model's own loss of the same arguments: `model.loss_function = causal_lm_loss`.

    Args:
        logits: shape (..., T, vocab_size).
        labels: the words, int64, shape (..., T). Position t is compared with label t + 1.
        vocab_size: the number of words.
        num_items_in_batch: a number that divides the sum over words; None for the mean over words that count.
        ignore_index: the label of words that do not count.
        shift_labels: labels that are shifted already, in place of `labels`.
        kwargs: ignored; models pass on what they were called with.

    Returns:
        The loss, float32, shape ().

    Raises:
        TypeError, ValueError: as `log_likelihood`.

    Example:
        >>> from ce_torch.integrations.transformers import causal_lm_loss
        >>> causal_lm_loss(torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]]), vocab_size=4)  # ln 4
        tensor(1.3863)

    Source: `ForCausalLMLoss` of transformers.
    """
    if shift_labels is None:
        if labels is None:
            raise TypeError("labels must be a tensor where there are no shift_labels, got None")
        shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    z, y = logits.view(-1, vocab_size), shift_labels.reshape(-1).to(logits.device)
    if num_items_in_batch is None:
        return log_likelihood(z, y, ignore_index=ignore_index, out_dtype=torch.float32)
    C = log_likelihood(z, y, ignore_index=ignore_index, reduction="sum", out_dtype=torch.float32)
    return C / (num_items_in_batch.to(C.device) if isinstance(num_items_in_batch, Tensor) else num_items_in_batch)


def compute_loss_func(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Return the loss of a causal language model from its outputs, for `Trainer(compute_loss_func=compute_loss_func)`.

    `Trainer` then asks the model for logits, which exist; `use_linear_cost` does without them.

    Args:
        outputs: outputs of the model, with logits (..., T, K).
        labels: the words, int64, shape (..., T).
        num_items_in_batch: as in `causal_lm_loss`.

    Returns:
        The loss, float32, shape ().

    Raises:
        TypeError, ValueError: as `log_likelihood`.

    Example:
        >>> from ce_torch.integrations.transformers import compute_loss_func
        >>> compute_loss_func({"logits": torch.zeros(1, 3, 4)}, torch.tensor([[0, 1, 2]]))  # ln 4
        tensor(1.3863)
    """
    logits = outputs["logits"]
    return causal_lm_loss(logits, labels, logits.shape[-1], num_items_in_batch)
