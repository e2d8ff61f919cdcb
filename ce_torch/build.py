"""Compile ahead what the costs on the CPU can use: `python -m ce_torch.build`.

Where no wheel brought them, it compiles the kernels, which the first cost would compile too, and the node of autograd,
which no cost compiles. The node takes PyTorch's headers and some 15 seconds, and shortens small costs by a third. Both
are kept in the cache.
"""

import argparse
import ctypes
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ce_torch.costs.kernels import compiler, installed, node, store


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ce_torch.build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    try:
        print(f"kernels: {build_kernels()}")
        print(f"node: {build_node()}")
    except subprocess.CalledProcessError as error:
        print(f"error: the compiler failed: {error.stderr.strip()}", file=sys.stderr)
    except subprocess.TimeoutExpired as error:
        print(f"error: {error.cmd[0]} was not done after {compiler.LIMIT:.0f} s", file=sys.stderr)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
    else:
        return 0
    return 1


def build_kernels() -> str:
    """Return where the kernels are, compiled now if they were not there."""
    kernels = compiler.library()
    if not isinstance(kernels, ctypes.CDLL):
        raise RuntimeError(f"the kernels can't be compiled: {kernels}")
    if compiler.load_installed() is not None:
        return f"{installed.kernels()}, which came with ce_torch"
    path = cache() / compiler.file_name(compiler.compiler_command())
    if store.read(path) is None:
        raise RuntimeError(
            f"the kernels can't be kept in {path.parent}, or others can write to it; name a folder of your own in "
            "XDG_CACHE_HOME"
        )
    return str(path)


def build_node() -> str:
    """Return where the node is, compiled now if it was not there."""
    if node.load_installed() is not None:
        return f"{installed.node()}, which came with ce_torch"
    command = compiler.compiler_command()
    path = cache() / node.file_name(command)
    if store.read(path) is not None:
        return f"{path}, compiled before"
    begin = time.monotonic()
    compiled = compiler.try_folders(partial(node.compile, command), path.parent)
    compiler.try_folders(partial(node.load, compiled), path.parent)
    store.write(path, compiled)
    return f"{path}, compiled in {time.monotonic() - begin:.0f} s"


def cache() -> Path:
    folder = store.folder()
    if folder is None:
        raise RuntimeError(store.why_missing())
    return folder


if __name__ == "__main__":
    # That a run waits for a compiler, and that there is no CUDA, is no news here.
    for name in ("ce_torch", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    sys.exit(main())
