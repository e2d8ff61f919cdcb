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
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCES = tuple(Path(__file__).with_name(name) for name in ("cpu_kernels.cpp", "products.cpp"))
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fPIC", "-shared")


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None, and a line in the log, where they can't be had."""
    try:
        return load(shlex.split(os.environ.get("CXX") or "c++"))
    except subprocess.CalledProcessError as error:
        unavailable(f"{shlex.join(error.cmd)} failed: {error.stderr.strip()}")
    except Exception as error:  # costs work without kernels, whatever it is that keeps them away
        unavailable(f"{error} ({type(error).__name__})")
    return None


def unavailable(reason: str) -> None:
    logging.getLogger("ce_torch").warning("Costs on the CPU take longer than they could: %s.", reason)


def load(compiler: list[str]) -> ctypes.CDLL:
    """Return the kernels as an earlier run has kept them, or compile and keep them."""
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError(
            f"there is no C++ compiler {compiler[0]}; install one, or name it in the environment variable CXX"
        )
    kept = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ce_torch" / file_name(compiler)
    if is_ours(kept) and is_ours(kept.parent):
        return ctypes.CDLL(str(kept))
    with TemporaryDirectory(prefix="ce_torch-", ignore_cleanup_errors=True) as scratch:
        compiled = Path(scratch) / kept.name
        command = [*compiler, *FLAGS, *map(str, SOURCES), "-o", str(compiled)]
        # A compiler without OpenMP, such as Apple's, makes kernels of one thread.
        if subprocess.run([*command, "-fopenmp"], capture_output=True).returncode != 0:
            subprocess.run(command, check=True, capture_output=True, text=True, errors="replace")
        loaded = ctypes.CDLL(str(compiled))
        with contextlib.suppress(OSError):  # without a folder to keep it in, each run compiles its own
            keep(compiled, kept)
    return loaded


def is_ours(path: Path) -> bool:
    """Whether nobody but this user, or the machine's administrator, can have written what is there."""
    try:
        status = path.stat()
    except OSError:
        return False
    return not hasattr(os, "getuid") or (status.st_uid in (0, os.getuid()) and not status.st_mode & 0o022)


def keep(compiled: Path, kept: Path) -> None:
    """Copy a file to where it is kept, whole or not at all: other processes may be at it too."""
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = kept.with_name(f".{kept.name}.{os.getpid()}")
    shutil.copy(compiled, unfinished)
    unfinished.chmod(0o700)
    unfinished.replace(kept)


def file_name(compiler: list[str]) -> str:
    """Return a name that tells apart source, compiler and processor: homes are shared between machines."""
    path = os.path.realpath(shutil.which(compiler[0]) or compiler[0])
    facts = (
        *(source.read_text(encoding="utf-8") for source in SOURCES),
        path,
        *compiler,
        *FLAGS,
        platform.machine(),
        instructions(),
    )
    return f"kernels-{hashlib.sha256(chr(0).join(facts).encode()).hexdigest()[:16]}.so"


def instructions() -> str:
    """Return the processor's instruction sets as the operating system lists them."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    listed = re.search(r"^(flags|Features)\s*:.*", cpuinfo, re.MULTILINE)
    return listed.group() if listed else cpuinfo
