"""What a wheel brings compiled: the kernels for levels of processors, and the node for versions of PyTorch.

The name of a file says what it is for, and ends in the digest of its sources. It is code of this package, and as
trusted as the rest: who can change it can change the Python beside it. A clone has no such files.
"""

import platform
import re
import sys
import sysconfig
from pathlib import Path

import torch

from ce_torch.costs.kernels.sources import NODE_FILES, digest, read_files, read_sources

FOLDER = Path(__file__).with_name("built")
# The levels of x86-64, and what a processor needs for each beyond the levels above it, as `torch.cpu` names it.
LEVELS = {
    "x86-64-v2": ("sse4_2", "ssse3", "popcnt"),
    "x86-64-v3": ("avx2", "fma3", "f16c", "bmi", "bmi2", "lzcnt"),
    "x86-64-v4": ("avx512_f", "avx512_bw", "avx512_cd", "avx512_dq", "avx512_vl"),
    "x86-64-v4-bf16": ("avx512_bf16",),
}
# The versions of CPython that the node serves: what it uses is the same in all of them.
FIRST_PYTHON, LAST_PYTHON = (3, 11), (3, 14)


def kernels() -> Path | None:
    """Return the file of the kernels for this processor, or None if no wheel brought any.

    It raises `ImportError` if those that it brought do not fit.
    """
    if not any(FOLDER.glob("kernels-*")):
        return None
    current = digest(read_sources())
    for level in levels():
        for file in FOLDER.glob(f"kernels-{level}-{current}.*"):
            return file
    raise ImportError(f"no file in {FOLDER} is for these sources and this processor")


def levels() -> list[str]:
    """Return the levels that this processor has, the best first."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ["any"]
    has, levels = torch.cpu.get_capabilities(), []
    for level, needed in LEVELS.items():
        if not all(has.get(name) for name in needed):
            break
        levels.insert(0, level)
    return levels


def node() -> Path | None:
    """Return the file of the node for this PyTorch and Python, or None if no wheel brought it."""
    is_known = FIRST_PYTHON <= sys.version_info[:2] <= LAST_PYTHON and not sysconfig.get_config_var("Py_GIL_DISABLED")
    return next(FOLDER.glob(f"{node_name()}.*"), None) if is_known else None


def node_name() -> str:
    """Return the name, without its ending, of the file of the node for this PyTorch.

    All releases of a minor version share it; a version that is no release has its own.
    """
    release = re.fullmatch(r"(\d+\.\d+)\.\d+(\+\w+)?", torch.__version__)
    return f"node-torch{release[1] if release else torch.__version__}-{digest(read_files(NODE_FILES))}"
