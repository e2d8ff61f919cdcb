"""The kernels of `cpu_kernels.cpp`, compiled for this machine where they are first needed, and kept for later runs."""

import ctypes
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("cpu_kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fPIC", "-shared")


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None, and a line in the log, where they can't be had."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        unavailable("there is no C++ compiler; install one, or name it in the environment variable CXX")
        return None
    try:
        return ctypes.CDLL(str(compiled(compiler)))
    except subprocess.CalledProcessError as error:
        unavailable(f"{compiler} did not compile {SOURCE}: {error.stderr.strip()}")
    except OSError as error:
        unavailable(str(error))
    return None


def unavailable(reason: str) -> None:
    logging.getLogger("ce_torch").warning("Costs on the CPU take longer than they could: %s.", reason)


def compiled(compiler: str) -> Path:
    """Return the file of the compiled kernels, made by an earlier run or now."""
    file = folder() / f"kernels-{fingerprint(compiler)}.so"
    if not file.exists():
        # Another process may be at it too: each writes a file of its own, and the last one stays.
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            unfinished = Path(scratch) / file.name
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(unfinished)]
            # A compiler without OpenMP, such as Apple's, makes kernels of one thread.
            if subprocess.run([*command, "-fopenmp"], capture_output=True).returncode != 0:
                subprocess.run(command, check=True, capture_output=True, text=True)
            unfinished.replace(file)
    return file


@cache
def folder() -> Path:
    """Return the user's cache, or a folder for this process alone where there is none that can be written to."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ce_torch"
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="ce_torch-"))
    return cache if os.access(cache, os.W_OK) else Path(tempfile.mkdtemp(prefix="ce_torch-"))


def fingerprint(compiler: str) -> str:
    """Return what tells apart the source, the compiler and the processor: homes are shared between machines."""
    facts = (SOURCE.read_text(encoding="utf-8"), os.path.realpath(compiler), *FLAGS, platform.machine(), instructions())
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def instructions() -> str:
    """Return the processor's instruction sets as the operating system lists them."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    listed = re.search(r"^(flags|Features)\s*:.*", cpuinfo, re.MULTILINE)
    return listed.group() if listed else cpuinfo
