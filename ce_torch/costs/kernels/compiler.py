"""The kernels in C++: what a wheel brought, or what is compiled here when first needed, and kept for later runs."""

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from ce_torch.costs.kernels import OFF, installed, kernels_are_on, store
from ce_torch.costs.kernels.sources import read_sources

# The version of the structs and arguments that Python passes to the kernels. It is the number in `task.h`.
ABI_VERSION = 8
# Vectors are written out: what -O3 does beyond -O2 makes the kernels half as large again, and none faster.
FLAGS = (
    "-std=c++17",
    "-O2",
    "-march=native",
    "-fno-math-errno",
    "-fPIC",
    "-shared",
    "-pthread",
)

# A compiler takes about 20 seconds. After `PATIENCE` seconds the log names it, and after `LIMIT` it is killed.
PATIENCE = 5.0
LIMIT = 120.0
NOT_KEPT = "The kernels can't be kept, so every run compiles them: %s."

Result = TypeVar("Result")

log = logging.getLogger("ce_torch")


@cache
def library() -> ctypes.CDLL | str:
    """Return the compiled kernels, or the reason why there are none, which also goes to the log."""
    if not kernels_are_on():
        return OFF
    try:
        return load_installed() or find_or_compile(compiler_command())
    except subprocess.CalledProcessError as error:
        reason = f"{shlex.join(error.cmd)} failed: {error.stderr.strip()}"
    except subprocess.TimeoutExpired as error:
        reason = f"{shlex.join(error.cmd)} was not done after {LIMIT:.0f} s, and was ended"
    except Exception as error:  # costs work without kernels, whatever is wrong with these
        reason = f"{error} ({type(error).__name__})"
    log.warning("Costs on the CPU take longer than they could: %s.", reason)
    return reason


def function(name: str, argument_types: Sequence[Any], result_type: Any) -> Callable[..., Any]:
    """Return a function of the kernels, which must be there."""
    kernels = library()
    assert isinstance(kernels, ctypes.CDLL)
    kernel = kernels[name]
    kernel.argtypes, kernel.restype = argument_types, result_type
    return kernel


def load_installed() -> ctypes.CDLL | None:
    """Return the kernels that a wheel brought, or None; if they can't be used the log says why."""
    try:
        file = installed.kernels()
        return None if file is None else load_file(file)
    except (OSError, ImportError) as error:
        log.warning("The kernels that came with ce_torch are not used: %s; install ce_torch again.", error)
        return None


def compiler_command() -> list[str]:
    """Return the command that the environment variable CXX names, or c++."""
    named = os.environ.get("CXX", "")
    try:
        return shlex.split(named) or ["c++"]
    except ValueError as error:
        raise ValueError(f"CXX must be a command such as 'ccache g++', got {named!r}: {error}") from error


def find_or_compile(compiler: list[str]) -> ctypes.CDLL:
    """Return the kernels that an earlier run kept, or compile and keep them."""
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError(
            f"there is no C++ compiler {compiler[0]}; install one, or name it in the environment variable CXX"
        )
    folder, name = store.folder(), file_name(compiler)
    if folder is not None:
        store.clear(folder)
        kept = store.read(folder / name)
        if kept is not None:
            with contextlib.suppress(OSError):  # it may need a library that this machine lacks
                return try_folders(partial(load, kept), folder)
    compiled = try_folders(partial(compile, compiler), folder)
    loaded = try_folders(partial(load, compiled), folder)
    if folder is None:
        log.info(NOT_KEPT, store.why_missing())
        return loaded
    try:
        store.write(folder / name, compiled)
    except OSError as error:
        log.info(NOT_KEPT, error)
    return loaded


def try_folders(work: Callable[[Path], Result], cache: Path | None) -> Result:
    """Do work in a temporary folder or, where that has no room or forbids programs, in a folder in the cache."""
    try:
        with store.scratch(None) as folder:
            return work(folder)
    except (OSError, subprocess.CalledProcessError):
        if cache is None:
            raise
        with store.scratch(cache) as folder:
            return work(folder)


def compile(compiler: list[str], folder: Path) -> bytes:
    """Return the bytes of the kernels as a library."""
    return compile_files(compiler, folder, read_sources(), FLAGS)


def compile_files(
    compiler: list[str], folder: Path, files: Mapping[str, str], flags: Sequence[str], libraries: Sequence[str] = ()
) -> bytes:
    """Return the bytes of a library of these files."""
    output = folder / "kernels.so"
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    command = [*compiler, *flags, *map(str, sorted(folder.glob("*.cpp"))), *libraries, "-o", str(output)]
    log.info("The kernels for costs on the CPU are compiled: %s", shlex.join(command))
    run(command, folder)
    if not output.is_file():
        raise subprocess.CalledProcessError(0, command, stderr="it made no file")
    return output.read_bytes()


def run(command: list[str], folder: Path) -> None:
    """Run a compiler, which has its own files in the folder; raise `CalledProcessError` or `TimeoutExpired`."""
    # The output goes to a file, since servers that some compilers start would keep a pipe open.
    output = folder / "output"
    environment = os.environ | {"TMPDIR": str(folder)}
    with (
        output.open("wb") as file,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, process_group=0
        ) as process,
    ):
        try:
            wait(process, command)
        except BaseException:  # also Ctrl-C, which reaches this process alone
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        text = output.read_text(encoding="utf-8", errors="replace")
        raise subprocess.CalledProcessError(process.returncode, command, stderr=text)


def wait(process: subprocess.Popen[bytes], command: list[str]) -> None:
    """Wait for the process; raise `TimeoutExpired` after `LIMIT` seconds."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
        return
    log.warning(
        "The first cost waits for the compiler of its kernels, up to %.0f s (CE_TORCH_KERNELS=0 turns kernels off): %s",
        LIMIT,
        shlex.join(command),
    )
    process.wait(LIMIT - PATIENCE)


def load(library: bytes, folder: Path) -> ctypes.CDLL:
    """Load the kernels from a copy in the folder, which nobody can change while it is in use."""
    copy = folder / "kernels.so"
    copy.write_bytes(library)
    return load_file(copy)


def load_file(file: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(file))
    version = loaded.ce_torch_abi_version()
    if version != ABI_VERSION:
        raise ImportError(
            f"the kernels must have ABI {ABI_VERSION}, got {version}; make abi_version in task.h the same"
        )
    return loaded


def file_name(compiler: list[str], kind: str = "kernels", texts: Iterable[str] | None = None) -> str:
    """Return a name for these texts, or the kernels', and this compiler, processor and C library.

    Machines may share a home.
    """
    path = os.path.realpath(shutil.which(compiler[0]) or compiler[0])
    texts = (*read_sources().values(), *FLAGS) if texts is None else texts
    facts = (*texts, path, *compiler, platform.machine(), *platform.libc_ver(), instructions())
    return f"{kind}-{hashlib.sha256(chr(0).join(facts).encode()).hexdigest()[:16]}"


def instructions() -> str:
    """Return the processor's instruction sets, as the operating system lists them."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    listed = re.search(r"^(flags|Features)\s*:.*", cpuinfo, re.MULTILINE)
    return listed.group() if listed else cpuinfo
