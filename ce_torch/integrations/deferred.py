"""Logits that are not made: the inputs of an output layer, and what a model does to its outputs before the loss.

Their cross-entropy is `linear_log_likelihood` of the layer. Whatever that cost has no option for needs the logits
themselves, and makes them as the layer would have made them.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NoReturn, Self

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F

from ce_torch.costs._precision import is_autocast
from ce_torch.costs._torch_private import tree_map_only
from ce_torch.costs.linear.cost import linear_log_likelihood


class Parameters(NamedTuple):
    """The parameters of a layer z = x (weight + B A)ᵀ + bias, adapter = (A, B)."""

    weight: Tensor
    bias: Tensor | None
    adapter: tuple[Tensor, Tensor] | None = None

    def outputs(self, x: Tensor) -> Tensor:
        """Return z as the layer rounds it."""
        z = F.linear(x, self.weight, self.bias)
        if self.adapter is None:
            return z
        A, B = self.adapter
        return (z + F.linear(F.linear(x.to(A.dtype), A), B)).to(z.dtype)

    def first(self, classes: int) -> Self:
        """Return the parameters of the first classes."""
        bias = None if self.bias is None else self.bias[:classes]
        adapter = None if self.adapter is None else (self.adapter[0], self.adapter[1][:classes])
        return self._replace(weight=self.weight[:classes], bias=bias, adapter=adapter)


class Scale(NamedTuple):
    """What becomes of z: κ tanh(z / κ) / temperature, or z / temperature without a κ."""

    temperature: float = 1.0
    softcap: float | None = None

    def then(self, method: str, value: Any) -> Self | None:
        """Return what this and one more method of `Tensor` come to; None if it isn't of this form."""
        if method == "tanh":
            return None if self.softcap is not None else self._replace(softcap=self.temperature)
        if type(value) not in (int, float) or value <= 0:
            return None
        return self._replace(temperature=self.temperature * (value if method == "div" else 1 / value))


UNCHANGED = Scale()


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype of products under autocast, or None without it."""
    return torch.get_autocast_dtype(device.type) if is_autocast(device) else None


@dataclass(frozen=True, eq=False)
class DeferredLogits:
    """The outputs of a layer for inputs x (..., D) after some steps: methods of `Tensor` with their arguments.

    FSDP looks into a dataclass, and puts on x the hooks that it puts on outputs.
    """

    layer: Any  # a served one
    x: Tensor
    classes: int
    dtype: torch.dtype
    autocast: torch.dtype | None  # as it was when the layer was called
    has_graph: bool  # the same
    scale: Scale = UNCHANGED
    steps: tuple[tuple[Any, ...], ...] = ()

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.x.shape[:-1], self.classes))

    @property
    def ndim(self) -> int:
        return self.x.ndim

    @property
    def device(self) -> torch.device:
        return self.x.device

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def tensor(self, purpose: str) -> Tensor:
        """Return the logits themselves; raise `RuntimeError` while the model computes its loss."""
        if getattr(self.layer, "is_deferring", False):  # it may be served no more
            raise RuntimeError(
                f"the linear cost can't serve this model: its loss needs the logits themselves, for {purpose}; call "
                "remove_linear_cost(model) to train with the model's own loss"
            )
        if self.has_graph and not torch.is_grad_enabled():
            raise RuntimeError(
                "logits of a compiled model would lose their graph under no_grad, or in a function of autograd; hand "
                "in logits.detach() where you need no gradient, logits.clone() where you do"
            )
        with torch.set_grad_enabled(self.has_graph), self.autocast_again():
            return self.take_steps(self.layer(self.x))

    def take_steps(self, logits: Tensor) -> Tensor:
        """Return outputs of the layer after what the model does to them."""
        for method, *arguments in self.steps:
            logits = getattr(logits, method)(*arguments)
        return logits

    def autocast_again(self) -> AbstractContextManager:
        """Return the autocast that the layer was called under."""
        if autocast_dtype(self.device) == self.autocast:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)

    def step(self, method: str, *arguments: Any, **changes: Any) -> "DeferredLogits":
        return replace(self, steps=(*self.steps, (method, *arguments)), **changes)

    def rescale(self, method: str, *arguments: Any) -> "DeferredLogits | Tensor":
        scale = self.scale.then(method, arguments[0] if arguments else None)
        if scale is None:
            return getattr(self.tensor(method), method)(*arguments)
        return self.step(method, *arguments, scale=scale)

    def mul(self, value: Any) -> "DeferredLogits | Tensor":
        return self.rescale("mul", value)

    def div(self, value: Any) -> "DeferredLogits | Tensor":
        return self.rescale("div", value)

    def tanh(self) -> "DeferredLogits | Tensor":
        return self.rescale("tanh")

    __mul__ = __rmul__ = mul
    __truediv__ = true_divide = div

    def float(self) -> "DeferredLogits":
        return self.step("float", dtype=torch.float32)

    def contiguous(self) -> "DeferredLogits":
        return self

    def detach(self) -> "DeferredLogits":
        return replace(self, has_graph=False)

    def view(self, *shape: Any) -> "DeferredLogits | Tensor":
        """Return the logits in another shape, deferred if that keeps the classes of an example together."""
        *rows, classes = shape if isinstance(shape[0], int) else shape[0]
        if classes != self.classes and (classes != -1 or math.prod(rows) != math.prod(self.x.shape[:-1])):
            return self.tensor(f"view{shape}").view(*shape)
        return replace(self, x=self.x.reshape(*rows, self.x.shape[-1]))

    reshape = view

    def __getitem__(self, index: Any) -> "DeferredLogits | Tensor":
        """Return logits, deferred if they are the first classes of some examples."""
        parts = index if isinstance(index, tuple) else (index,)
        if not all(part is ... or isinstance(part, int | slice) for part in parts):
            return self.tensor("an index")[index]
        if ... in parts:
            place = parts.index(...)
            parts = (*parts[:place], *[slice(None)] * (self.ndim + 1 - len(parts)), *parts[place + 1 :])
        if len(parts) < self.ndim:
            return replace(self, x=self.x[parts])
        chosen = range(self.classes)[parts[-1]]
        if not isinstance(chosen, range) or chosen.start != 0 or chosen.step != 1:
            return self.tensor("an index")[index]
        return self.step("narrow", -1, 0, len(chosen), x=self.x[parts[:-1]], classes=len(chosen))

    def cross_entropy(
        self,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: Any = 0.0,
    ) -> Tensor:
        """Return what `F.cross_entropy` returns for the logits (N, K), computed where the layer has its parameters."""
        if self.ndim != 2 or size_average is not None or reduce is not None:
            options = (weight, size_average, ignore_index, reduce, reduction, label_smoothing)
            return F.cross_entropy(self.tensor("a cross-entropy of images"), target, *options)

        is_half = self.dtype in (torch.bfloat16, torch.float16)
        is_sharded = isinstance(self.layer, FSDPModule)
        out_dtype = torch.float32 if is_half and is_autocast(self.device) else self.dtype

        def cost(x: Tensor, parameters: Parameters) -> Tensor:
            W, b, adapter = parameters.first(self.classes)
            if is_sharded and self.autocast is None and x.dtype != W.dtype:
                raise cast_error(x.dtype)
            return linear_log_likelihood(
                x,
                W,
                target,
                b,
                adapter=adapter,
                temperature=self.scale.temperature,
                softcap=self.scale.softcap,
                class_weight=weight,
                ignore_index=ignore_index,
                label_smoothing=label_smoothing,
                reduction=reduction,
                max_memory=self.layer.cost_memory,
                out_dtype=out_dtype,
            )

        with torch.set_grad_enabled(self.has_graph and torch.is_grad_enabled()), self.autocast_again():
            C = self.layer(self.x, cost=cost)
        if C.dtype != out_dtype:
            raise cast_error(C.dtype)
        return C

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Return what a function of PyTorch, or a method of `Tensor`, returns for logits."""
        name, options = function.__name__, dict(kwargs or {})
        if not args and "input" in options:
            args = (options.pop("input"),)
        if name in DEFERRED and isinstance(args[0], cls):
            return getattr(args[0], name)(*args[1:], **options)
        args, options = tree_map_only(cls, lambda logits: logits.tensor(name), (args, options))
        return function(*args, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(f"a tensor has no attribute {name}")
        value = getattr(self.tensor(name), name)
        if name.endswith("_"):
            raise TypeError(f"{name} would change logits that are not kept; clone them first")
        return value

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        self.tensor("an assignment")
        raise TypeError("an assignment would change logits that are not kept; clone them first")


def cast_error(dtype: torch.dtype) -> RuntimeError:
    """Return the error for a cast of what a layer returns, which would be one of x or of the loss."""
    return RuntimeError(
        f"the linear cost can't serve this model: FSDP casts what its output layer returns to {dtype}; leave the "
        "output_dtype of that layer's MixedPrecisionPolicy None"
    )


# What can be done to logits, as a method or a function of PyTorch, without making them.
DEFERRED = {
    *("cross_entropy", "tanh", "mul", "__mul__", "__rmul__", "div", "__truediv__", "true_divide"),
    *("float", "contiguous", "detach", "view", "reshape", "__getitem__"),
}


def made(name: str) -> Callable[..., Any]:
    """Return an operator that makes logits and leaves the rest to them."""
    return lambda self, *values: getattr(self.tensor(name), name)(*values)


for name in ("add", "radd", "sub", "rsub", "rtruediv", "matmul", "pow", "neg", "lt", "le", "gt", "ge", "eq", "ne"):
    setattr(DeferredLogits, f"__{name}__", made(f"__{name}__"))
