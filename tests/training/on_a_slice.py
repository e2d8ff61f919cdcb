"""Run train.py on a slice of MNIST, in the project's folder: python tests/training/on_a_slice.py SLICE FLAGS.

A comma between flags starts another run after the first. The runs share one job of torchrun, which takes long to start.
"""

import itertools
import os
import runpy
import sys
from contextlib import nullcontext

import torch

sys.path.insert(0, os.getcwd())

from ce_torch.training import distributed, mnist

END_OF_RUN = "-" * 10  # printed after each of several runs


def use_slice(path):
    """Replace MNIST by the slice of it in a file."""
    parts = torch.load(path)
    mnist.load = lambda data_dir, device: mnist.MNIST(*(mnist.Examples(x.to(device), y.to(device)) for x, y in parts))
    mnist.identify = lambda data: "MNIST"


def print_line(line, file):
    """Print a line in one piece, which print does not: other processes write to the same file."""
    file.write(f"{line}\n")
    file.flush()


def run_all(commands):
    """Run the program with each list of flags, in one job; return the exit code of the first that fails."""
    program = runpy.run_path("train.py")
    job, distributed.job = distributed.job, nullcontext
    with job():
        for flags in commands:
            sys.argv = ["train.py", *flags]
            if code := program["main"]():
                return code
            print_line(END_OF_RUN, sys.stdout)
    return 0


if __name__ == "__main__":
    _, path, *flags = sys.argv
    use_slice(path)
    if "RANK" in os.environ:
        print_line(f"rank {os.environ['RANK']} is process {os.getpid()}", sys.stderr)
    commands = [list(group) for is_comma, group in itertools.groupby(flags, ",".__eq__) if not is_comma]
    if len(commands) > 1:
        distributed.exit_process(run_all(commands))
    sys.argv = ["train.py", *flags]
    runpy.run_path("train.py", run_name="__main__")
