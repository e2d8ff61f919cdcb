"""Time an epoch of many networks, and of one, in one process and in several, for docs/scaling.md.

    python -m benchmarks.scaling [--processes 1 2] [--networks 20] [--rounds 3]

The processes share the cores evenly. Each number is the median over the rounds, in the first process, in seconds: to
train for an epoch, to evaluate and exchange the scores, to send the states to the first process. The last line is the
time in which that process concatenates and writes the states of a thousand networks.
"""

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ce_torch.training import checkpoint, distributed, mnist
from ce_torch.training.network import MLPs
from ce_torch.training.runs import new_training
from ce_torch.training.settings import DEFAULTS

PROJECT = Path(__file__).resolve().parent.parent
MANY = 1000


def median_seconds(do: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        do()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure_in_job(networks: int, rounds: int) -> None:
    """Print a row of the table, as one of the processes of a job."""
    with distributed.job():
        training = new_training(DEFAULTS | {"lr": 0.5, "runs": networks}, mnist.load(PROJECT / "data"))
        work = training.train_one_epoch, training.scores, training.state_dict
        cells = [f"{median_seconds(do, rounds):.3f}" for do in work]
        each = f"{distributed.processes()} × {torch.get_num_threads()}"
        print(f"| {networks} | {each} | {' | '.join(cells)} |", flush=True)


def measure_states(rounds: int) -> None:
    """Print the size of the states of a thousand networks, and the time to concatenate and write them."""
    networks = MLPs([784, 30, 10], generators=[torch.Generator().manual_seed(seed) for seed in range(MANY)])
    state = networks.state_dict()
    parts = [{name: tensor[k : k + 16].clone() for name, tensor in state.items()} for k in range(0, MANY, 16)]
    sent = [pickle.dumps(part) for part in parts]

    def concatenate() -> None:
        received = [pickle.loads(part) for part in sent]  # our own bytes, as torch.distributed does
        {name: torch.cat([part[name] for part in received]) for name in state}

    def write() -> None:
        checkpoint.save(Path(folder) / "run.pt", {}, {"network": state})

    with tempfile.TemporaryDirectory() as folder:
        print(f"\n{MANY} networks: {sum(map(len, sent)) / 1e6:.0f} MB of states, concatenated in", end=" ")
        print(f"{median_seconds(concatenate, rounds):.2f} s, written in {median_seconds(write, rounds):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--networks", type=int, nargs="+", default=[20, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in-job", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.in_job:
        measure_in_job(flags.networks[0], flags.rounds)
        return

    print("| networks | processes × threads | an epoch | scores | states |\n|---|---|---|---|---|", flush=True)
    cores = torch.get_num_threads()
    for networks in flags.networks:
        for threads, processes in [(1, 1), *((cores // processes, processes) for processes in flags.processes)]:
            torchrun = "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"
            worker = "-m", "benchmarks.scaling", "--in-job", f"--networks={networks}", f"--rounds={flags.rounds}"
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            subprocess.run([sys.executable, "-m", *torchrun, *worker], cwd=PROJECT, env=environment, check=True)
    measure_states(flags.rounds)


if __name__ == "__main__":
    main()
