"""The kernels for the CPU: `softmax.h` and `elements.h`, with the formulas in C++ that the costs bring along.

They take plain tensors of any dtypes and strides. Python calls them as functions of its own, which read tensors by
DLPack: at small sizes all that is around a kernel counts.
"""

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ce_torch.costs._precision import compute_dtype
from ce_torch.costs._torch_private import is_copied_on_write, tensor_reader
from ce_torch.costs.kernels import NOT_PLAIN, Implementation, compiler, new_cost, new_statistics, statistics_room

if TYPE_CHECKING:
    from ce_torch.costs._spec import CostSpec

REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
# A `Refusal` in `refusals.h` is a place among these.
REFUSALS = (
    None,
    NOT_PLAIN,
    "a tensor is not on the CPU",
    "a tensor is of a dtype that they do not support",
    "y or a weight has a shape that does not fit",
    "z or y has no memory",
    "z has no dimension, or more than 16",
    "the weights of the classes vary from example to example",
    "z has more than 2,147,483,647 classes",
)
COPIED = "a tensor has no memory, or is copied on write, and this version of torch copies it when it is read too"
CHANGED = (
    "z, y or a weight was changed after the forward pass where autograd does not see it, such as through .data or a "
    "NumPy array, and they do not fit one another any more; change a clone instead"
)
# Templates of C: `empty_like` is faster than `empty`.
DTYPES = torch.float32, torch.bfloat16, torch.float16, torch.float64
SCALARS = {dtype: torch.empty((), dtype=dtype, device="cpu") for dtype in DTYPES}


def cpp(spec: "CostSpec") -> Implementation:
    """Return the cost's kernels for the CPU as an implementation."""
    # Long, since its functions share the kernels' names: a field of `Implementation` each.
    name, delta_name, change_name = spec.name, f"{spec.name}_delta", f"{spec.name}_change"
    refusal_name, both_name = f"{spec.name}_refusal", f"{spec.name}_value_and_change"
    is_softmax, count = spec.family == "softmax", spec.tensor_count

    def refusal(*inputs: Any) -> str | None:
        return cpu_refusal(refusal_name, *inputs[:count])

    def new(reduction: str, z: Tensor, dtype: torch.dtype) -> Tensor:
        return new_cost(reduction, z, dtype) if reduction == "none" else torch.empty_like(SCALARS[dtype])

    def cost(dtype: torch.dtype, reduction: str, z: Tensor, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        C = new(reduction, z, dtype)
        real = compute_dtype(z)
        keeps = is_softmax and statistics_room(z, inputs[0], real)
        statistics = new_statistics(z, inputs[0], real) if keeps else None
        if not kernel(name)(z, *inputs, REDUCTIONS[reduction], torch.get_num_threads(), statistics, C):
            y, highest = inputs[0], z.shape[-1] - 1
            raise IndexError(f"y must hold class indices from 0 to {highest}, got {y.min().item()} to {y.max().item()}")
        return C, statistics

    def delta(grad_output: Tensor, statistics: Tensor | None, reduction: str, z: Tensor, *inputs: Any) -> Tensor:
        delta = torch.empty_like(z)
        last = REDUCTIONS[reduction], torch.get_num_threads(), statistics, grad_output, delta
        if not kernel(delta_name)(z, *inputs, *last):
            raise RuntimeError(CHANGED)
        return delta

    def change(
        v: Tensor, grad_output: Tensor | None, statistics: Tensor | None, reduction: str, z: Tensor, *inputs: Any
    ) -> tuple[Tensor, Tensor | None]:
        C_change = new(reduction, z, compute_dtype(z))
        delta_change = None if grad_output is None else torch.empty_like(z)
        last = REDUCTIONS[reduction], torch.get_num_threads(), statistics, v, grad_output, C_change, delta_change
        if not kernel(change_name)(z, *inputs, *last):
            raise RuntimeError(CHANGED)
        return C_change, delta_change

    def both(dtype: torch.dtype, v: Tensor, reduction: str, z: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
        C, C_change = new(reduction, z, dtype), new(reduction, z, dtype)
        if not kernel(both_name)(z, *inputs, REDUCTIONS[reduction], torch.get_num_threads(), None, v, C, C_change):
            # It says which y is no class.
            cost(dtype, reduction, z, *inputs)
            raise RuntimeError(CHANGED)
        return C, C_change

    return Implementation("cpp", refusal, cost, delta, change, None if is_softmax else both)


def cpu_refusal(name: str, *tensors: Tensor | None) -> str | None:
    """Return why the kernels do not support z, y and the weights, as the function of this name says, or None."""
    if tensors[0] is None or not tensors[0].is_cpu:
        return "z is not on the CPU"
    if not has_kernels():
        return str(compiler.library())
    if is_copied_on_write and are_copied(*tensors):
        return COPIED
    place = function(name)(*tensors)
    if place != 0:
        return REFUSALS[place]
    for tensor in tensors:
        if tensor is not None and tensor.is_neg():
            return NOT_PLAIN
    return None


def are_copied(*tensors: Any) -> bool:
    """Return True if this version of torch copies one of the tensors when DLPack reads it, or can't tell."""
    asks = is_copied_on_write
    try:
        return asks is not None and any(isinstance(tensor, Tensor) and asks(tensor) for tensor in tensors)
    except NotImplementedError:  # it has no memory that could be asked
        return True


def are_taken(z: Any, y: Any) -> bool:
    """Return True if z and y are what every cost takes, on the CPU; False says nothing."""
    if torch.compiler.is_compiling() or (is_copied_on_write and are_copied(z, y)):
        return False
    takes = functions.get("ce_torch_takes")
    return takes is not None and takes(z, y)


def is_readable(tensor: Tensor) -> bool:
    """Return True if a tensor is plain, with numbers in memory, on the CPU; False says nothing."""
    reads = functions.get("ce_torch_reads")
    if reads is None or (is_copied_on_write and are_copied(tensor)):
        return False
    return reads(tensor) and not tensor.is_neg()


def has_kernels() -> bool:
    return isinstance(compiler.library(), ctypes.CDLL)


def kernel(name: str) -> Callable[..., bool]:
    """Return a kernel, of a cost's inputs, the reduction, threads, statistics, and C or grad_output and δ."""
    return function(name)


# The functions of the kernels that were called, by their names.
functions: dict[str, Callable[..., Any]] = {}


def function(name: str) -> Callable[..., Any]:
    """Return a function of the kernels, which are there, that takes Python's objects."""
    return functions.get(name) or new_function(name)


class MethodDefinition(ctypes.Structure):
    """PyMethodDef: a function in C that Python can call."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


FASTCALL = 0x80
# Python keeps their addresses.
definitions: list[MethodDefinition] = []


def new_function(name: str) -> Callable[..., Any]:
    """Return a function that was not called before; the first of all tells the kernels of Python."""
    kernels = compiler.library()
    assert isinstance(kernels, ctypes.CDLL)
    if not functions:
        set_python = compiler.function(
            "ce_torch_set_python", (ctypes.c_void_p, ctypes.py_object, ctypes.py_object), None
        )
        set_python(tensor_reader(), Tensor, torch.nn.Parameter)
        functions.update({name: as_python(kernels, name) for name in ("ce_torch_takes", "ce_torch_reads")})
    functions[name] = as_python(kernels, name)
    return functions[name]


def as_python(kernels: ctypes.CDLL, name: str) -> Callable[..., Any]:
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.argtypes, new.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p), ctypes.py_object
    address = ctypes.cast(kernels[name], ctypes.c_void_p)
    definitions.append(MethodDefinition(name.encode(), address, FASTCALL, None))
    return new(ctypes.addressof(definitions[-1]), None, None)
