"""Time an epoch of many networks, and of one, in one process and in several, for docs/scaling.md.

    python -m benchmarks.scaling [--processes 1 2] [--networks 20] [--rounds 3] [--write FILE]

The processes share the cores evenly. The times are medians over the rounds, in the first process: to train for an
epoch, to evaluate and exchange the scores, to send the states to the first process. The peer is one process on one
thread. The last line is the time in which that process concatenates and writes the states of a thousand networks.
"""

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.commands import measuring_parser
from benchmarks.results import Row, keep
from benchmarks.tables import contender_header, contender_line
from benchmarks.timing import times
from ce_torch.training import checkpoint, distributed, mnist
from ce_torch.training.network import MLPs
from ce_torch.training.runs import new_training
from ce_torch.training.settings import DEFAULTS, whole_number

PROJECT = Path(__file__).resolve().parent.parent
MANY = 1000


def seconds_of(do: Callable[[], object], rounds: int) -> list[float]:
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        do()
        taken.append(time.perf_counter() - start)
    return taken


def median_seconds(do: Callable[[], object], rounds: int) -> float:
    return statistics.median(seconds_of(do, rounds))


def measure_in_job(networks: int, rounds: int) -> None:
    """Print the seconds of each round by what was done, as one of the processes of a job."""
    with distributed.job():
        training = new_training(DEFAULTS | {"lr": 0.5, "runs": networks}, mnist.load(PROJECT / "data"))
        work = {"an epoch": training.train_one_epoch, "scores": training.scores, "states": training.state_dict}
        taken = {name: seconds_of(do, rounds) for name, do in work.items()}
        print(json.dumps(taken))


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


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = measuring_parser("benchmarks.scaling", __doc__)
    positive = whole_number(1)
    parser.add_argument("--processes", type=positive, nargs="+", default=[1, 2])
    parser.add_argument("--networks", type=positive, nargs="+", default=[20, 1])
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--in-job", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def run(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows of each job, which are printed as they are measured."""
    cores = torch.get_num_threads()
    shares = [(1, 1), *((processes, max(cores // processes, 1)) for processes in arguments.processes)]
    for networks in arguments.networks:
        condition, peer = {"benchmark": "scaling", "networks": networks}, {}
        for processes, threads in dict.fromkeys(shares):
            taken = seconds_in_job(processes, threads, networks, arguments.rounds)
            peer = peer or taken
            rows = [
                {**condition, "contender": f"{work}, {processes} × {threads}", **times((taken[work], peer[work]))}
                for work in taken
            ]
            if peer is taken:
                print(contender_header(rows[0]))
            print(*map(contender_line, rows), sep="\n", flush=True)
            yield rows
    measure_states(arguments.rounds)


def seconds_in_job(processes: int, threads: int, networks: int, rounds: int) -> dict[str, list[float]]:
    """Return what the first of so many processes, each on so many threads, has measured."""
    torchrun = "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"
    worker = "-m", "benchmarks.scaling", "--in-job", f"--networks={networks}", f"--rounds={rounds}"
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", *torchrun, *worker]
    done = subprocess.run(command, cwd=PROJECT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    if arguments.in_job:
        measure_in_job(arguments.networks[0], arguments.rounds)
        return
    keep(run(arguments), arguments.write)


if __name__ == "__main__":
    main()
