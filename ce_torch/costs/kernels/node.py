"""A cost on the CPU as a node of autograd in C++, which takes a fraction of the time that a `Function` in Python takes.

`nodes.h` needs PyTorch's headers and many seconds to compile, so no cost compiles it. The costs load it where a wheel
brought it for this PyTorch, or where `python -m ce_torch.build` kept it.
"""

import ctypes
import logging
import sys
import sysconfig
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ce_torch.costs.kernels import compiler, installed, kernels_are_on, store
from ce_torch.costs.kernels.cpp import has_kernels
from ce_torch.costs.kernels.sources import NODE_FILES, read_files

if TYPE_CHECKING:
    from ce_torch.costs._spec import CostSpec

FLAGS = "-std=c++20", "-O2", "-fPIC", "-shared", "-DPYBIND11_SIMPLE_GIL_MANAGEMENT"
LIBRARIES = "-lc10", "-ltorch_cpu", "-ltorch_python"
MISSING = (
    "ce_torch came with nodes, but with none for these sources, PyTorch and Python; for small costs that take less "
    "time run python -m ce_torch.build."
)
OTHERS = (
    "A node is kept, but for another PyTorch, Python, compiler, processor or ce_torch, or where others can write; "
    "for small costs that take less time run python -m ce_torch.build again."
)

log = logging.getLogger("ce_torch")


def node(
    spec: "CostSpec", gradient: Callable[..., Tensor], change: Callable[..., tuple[Tensor | None, ...]]
) -> Callable[..., Tensor | None] | None:
    """Return a function of the dtype, reduction, z, y, ... that returns C, or None for what the node does not take.

    It is None if there is no node. gradient(grad_output, statistics, reduction, z, y, ...) returns ∂C/∂z, and
    change(v, grad_output, ...) its gradients by grad_output and z, where more than their numbers matters.
    """
    loaded = library()
    if loaded is None:
        return None
    kernels = compiler.function(f"{spec.name}_kernels", (), ctypes.c_void_p)()
    return loaded.ce_torch_node(kernels, spec.class_name.encode(), gradient, change)


@cache
def library() -> ctypes.PyDLL | None:
    """Return the node that a wheel brought, or else the kept node, or None."""
    return (load_installed() or load_kept()) if kernels_are_on() else None


def load_installed() -> ctypes.PyDLL | None:
    file = installed.node()
    if file is None:
        return None
    try:
        # Kernels that are asked for are compiled.
        return load_file(file) if has_kernels() else None
    except OSError as error:
        log.warning("The node that came with ce_torch is not used: %s; install ce_torch again.", error)
        return None


def load_kept() -> ctypes.PyDLL | None:
    folder = store.folder()
    if folder is None:
        return None
    try:
        kept = store.read(folder / file_name(compiler.compiler_command()))
        if kept is None and any(folder.glob("node-*")):
            log.info(OTHERS)
        elif kept is None and any(installed.FOLDER.glob("node-*")):
            log.info(MISSING)
        # Kernels that are asked for are compiled.
        return compiler.try_folders(partial(load, kept), folder) if kept is not None and has_kernels() else None
    except (OSError, ValueError) as error:
        log.warning("Small costs take longer than they could: %s; run python -m ce_torch.build again.", error)
        return None


def load(library: bytes, folder: Path) -> ctypes.PyDLL:
    copy = folder / "node.so"
    copy.write_bytes(library)
    return load_file(copy)


def load_file(file: Path) -> ctypes.PyDLL:
    loaded = ctypes.PyDLL(str(file))
    functions = ctypes.py_object, ctypes.py_object
    loaded.ce_torch_node.argtypes = ctypes.c_void_p, ctypes.c_char_p, *functions
    loaded.ce_torch_node.restype = ctypes.py_object
    return loaded


def file_name(command: list[str]) -> str:
    """Return a name for the node of this source, PyTorch, Python, compiler and processor."""
    versions = torch.__version__, str(torch.compiled_with_cxx11_abi()), sysconfig.get_config_var("SOABI") or sys.version
    return compiler.file_name(command, "node", (*read_files(NODE_FILES).values(), *versions, *FLAGS))


def compile(command: list[str], folder: Path) -> bytes:
    """Return the bytes of the node as a library."""
    # It looks for compilers when it is imported, which takes long.
    from torch.utils import cpp_extension

    headers = sysconfig.get_path("include")
    if not (Path(headers) / "Python.h").is_file():
        raise FileNotFoundError(f"there is no Python.h in {headers}; install Python's headers, such as python3-dev")
    flags = [*FLAGS, f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    for path in (*cpp_extension.include_paths(), headers):
        flags += ["-isystem", path]
    flags += ["-idirafter", str(folder)]
    libraries = [*(f"-L{path}" for path in cpp_extension.library_paths()), *LIBRARIES]
    return compiler.compile_files(command, folder, read_files(NODE_FILES), flags, libraries)
