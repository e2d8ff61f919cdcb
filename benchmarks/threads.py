"""Time training steps on two threads, and on one in turns, for docs/scaling.md.

    python -m benchmarks.threads [--rounds 5] [--write FILE]

The table gives the median time of two threads divided by that of one: on idle cores, beside a program that keeps one
core busy, and beside it by threads that sleep while they wait, as those of train.py do.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, repeat
from pathlib import Path

from torch import Tensor

from benchmarks.commands import measuring_parser
from benchmarks.results import Row, keep
from benchmarks.tables import contender_header, contender_line
from benchmarks.timing import busy, on_threads, seconds_in_turns, times
from ce_torch.training import mnist
from ce_torch.training.loop import Training
from ce_torch.training.runs import new_training
from ce_torch.training.settings import DEFAULTS, whole_number

PROJECT = Path(__file__).resolve().parent.parent
TRAININGS = {
    "one network of 30 hidden neurons": {},
    "20 of them": {"runs": 20},
    "one, mini-batches of 1000": {"batch_size": 1000},
    "one of 300, mini-batches of 1000": {"hidden": [300], "batch_size": 1000},
}
# The number of busy programs, and what OpenMP's threads do while they wait: spin for a while if nothing is said.
STATES = {"idle": (0, {}), "busy": (1, {}), "busy, threads that sleep": (1, {"OMP_WAIT_POLICY": "passive"})}
TURN = 0.05  # seconds on one thread
Seconds = tuple[list[float], list[float]]


def measure_in_job(rounds: int) -> None:
    """Print the seconds of two threads and of one in each round, by training."""
    data = mnist.load(PROJECT / "data")
    trainings = {
        name: new_training(DEFAULTS | {"lr": 0.5} | changes, data, monitor=()) for name, changes in TRAININGS.items()
    }
    print(json.dumps({name: seconds_of_steps(training, rounds) for name, training in trainings.items()}))


def seconds_of_steps(training: Training, rounds: int) -> Seconds:
    """Return the seconds that the same number of steps takes on two threads, and on one."""
    chunks = chain.from_iterable(training.chunks() for _ in repeat(None))

    def on(threads: int, count: int) -> Callable[..., None]:
        def descend(*_: Tensor) -> None:
            with on_threads(threads):
                for examples in islice(chunks, count):
                    training.descend(examples)

        return descend

    def seconds(count: int) -> float:
        start = time.perf_counter()
        on(1, count)()
        return time.perf_counter() - start

    seconds(1)  # what is done once
    count = max(round(TURN * 5 / seconds(5)), 1)
    return seconds_in_turns(on(2, count), on(1, count), training.x, training.y, rounds)


def seconds_in_job(state: str, rounds: int) -> dict[str, Seconds]:
    """Return what a process has measured, since OpenMP reads once how its threads wait."""
    programs, environment = STATES[state]
    command = [sys.executable, "-m", "benchmarks.threads", "--in-job", f"--rounds={rounds}"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    with busy(programs):
        done = subprocess.run(
            command, cwd=PROJECT, env=inherited | environment, check=True, stdout=subprocess.PIPE, text=True
        )
    return json.loads(done.stdout)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = measuring_parser("benchmarks.threads", __doc__)
    parser.add_argument("--rounds", type=whole_number(1), default=5)
    parser.add_argument("--in-job", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def run(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows of each state of the machine, which are printed as they are measured."""
    for state in STATES:
        taken = seconds_in_job(state, arguments.rounds)
        rows = [
            {"benchmark": "threads", "cores": state, "contender": name, **times(seconds)}
            for name, seconds in taken.items()
        ]
        print(contender_header(rows[0]))
        print(*map(contender_line, rows), sep="\n", flush=True)
        yield rows


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    if arguments.in_job:
        measure_in_job(arguments.rounds)
        return
    keep(run(arguments), arguments.write)


if __name__ == "__main__":
    main()
