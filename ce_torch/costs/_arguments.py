"""The checks of all arguments. An error names the argument, what it was, what is expected and what to do.

A check that returns something returns the argument as the costs use it: NumPy's numbers as Python's, and class indices
as int64.
"""

import inspect
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor, nn

from ce_torch.costs._torch_private import count_dispatch_modes, is_transformed, tracing_state
from ce_torch.costs.kernels.cpp import are_taken

FLOATING = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})
CLASSES = frozenset({torch.int64, torch.uint8})  # as F.cross_entropy


def check_arguments(z: Tensor, y: Tensor) -> Tensor:
    """Return y; raise `TypeError` or `ValueError` unless y are desired outputs or class indices for z."""
    if not is_transformed() and are_taken(z, y):
        return y
    check_z(z)
    return check_desired(y, z.shape, z, "z")


def check_z(z: Tensor) -> None:
    check_floating("z", z)
    if z.ndim == 0:
        raise ValueError("z must have shape (..., K), the classes last, got a scalar; pass z.unsqueeze(-1)")


def classes_last(dim: int | None, z: Tensor, y: Any, *weights: Tensor | None) -> Any:
    """Return z, y and weights, which broadcast to z, with its dimension `dim` last; class indices as they are."""
    if dim is None and isinstance(z, Tensor) and z.ndim > 3:
        check_reading(z, y)
    if dim is None or dim == -1:
        return z, y, *weights
    check_floating("z", z)
    if not -z.ndim <= dim < z.ndim:
        raise ValueError(f"dim must be a dimension of z, of shape {tuple(z.shape)}, got {dim}")
    if isinstance(y, Tensor) and y.is_floating_point():
        y = move_last(dim, z, y)
    return move_last(dim, z, z), y, *(move_last(dim, z, weight) for weight in weights)


def move_last(dim: int, z: Tensor, tensor: Tensor | None) -> Tensor | None:
    if tensor is None or tensor.ndim > z.ndim:
        return tensor
    return tensor.reshape((1,) * (z.ndim - tensor.ndim) + tensor.shape).movedim(dim, -1)


def check_reading(z: Tensor, y: Any) -> None:
    """Raise `ValueError` if y may be the classes of z whether these are last or, as in PyTorch's losses, second."""
    if isinstance(y, Tensor) and y.shape == z.shape[:-1] == z.shape[:1] + z.shape[2:] and z.shape[-1] > 1:
        raise ValueError(
            f"dim must say which dimension of z holds the classes, since y of shape {tuple(y.shape)} fits z of shape "
            f"{tuple(z.shape)} in two ways; pass dim=1 if they come second, as in F.cross_entropy, or dim=-1"
        )


def class_dim(dim: int | None) -> int:
    return -1 if dim is None else dim


def check_dense(name: str, tensor: Tensor) -> None:
    """Raise `TypeError` unless the argument called `name` is a tensor that holds all of its elements."""
    if not isinstance(tensor, Tensor):
        expression = f"torch.as_tensor({name})"
        if isinstance(tensor, (int, float)):
            expression = f"torch.tensor({tensor if name in ('y', 'mask') else float(tensor)})"
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}; pass {expression}")
    if tensor.is_nested:
        raise TypeError(f"{name} must not be a nested tensor; pass its rows, torch.cat({name}.unbind())")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}; pass {name}.to_dense()")


def check_floating(name: str, tensor: Tensor) -> None:
    """Raise `TypeError` unless the argument called `name` is a dense tensor of real numbers."""
    check_dense(name, tensor)
    if tensor.dtype in FLOATING:
        return
    raise TypeError(
        f"{name} must be floating point (float64, float32, bfloat16 or float16), got {tensor.dtype}; "
        f"pass {name}{conversion(tensor, '.float()')}"
    )


def conversion(tensor: Tensor, method: str) -> str:
    """Return what makes the tensor one of real numbers: `method`, where it holds such already."""
    if tensor.is_complex():
        return ".real"
    return ".dequantize()" if tensor.is_quantized else method


def check_desired(y: Tensor, shape: Sequence[int], z: Tensor, z_name: str) -> Tensor:
    """Return y; raise unless y are desired outputs of this shape, or class indices, for z, called `z_name`."""
    check_dense("y", y)
    holds_classes = y.dtype not in FLOATING
    if holds_classes and y.dtype not in CLASSES:
        raise TypeError(
            f"y must be floating point (desired outputs) or int64 (class indices), got {y.dtype}"
            f"{advice(y, tuple(shape), z_name)}"
        )
    if y.shape != (shape[:-1] if holds_classes else shape):
        raise ValueError(
            f"y must have shape {tuple(shape)} (desired outputs, floating point) or {tuple(shape[:-1])} "
            f"(class indices, int64) for {z_name} of shape {tuple(z.shape)}, got {y.dtype} of shape {tuple(y.shape)}"
            f"{advice(y, tuple(shape), z_name)}"
        )
    check_device("y", y, z, z_name)
    return y.long() if y.dtype == torch.uint8 else y


def advice(y: Tensor, outputs: tuple[int, ...], z_name: str) -> str:
    """Return what to do about y, of a wrong dtype or shape where desired outputs would be of shape `outputs`."""
    classes, shape = outputs[:-1], tuple(y.shape)
    is_floating = y.dtype in FLOATING
    as_numbers = "" if is_floating else conversion(y, ".float()")
    as_classes = "" if y.dtype in CLASSES else conversion(y, ".long()")
    if z_name == "z" and not classes and shape in (outputs, (*outputs, 1)):
        n, column = outputs[0], "y.unsqueeze(-1)" if shape == outputs else "y"
        return (
            f"; z of one dimension is one example of {n} neurons; for {n} examples of one neuron pass z.unsqueeze(-1) "
            f"and {column}{as_numbers}"
        )
    if shape == outputs:
        return f"; if these are desired outputs, such as one-hot vectors, pass y{as_numbers}"
    if shape == classes and is_floating and outputs[-1] == 1:
        return "; pass y.unsqueeze(-1)"
    if shape == classes:
        return f"; if these are class indices, pass y{as_classes}"
    if shape == (*classes, 1):
        return f"; if these are class indices, pass y.squeeze(-1){as_classes}"
    if z_name == "z" and not is_floating and len(outputs) > 2 and shape == (outputs[0], *outputs[2:]):
        return "; if the classes come second in z, as in F.cross_entropy, pass dim=1"
    return ""


def check_device(name: str, tensor: Tensor, z: Tensor, z_name: str = "z") -> None:
    """Raise `ValueError` unless the argument called `name` is on the device of z, called `z_name`."""
    if tensor.device != z.device:
        raise ValueError(
            f"{name} must be on {z_name}'s device, {z.device}, got {tensor.device}; pass {name}.to({z_name}.device)"
        )


def check_element_weight(name: str, weight: Tensor | None, z: Tensor) -> None:
    """Raise unless the argument called `name` is None or broadcasts to z, and z need not broadcast to it."""
    if weight is None:
        return
    check_device(name, weight, z)
    sizes = zip(reversed(weight.shape), reversed(z.shape), strict=False)
    if weight.ndim > z.ndim or any(size not in (1, z_size) for size, z_size in sizes):
        hint = f"; for a factor of each example pass {name}.unsqueeze(-1)"
        raise ValueError(
            f"{name} must have a shape that broadcasts to z's, {tuple(z.shape)}, got {tuple(weight.shape)}"
            f"{hint if weight.shape == z.shape[:-1] else ''}"
        )


def check_class_weight(name: str, weight: Tensor | None, shape: Sequence[int], z: Tensor, z_name: str = "z") -> None:
    """Raise unless the argument called `name` is None or has a factor for each class of outputs of this shape."""
    if weight is None:
        return
    check_device(name, weight, z, z_name)
    if weight.shape != shape[-1:]:
        hint = f'; for a factor of each example multiply the costs of reduction="none" by {name}'
        raise ValueError(
            f"{name} must have shape {tuple(shape[-1:])}, one factor a class, got {tuple(weight.shape)}"
            f"{hint if weight.shape == shape[:-1] else ''}"
        )


def check_token_weight(token_weight: Tensor | None, x: Tensor) -> None:
    """Raise unless the weight is None or has a factor for each example of x."""
    if token_weight is None:
        return
    check_device("token_weight", token_weight, x, "x")
    if token_weight.shape != x.shape[:-1]:
        raise ValueError(
            f"token_weight must have shape {tuple(x.shape[:-1])}, one factor an example, for x of shape "
            f"{tuple(x.shape)}, got {tuple(token_weight.shape)}"
        )


def check_denominator(denominator: float | Tensor | None, reduction: str, x: Tensor) -> None:
    if denominator is None:
        return
    if reduction != "mean":
        raise ValueError(f'denominator goes with reduction="mean", got "{reduction}"; divide the cost by it')
    if isinstance(denominator, Tensor):
        check_device("denominator", denominator, x, "x")


def check_ignored(ignore_index: int, y: Tensor) -> None:
    if ignore_index >= 0 and y.dtype in FLOATING:
        raise ValueError(
            f"ignore_index={ignore_index} goes with class indices, but y holds desired outputs; leave it out"
        )


def option_checks(function: Callable[..., Any]) -> dict[str, Callable[[Any], Any]]:
    """Return the checks of a cost's options, by name; of a `Literal` the values are those of its annotation.

    A check returns the option as the cost uses it, and raises `TypeError` or `ValueError` for what it does not take.
    """
    options = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    choices = {p.name: get_args(p.annotation) for p in options if get_origin(p.annotation) is Literal}
    checks = {name: partial(check_choice, name, values) for name, values in choices.items()}
    return {p.name: OPTIONS[p.name] for p in options if p.name in OPTIONS} | checks


def check_weight(name: str, weight: Tensor | None) -> Tensor | None:
    if weight is not None:
        check_floating(name, weight)
    return weight


def check_mask(mask: Tensor | None) -> Tensor | None:
    if mask is None:
        return None
    check_dense("mask", mask)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, True for what counts, got {mask.dtype}; pass mask.bool()")
    return mask


def check_out_dtype(out_dtype: torch.dtype | None) -> torch.dtype | None:
    if out_dtype is not None and out_dtype not in FLOATING:
        raise TypeError(
            f"out_dtype must be torch.float64, float32, bfloat16 or float16, or None for that of z, got {out_dtype!r}"
        )
    return out_dtype


def check_choice(name: str, choices: tuple[str, ...], value: str) -> str:
    if not isinstance(value, str) or value not in choices:
        *others, last = (f'"{choice}"' for choice in choices)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {describe(value)}")
    return value


def check_number(name: str, kinds: tuple[type, ...], lowest: float, highest: float, expected: str, value: Any) -> Any:
    if type(value) in kinds and lowest <= value <= highest:
        return value
    number = python_number(value)
    if isinstance(number, bool) or not isinstance(number, kinds):
        hint = f"; pass {name}.item()" if isinstance(value, Tensor) else ""
        raise TypeError(f"{name} must be {expected}, got {describe(value)}{hint}")
    if not lowest <= number <= highest:
        raise ValueError(f"{name} must be {expected}, got {describe(value)}")
    return number


def check_temperature(temperature: float | Tensor, name: str = "temperature") -> float | Tensor:
    # c = 1 / temperature is infinite in float32 for less, and c z is nan.
    expected = "a finite number of at least 1e-38"
    if not isinstance(temperature, Tensor):
        return check_number(name, (float, int), 1e-38, sys.float_info.max, expected, temperature)
    check_floating(name, temperature)
    if values_can_be_read(temperature):
        values = temperature.double()
        wrong = values[~((values >= 1e-38) & (values < math.inf))]
        if wrong.numel():
            raise ValueError(f"{name} must be {expected}, got {wrong[0].item()}")
    return temperature


def check_temperature_shape(
    temperature: float | Tensor, examples: Sequence[int] = (), name: str = "temperature"
) -> None:
    """Raise `ValueError` unless there is one temperature, or one for each of the examples, of this shape."""
    if isinstance(temperature, Tensor) and temperature.ndim and temperature.shape != tuple(examples):
        each = f", or {tuple(examples)}, one for each example" if examples else ""
        raise ValueError(
            f"{name} must be a number or a tensor of shape (){each}, got one of shape {tuple(temperature.shape)}"
        )


def check_softcap(softcap: float | None) -> float | None:
    expected = "a finite number of at least 1e-38, or None"
    return (
        None if softcap is None else check_number("softcap", (float, int), 1e-38, sys.float_info.max, expected, softcap)
    )


def check_denominator_option(denominator: float | Tensor | None) -> float | Tensor | None:
    expected = "a finite number greater than 0, a tensor of shape (), or None"
    if denominator is None:
        return None
    if isinstance(denominator, Tensor) and denominator.ndim == 0:
        return denominator
    return check_number("denominator", (float, int), sys.float_info.min, sys.float_info.max, expected, denominator)


def check_dim(dim: int | None) -> int | None:
    return None if dim is None else check_number("dim", (int,), -math.inf, math.inf, "an integer, or None", dim)


def check_ignore_index(ignore_index: int) -> int:
    if ignore_index is None:
        raise TypeError("ignore_index must be an integer, got None; leave it out: its default, -100, is no class")
    return check_number("ignore_index", (int,), -math.inf, math.inf, "an integer", ignore_index)


def check_block_rows(block_rows: int | None) -> int | None:
    expected = "a number of examples, at least 1, or None"
    return None if block_rows is None else check_number("block_rows", (int,), 1, math.inf, expected, block_rows)


# What can be said of an option before there are z and y: when a module is built, and first thing in a call. A cost adds
# those that it alone has.
OPTIONS: dict[str, Callable[[Any], Any]] = {
    "activation": partial(check_choice, "activation", ("sigmoid", "linear")),
    "block_rows": check_block_rows,
    "class_weight": partial(check_weight, "class_weight"),
    "denominator": check_denominator_option,
    "dim": check_dim,
    "ignore_index": check_ignore_index,
    "label_smoothing": partial(check_number, "label_smoothing", (float, int), 0, 1, "a number from 0 to 1"),
    "mask": check_mask,
    "out_dtype": check_out_dtype,
    "pos_weight": partial(check_weight, "pos_weight"),
    "reduction": partial(check_choice, "reduction", ("mean", "sum", "none")),
    "softcap": check_softcap,
    "temperature": check_temperature,
    "token_weight": partial(check_weight, "token_weight"),
    "weight": partial(check_weight, "weight"),
    "z_loss": partial(check_number, "z_loss", (float, int), 0, sys.float_info.max, "a finite number of at least 0"),
}


def python_number(value: Any) -> Any:
    """Return the Python number in a number, or an array of no dimension, of NumPy's; any other value as it is."""
    if type(value) in (bool, int, float) or isinstance(value, Tensor) or getattr(value, "ndim", None) != 0:
        return value
    return value.item()


def describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def values_can_be_read(tensor: Tensor) -> bool:
    """Return True if a look at the values is free: not on another device, not in a trace, not under `torch.func`."""
    return (
        tensor.is_cpu
        and type(tensor) in (Tensor, nn.Parameter)
        and not is_transformed()
        and not torch.compiler.is_compiling()
        and not count_dispatch_modes()
        and tracing_state() is None
    )


def check_classes(y: Tensor, classes: int, ignore_index: int | None = None) -> None:
    """Raise `ValueError` if one of the class indices y names no class, where their values are free to read."""
    if y.is_floating_point() or not values_can_be_read(y) or y.numel() == 0:
        return
    if classes == 0:
        raise ValueError("y must hold desired outputs, got class indices: z has no classes, its last dimension is 0")
    wrong = (y < 0) | (y >= classes)
    allowed = f"0 to {classes - 1}"
    if ignore_index is not None:
        wrong &= y != ignore_index
        allowed += f", or ignore_index={ignore_index}"
    if wrong.any():
        neuron = "; if these are desired outputs of one neuron, pass y.unsqueeze(-1).float()" if classes == 1 else ""
        raise ValueError(f"y must hold class indices from {allowed}, got {y[wrong][0].item()}{neuron}")
