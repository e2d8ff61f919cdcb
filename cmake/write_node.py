"""Compile the node of autograd for the PyTorch of this Python, and write it to a folder."""

import logging
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ce_torch.costs.kernels import compiler, installed, node


def main(folder: str) -> None:
    # That a wheel waits for a compiler, and that there is no CUDA, is no news here.
    for name in ("ce_torch", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    compiler.LIMIT = 3600.0  # nobody waits for a cost
    command = compiler.compiler_command()
    compiled = compiler.try_folders(partial(node.compile, command), None)
    Path(folder).mkdir(exist_ok=True)
    (Path(folder) / f"{installed.node_name()}.so").write_bytes(compiled)


if __name__ == "__main__":
    main(*sys.argv[1:])
