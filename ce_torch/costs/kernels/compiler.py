"""The kernels in C++, compiled for this machine where they are first needed, and kept for later runs."""

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from ce_torch.costs.kernels import OFF, kernels_are_on, store
from ce_torch.costs.kernels.sources import read_sources

# The number in `task.h`, for what Python and the kernels give one another.
ABI_VERSION = 2
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fPIC", "-shared", "-pthread")

# A compiler takes a second or two. After `PATIENCE` seconds the log says what is waited for, after `LIMIT` it is ended.
PATIENCE = 5.0
LIMIT = 120.0
NOT_KEPT = "The kernels can't be kept, and are compiled in every run: %s."

Result = TypeVar("Result")

log = logging.getLogger("ce_torch")


@cache
def library() -> ctypes.CDLL | str:
    """Return the compiled kernels or, where they can't be had, why not; the log says so too."""
    if not kernels_are_on():
        return OFF
    try:
        return kept_or_compiled(named_compiler())
    except subprocess.CalledProcessError as error:
        reason = f"{shlex.join(error.cmd)} failed: {error.stderr.strip()}"
    except subprocess.TimeoutExpired as error:
        reason = f"{shlex.join(error.cmd)} was not done after {LIMIT:.0f} s, and was ended"
    except Exception as error:  # costs work without kernels, whatever it is that keeps them away
        reason = f"{error} ({type(error).__name__})"
    log.warning("Costs on the CPU take longer than they could: %s.", reason)
    return reason


def function(name: str, argument_types: Sequence[Any], result_type: Any) -> Callable[..., Any]:
    """Return a function of the kernels, which are there."""
    kernels = library()
    assert isinstance(kernels, ctypes.CDLL)
    found = kernels[name]
    found.argtypes, found.restype = argument_types, result_type
    return found


def named_compiler() -> list[str]:
    """Return the command that the environment variable CXX names, or c++."""
    named = os.environ.get("CXX", "")
    try:
        return shlex.split(named) or ["c++"]
    except ValueError as error:
        raise ValueError(f"CXX must be a command such as 'ccache g++', got {named!r}: {error}") from error


def kept_or_compiled(compiler: list[str]) -> ctypes.CDLL:
    """Return the kernels as an earlier run has kept them, or compile and keep them."""
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError(
            f"there is no C++ compiler {compiler[0]}; install one, or name it in the environment variable CXX"
        )
    folder, name = store.folder(), file_name(compiler)
    if folder is not None:
        store.clear(folder)
        kept = store.read(folder / name)
        if kept is not None:
            with contextlib.suppress(OSError):  # such as of a library that it needs and this machine lacks
                return in_some_folder(partial(load, kept), folder)
    compiled = in_some_folder(partial(compile, compiler), folder)
    loaded = in_some_folder(partial(load, compiled), folder)
    if folder is None:
        log.info(NOT_KEPT, "this user has no home, and XDG_CACHE_HOME names no folder")
        return loaded
    try:
        store.write(folder / name, compiled)
    except OSError as error:
        log.info(NOT_KEPT, error)
    return loaded


def in_some_folder(work: Callable[[Path], Result], cache: Path | None) -> Result:
    """Do work in a temporary folder or, where there is no room or no program may be loaded from, in the cache."""
    try:
        with store.scratch(None) as folder:
            return work(folder)
    except (OSError, subprocess.CalledProcessError):
        if cache is None:
            raise
        with store.scratch(cache) as folder:
            return work(folder)


def compile(compiler: list[str], folder: Path) -> bytes:
    """Return the kernels as a library."""
    output = folder / "kernels.so"
    for name, text in read_sources().items():
        (folder / name).write_text(text, encoding="utf-8")
    command = [*compiler, *FLAGS, *map(str, sorted(folder.glob("*.cpp"))), "-o", str(output)]
    log.info("Compiling the kernels for costs on the CPU: %s", shlex.join(command))
    run(command, folder)
    if not output.is_file():
        raise subprocess.CalledProcessError(0, command, stderr="it has made no file")
    return output.read_bytes()


def run(command: list[str], folder: Path) -> None:
    """Run a compiler, whose own files are in the folder too; raise `CalledProcessError` or `TimeoutExpired`."""
    # What it says goes to a file: of a pipe, servers that some compilers start would keep the end open.
    with (folder / "said").open("w+b") as said:
        environment = os.environ | {"TMPDIR": str(folder)}
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment, process_group=0
        ) as process:
            try:
                wait(process, command)
            except BaseException:  # Ctrl-C too, which reaches this process alone
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode != 0:
            said.seek(0)
            raise subprocess.CalledProcessError(
                process.returncode, command, stderr=said.read().decode(errors="replace")
            )


def wait(process: subprocess.Popen[bytes], command: list[str]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
        return
    log.warning(
        "The first cost waits for the compiler of its kernels, for up to %.0f s (CE_TORCH_KERNELS=0 does without): %s",
        LIMIT,
        shlex.join(command),
    )
    process.wait(LIMIT - PATIENCE)


def load(library: bytes, folder: Path) -> ctypes.CDLL:
    """Return the kernels from a copy of our own, which nobody can change while it is in use."""
    copy = folder / "kernels.so"
    copy.write_bytes(library)
    loaded = ctypes.CDLL(str(copy))
    version = loaded.ce_torch_abi_version()
    if version != ABI_VERSION:
        raise ImportError(
            f"the kernels must have ABI {ABI_VERSION}, got {version}; make abi_version in task.h the same"
        )
    return loaded


def file_name(compiler: list[str]) -> str:
    """Return a name that tells apart source, compiler, processor and C library: homes are shared between machines."""
    path = os.path.realpath(shutil.which(compiler[0]) or compiler[0])
    facts = (
        *read_sources().values(),
        path,
        *compiler,
        *FLAGS,
        platform.machine(),
        *platform.libc_ver(),
        instructions(),
    )
    return f"kernels-{hashlib.sha256(chr(0).join(facts).encode()).hexdigest()[:16]}"


def instructions() -> str:
    """Return the processor's instruction sets as the operating system lists them."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    listed = re.search(r"^(flags|Features)\s*:.*", cpuinfo, re.MULTILINE)
    return listed.group() if listed else cpuinfo
