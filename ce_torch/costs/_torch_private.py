"""All of PyTorch's undocumented API that the costs use, looked up when this file is imported.

Each comment or docstring says what an entry is for. Where PyTorch has a public name, it says why that does not do.
"""

import ctypes
from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar

import torch
from torch import Tensor

Answer = TypeVar("Answer", bound=Callable[..., Any])


def find(path: str) -> Any:
    """Return what `torch` has at this path; raise `ImportError` if this version has nothing there."""
    try:
        return attrgetter(path)(torch)
    except AttributeError as error:
        raise ImportError(
            f"ce_torch needs torch.{path}, which torch {torch.__version__} does not have; install a version of torch "
            "that ce_torch was tested with, 2.11 to 2.14, or a newer ce_torch"
        ) from error


# Returns True if a transform of `torch.func` is active.
is_transformed: Callable[[], bool] = find("_C._are_functorch_transforms_active")

# Returns the number of active dispatch modes, such as tracers and fake tensors.
count_dispatch_modes: Callable[[], int] = find("_C._len_torch_dispatch_stack")

# Returns True if the tensor is zero and has no memory, as gradients in forward mode may be.
is_zero_tensor: Callable[[Tensor], bool] = find("Tensor._is_zerotensor")

# Returns how often a tensor has been changed in place, which `torch.inference_mode` does not count.
count_changes: Callable[[Tensor], int] = find("Tensor._version").__get__

# Maps the tensors of one type in nested arguments.
tree_map_only: Callable[..., Any] = find("utils._pytree.tree_map_only")

# Makes a tensor of a subclass, of the shape and dtype given, that has no numbers.
make_wrapper_subclass: Callable[..., Any] = find("Tensor._make_wrapper_subclass")

# A context in which functions of PyTorch take a tensor of a subclass without asking it.
DisableTorchFunction: type = find("_C.DisableTorchFunctionSubclass")

# The operator by which tensors become those of another dtype or device.
convert: Callable[..., Tensor] = find("ops.aten._to_copy.default")

# Returns True if `torch.autograd.grad(is_grads_batched=True)` made the tensor.
is_legacy_batched: Callable[[Tensor], bool] = find("_C._functorch.is_legacy_batchedtensor")

# Returns True if `torch.vmap` made the tensor.
is_batched: Callable[[Tensor], bool] = find("_C._functorch.is_batchedtensor")

# Returns None unless `torch.jit.trace` is active. The public `torch.jit.is_tracing` takes three times as long.
tracing_state: Callable[[], Any] = find("_C._get_tracing_state")

# The warning of `torch.jit.trace`, which is documented, but not exported.
TracerWarning: type[Warning] = find("jit.TracerWarning")

# The class of tensors that have shapes and no numbers, with which compilers trace.
FakeTensor: type[Tensor] = find("_subclasses.fake_tensor.FakeTensor")

# The class of tensors whose changes in place a compiler makes functions.
FunctionalTensor: type[Tensor] = find("_subclasses.functional_tensor.FunctionalTensor")

_storage_address = find("_C._data_address")
_top_hooks = find("_C._autograd._top_saved_tensors_default_hooks")

_compiler = find("compiler")
find("compiler._is_exporting_flag")

_forward_ad = find("autograd.forward_ad")
find("autograd.forward_ad._current_level")
_set_forward_ad = find("autograd.forward_ad._set_fwd_grad_enabled")

_dispatch_mode = find("_C._get_dispatch_mode")
_tracers = tuple(find(f"_C._TorchDispatchModeKey.{name}") for name in ("FAKE", "PROXY", "FUNCTIONAL"))
*_, _functional = _tracers
_vf = find("_VF")

_eager_transforms = find("_functorch.eager_transforms")
find("_functorch.eager_transforms.JVP_NESTING")

_interpreters = find("_C._functorch.get_interpreter_stack")
_functionalize = find("_C._functorch.TransformType.Functionalize")

_batch_dim = find("_C._functorch.maybe_get_bdim")
_level = find("_C._functorch.maybe_get_level")
_unwrap = find("_C._functorch.get_unwrapped")
_top_transform = find("_C._functorch.peek_interpreter_stack")
_pop_transform = find("_C._functorch.pop_dynamic_layer_stack")
_push_transform = find("_C._functorch.push_dynamic_layer_stack")
_GradPointer = find("_C._functorch.CGradInterpreterPtr")
_JvpPointer = find("_C._functorch.CJvpInterpreterPtr")
_set_grad_enabled = find("_C._set_grad_enabled")
_is_forward_enabled = find("_C._is_fwd_grad_enabled")
_set_forward_enabled = find("_C._set_fwd_grad_enabled")
_TransformType = find("_C._functorch.TransformType")

# Return a tensor, and where its batch is, or None, at a level of vmap; and the other way round.
unwrap_batched: Callable[[Tensor, int], tuple[Tensor, int | None]] = find("_C._functorch._unwrap_batched")
add_batch_dim: Callable[[Tensor, int, int], Tensor] = find("_C._functorch._add_batch_dim")

# Return a tensor as the next transform of `torch.func` sees it, at a level that differentiates; the other way round.
unwrap: Callable[[Tensor, int], Tensor] = find("_C._functorch._unwrap_for_grad")
wrap: Callable[[Tensor, int], Tensor] = find("_C._functorch._wrap_for_grad")
unwrap_if_dead: Callable[[Tensor], Tensor] = find("_C._functorch.unwrap_if_dead")

# A function of autograd for the transform on top of the stack.
SingleLevelFunction: type = find("autograd.function._SingleLevelFunction")
_is_single_level = find("_C._functorch.get_single_level_autograd_function_allowed")
_allow_single_level = find("_C._functorch.set_single_level_autograd_function_allowed")


def _read_address(tensor: Tensor) -> int:
    return _storage_address(tensor) + tensor.storage_offset() * tensor.element_size()


# Returns the address of a tensor's numbers, for reading. `data_ptr` would copy the memory of a copy-on-write tensor.
# torch 2.11 does not have the public `const_data_ptr`.
read_address: Callable[[Tensor], int] = getattr(Tensor, "const_data_ptr", _read_address)


find("Tensor._base")


def base(tensor: Tensor) -> Tensor:
    """Return the tensor of which this one is a view, or itself."""
    return tensor if tensor._base is None else tensor._base


# Returns what DLPack offers to C, and copies nothing that is copied on write. `Tensor` offers the same publicly, with
# the copy.
_const_dlpack: Callable[[], Any] | None = getattr(torch._C, "_const_dlpack_exchange_api", None)

# Returns True if the tensor is copied on write; None where DLPack only reads it.
is_copied_on_write: Callable[[Tensor], bool] | None = None if _const_dlpack else find("_C._is_cow_tensor")


class _DlpackFunctions(ctypes.Structure):
    """DLPackExchangeAPI of DLPack 1."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("earlier_api", ctypes.c_void_p),
        ("managed_tensor_allocator", ctypes.c_void_p),
        ("managed_tensor_from_py_object_no_sync", ctypes.c_void_p),
        ("managed_tensor_to_py_object_no_sync", ctypes.c_void_p),
        ("dltensor_from_py_object_no_sync", ctypes.c_void_p),
    )


def tensor_reader() -> int:
    """Return the address of the function by which DLPack reads a tensor of Python's in C."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes, pointer.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p
    capsule = _const_dlpack() if _const_dlpack else find("Tensor.__dlpack_c_exchange_api__")
    functions = _DlpackFunctions.from_address(pointer(capsule, b"dlpack_exchange_api"))
    if functions.major != 1:
        raise ImportError(f"ce_torch needs DLPack 1, torch {torch.__version__} has {functions.major}")
    return functions.dltensor_from_py_object_no_sync


def unpack_dual(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the tensor without its tangent, and the tangent, or None; forward_ad looks for an export first."""
    return _vf._unpack_dual(tensor, level=0)


def make_dual(tensor: Tensor, tangent: Tensor) -> Tensor:
    """Return the tensor with this tangent."""
    return _vf._make_dual(tensor, tangent, level=0)


def is_forward_mode() -> bool:
    """Return True inside `torch.autograd.forward_ad.dual_level`."""
    return _forward_ad._current_level >= 0


def may_be_dual() -> bool:
    """Return True if tensors outside of transforms may have tangents; `torch.func.jvp` keeps its own inside."""
    return is_forward_mode() and _eager_transforms.JVP_NESTING == 0


def enable_forward_mode() -> Any:
    """Return a context in which operations carry tangents, for a `jvp` that is itself differentiated."""
    return _set_forward_ad(True)


def has_saved_tensor_hooks() -> bool:
    """Return True inside `torch.autograd.graph.saved_tensors_hooks`."""
    return _top_hooks(True) is not None


def is_wrapped(tensor: Tensor) -> bool:
    """Return True if a transform of `torch.func` batches or differentiates the tensor, or a compiler sees one."""
    return torch.compiler.is_compiling() or _level(tensor) >= 0


def count_numbers(tensor: Tensor) -> int:
    """Return how many numbers a tensor has, with those of a batch that transforms of `torch.func` hide."""
    while _level(tensor) >= 0:
        tensor = _unwrap(tensor)
    return tensor.numel()


def is_functionalized() -> bool:
    """Return True inside `torch.func.functionalize`, which does not support a `Function` of autograd."""
    return any(interpreter.key() == _functionalize for interpreter in _interpreters() or ())


def settled_by_compiler(function: Answer) -> Answer:
    """Let the compiler ask a question once, where it traces, and not guard all that the answer comes from.

    The public `torch.compiler.assume_constant_result` marks a function in the same way, but loads the compiler.
    """
    vars(function)["_dynamo_marked_constant"] = True
    return function


@settled_by_compiler
def is_exporting() -> bool:
    """Return True inside `torch.export`. Dynamo of torch 2.11 takes the public function to return True everywhere."""
    return _compiler._is_exporting_flag


def is_recorded() -> bool:
    """Return True if fake tensors, `make_fx` or a compiler's functionalization see the call, outside `torch.func`."""
    return not is_transformed() and any(_dispatch_mode(key) is not None for key in _tracers)


def is_seen_by_compiler() -> bool:
    """Return True where Dynamo or AOTAutograd traces, which asks for all derivatives of what it traces itself."""
    return torch.compiler.is_compiling() or _dispatch_mode(_functional) is not None


class Transform:
    """The transform of `torch.func` that sees a call first; as a context what is called goes to the next."""

    __slots__ = ("_interpreter", "_modes", "_pointer", "_saved", "is_grad", "is_jvp", "is_vmap", "level")

    def __init__(self, interpreter: Any) -> None:
        key = interpreter.key()
        self.is_vmap = key == _TransformType.Vmap
        self.is_grad = not self.is_vmap and key == _TransformType.Grad
        self.is_jvp = not self.is_vmap and not self.is_grad and key == _TransformType.Jvp
        self.level: int = interpreter.level()
        # What the pointer points to.
        self._interpreter = interpreter
        self._pointer: Any = None
        if self.is_grad or self.is_jvp:
            self._pointer = (_GradPointer if self.is_grad else _JvpPointer)(interpreter)

    def lift(self, tensor: Tensor) -> Tensor:
        """Return the tensor as one that the transform knows."""
        return self._pointer.lift(unwrap_if_dead(tensor))

    def __enter__(self) -> None:
        # Where derivatives were off when the transform began, they are off for the next.
        self._modes = torch.is_grad_enabled(), _is_forward_enabled()
        if self.is_grad and not self._pointer.prevGradMode():
            _set_grad_enabled(False)
        if self.is_jvp and not self._pointer.prevFwdGradMode():
            _set_forward_enabled(False)
        self._saved = _pop_transform()

    def __exit__(self, *_: Any) -> None:
        _push_transform(self._saved)
        grad, forward = self._modes
        _set_grad_enabled(grad)
        _set_forward_enabled(forward)


def apply_at_level(function: type, *arguments: Any) -> Any:
    """Return what a `SingleLevelFunction` does."""
    before = _is_single_level()
    _allow_single_level(True)
    try:
        return function.apply(*arguments)
    finally:
        _allow_single_level(before)


def current_transform() -> Transform | None:
    """Return the transform of `torch.func` that is on top of the stack, which has no public question."""
    top = _top_transform()
    return None if top is None else Transform(top)


def primal(tensor: Tensor) -> Tensor:
    """Return the tensor without its tangent. The public `unpack_dual` does not support `vmap`."""
    if is_batched(tensor):
        return add_batch_dim(primal(_unwrap(tensor)), _batch_dim(tensor), _level(tensor))
    return _forward_ad.unpack_dual(tensor).primal
