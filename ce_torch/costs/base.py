"""What every cost shares: its arguments and their errors, its reduction, its module."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ce_torch.costs.fast import memory_is_all
from ce_torch.costs.precision import is_autocast


def check_arguments(z: Tensor, y: Tensor, reduction: str = "none") -> None:
    """Raise `TypeError` or `ValueError` unless y are desired outputs or class indices for z."""
    if not isinstance(z, Tensor):
        raise TypeError(f"z must be a tensor, got {type(z).__name__}")
    if not z.is_floating_point():
        raise TypeError(f"z must be floating point (weighted inputs, not classes), got {z.dtype}")
    if z.ndim == 0:
        raise ValueError("z must have shape (..., C), the classes last, got a scalar")
    check_desired(y, z.shape, z, "z")
    check_reduction(reduction)


def check_desired(y: Tensor, shape: Sequence[int], z: Tensor, of: str) -> None:
    """Raise unless y are desired outputs of this shape, or class indices, on the device of the argument called `of`."""
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a tensor, got {type(y).__name__}")
    if y.dtype != torch.int64 and not y.is_floating_point():
        raise TypeError(f"y must be floating point (desired outputs) or int64 (class indices), got {y.dtype}")
    if y.shape != (shape[:-1] if y.dtype == torch.int64 else shape):
        raise ValueError(
            f"y must have shape {tuple(shape)} (desired outputs, floating point) or {tuple(shape[:-1])} "
            f"(class indices, int64) for {of} of shape {tuple(z.shape)}, got {y.dtype} of shape {tuple(y.shape)}"
        )
    check_device("y", y, z, of)


def check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')


def check_device(name: str, tensor: Tensor, z: Tensor, of: str = "z") -> None:
    """Raise `ValueError` unless the argument called `name` is on the device of z, or of the argument called `of`."""
    if tensor.device != z.device:
        raise ValueError(
            f"{name} must be on {of}'s device, {z.device}, got {tensor.device}; move it with .to({of}.device)"
        )


def check_weight(name: str, weight: Tensor | None, z: Tensor, of: str = "z") -> None:
    """Raise unless the argument called `name` is None or a floating point tensor on the device of z, called `of`."""
    if weight is None:
        return
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        got = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f"{name} must be a floating point tensor or None, got {got}")
    check_device(name, weight, z, of)


def values_can_be_read(tensor: Tensor) -> bool:
    """Whether a look at the values is free: not on another device, not in a trace, not under `torch.func`."""
    return (
        tensor.is_cpu
        and type(tensor) in (Tensor, nn.Parameter)
        and not torch._C._are_functorch_transforms_active()
        and not torch.compiler.is_compiling()
        and memory_is_all()
    )


def check_classes(y: Tensor, classes: int, ignore_index: int | None = None) -> None:
    """Raise `ValueError` if one of the class indices y names no class, as far as their values are free to read."""
    if y.is_floating_point() or not values_can_be_read(y) or y.numel() == 0:
        return
    wrong = (y < 0) | (y >= classes)
    allowed = f"0 to {classes - 1}"
    if ignore_index is not None:
        wrong &= y != ignore_index
        allowed += f", or ignore_index={ignore_index}"
    if wrong.any():
        raise ValueError(f"y must hold class indices from {allowed}, got {y[wrong][0].item()}")


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

    Tensor options (weights) are buffers: `.to(device)` moves them, `state_dict()` holds them.
    """

    function: ClassVar[Callable[..., Tensor]]
    option_parameters: ClassVar[dict[str, inspect.Parameter]]

    def __init_subclass__(cls) -> None:
        parameters = inspect.signature(cls.function).parameters.values()
        cls.option_parameters = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
        if "__init__" not in cls.__dict__:
            cls.__signature__ = inspect.Signature(cls.option_parameters.values())

    def __init__(self, **options: Any) -> None:
        super().__init__()
        known = self.option_parameters
        self._constants: dict[str, Any] = {}
        for name in options:
            if name not in known:
                raise TypeError(f"{type(self).__name__} has no option {name!r}; its options are {', '.join(known)}")
        for name, parameter in known.items():
            value = options.get(name, parameter.default)
            if isinstance(value, Tensor) or (value is None and parameter.annotation == Tensor | None):
                self.register_buffer(name, value)
            else:
                self._constants[name] = value

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments for `function`, those left at None excepted."""
        return self._constants | dict(self.named_buffers(recurse=False))

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
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items() if value is not None)
