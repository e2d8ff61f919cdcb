"""What every cost shares: the error of a class that there is not, the dtype of its result, its module."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ce_torch.costs._arguments import check_classes, check_option
from ce_torch.costs._precision import is_autocast


def evaluate(
    costs: Callable[..., Tensor], reduction: str, z: Tensor, y: Tensor, *options: Any, **ignored: int
) -> Tensor:
    """Return costs(reduction, z, y, *options); where it fails for a class that there is not, say so."""
    try:
        return costs(reduction, z, y, *options)
    except (IndexError, RuntimeError):
        # To look at the classes before takes a tenth of the time of a small cost.
        check_classes(y, z.shape[-1], **ignored)
        raise


def in_dtype_of(z: Tensor, C: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
    """Return C in `out_dtype`; for None in z's dtype, or float32 under autocast, as PyTorch's own losses."""
    if out_dtype is None:
        out_dtype = C.dtype if is_autocast(z.device) else z.dtype
    return C if C.dtype == out_dtype else C.to(out_dtype)


class Cost(nn.Module):
    """A cost as a module; its options are the keyword arguments of `function`, the cost as a function of (z, y).

    An option is an attribute, checked whenever it is set. Tensors are buffers, which `.to(device)` moves and
    `state_dict()` holds; an `nn.Parameter`, such as a temperature that is learned, is a parameter.
    """

    function: ClassVar[Callable[..., Tensor]]
    option_names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        parameters = inspect.signature(cls.function).parameters.values()
        cls.option_names = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    # The types are those of nn.Module: so a type checker finds a misspelt option.
    def __setattr__(self, name: str, value: Tensor | nn.Module) -> None:
        if name in self.option_names:
            if callable(getattr(type(self), name, None)):
                kind = type(self).__name__
                raise AttributeError(f"{name} is a method of {kind} too, and not set; build another {kind}({name}=...)")
            value = check_option(name, value)
            for places in (self.__dict__, self._buffers, self._parameters):
                places.pop(name, None)
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
                return
        super().__setattr__(name, value)

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments for `function`, those that are None excepted."""
        return {name: value for name in self.option_names if (value := getattr(self, name)) is not None}

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return C for the weighted inputs z (..., C) and y, desired outputs (..., C) or class indices (...)."""
        return type(self).function(z, y, **self.options)

    def activation(self, z: Tensor) -> Tensor:
        """Return a, the outputs of the output layer, for its weighted inputs z (..., C)."""
        raise NotImplementedError

    def delta(self, z: Tensor, y: Tensor) -> Tensor:
        """Return δ = ∂Cₓ/∂z of each example x, shaped like z, whatever the reduction: where backpropagation starts."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
