"""Tables of each cost with each option: its time in parts of that of PyTorch's own loss with the same options.

    python -m benchmarks.costs [--all] [--size N K] [--cost NAME] [--dtype float32] [--mode eager] [--only TEXT]
                               [--device cpu] [--threads 1 2] [--busy] [--rounds 5] [--seconds 0.2] [--write FILE]

There is a table for each cost, dtype, mode, number of threads and state of the machine, with a line for each size and
layout. A cell is the median of ours / PyTorch's by rounds of ours, PyTorch's, PyTorch's, ours, or the other way round,
so that a slow spell hits both. A star marks what misses its target (benchmarks/targets.py). The last columns are

    control        PyTorch's own plain loss beside itself, which tells how far a ratio is to be trusted
    memory alone   what reads z, and dense y, twice and writes δ once, in parts of PyTorch's own: none can be faster
    extra memory   the most beyond z and δ that any of the options takes, in parts of z
    µs             the times of the plain loss, and in brackets the longest of the line: PyTorch's threads may wait long
    spread         the widest of half the ranges between quartiles of the ratios

The modes are forward and backward (eager, compiled), second derivatives (second, compiled_second), forward mode
(forward, compiled_forward), and gradients by example (vmap, compiled_vmap). --busy measures once more beside two
processes that keep a core busy each. Without --all, this takes about 4 minutes; with it, many hours. --write keeps the
figures as JSON, which benchmarks.report draws and benchmarks.compare compares.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch

from benchmarks import tables
from benchmarks.cases import PLAIN, Case, cases
from benchmarks.commands import measuring_parser
from benchmarks.layouts import IMAGES, ROWS, STRIDED
from benchmarks.memory import extra_memory
from benchmarks.modes import MODES, eager
from benchmarks.results import Row, keep
from benchmarks.targets import DTYPES, LARGE
from benchmarks.timing import busy, memory_alone, on_threads, seconds_in_turns, times
from ce_torch.training.settings import non_negative, whole_number

COSTS = tuple(dict.fromkeys(case.cost for case in cases((2, 2), torch.float32)))
# From large to small: the allocator learns from the large ones to keep memory for the small ones.
SUBSET = ((512, 32000), (2, 150, 64, 64), (128, 1000), (128, 10), (10, 10))
ALL = ((256, 128256), (512, 32000), (4, 21, 128, 128), (2, 150, 64, 64), (4096, 1000), (128, 1000), (128, 10), (10, 10))
ON_GPU = ((4096, 128256),)
STRIDED_SIZE = (4096, 1000)
LARGE_ROUNDS = 2


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    keep(run(arguments), arguments.write)


def run(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the cells of each line of the tables, which are printed as they are measured."""
    rows: list[Row] = []
    for condition in conditions(arguments):
        with busy(2 if condition["busy"] else 0), on_threads(condition["threads"]):
            for index, (size, layout) in enumerate(sizes_and_layouts(arguments)):
                cells = list(measure(size, layout, condition, arguments))
                if index == 0:
                    print(tables.header(cells))
                print(tables.line(cells, rows), flush=True)
                rows += cells
                yield cells


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments, with defaults that follow from --all."""
    parser = measuring_parser("benchmarks.costs", __doc__)
    positive = whole_number(1)
    parser.add_argument("--all", action="store_true", help="every size, layout, dtype, mode, 1 and 2 threads, and busy")
    parser.add_argument("--size", type=positive, nargs="+", metavar="N", help="N K, or N K H W of images")
    parser.add_argument("--cost", nargs="+", choices=COSTS, default=COSTS)
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="beside the plain cost, the options with this in them"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES)
    parser.add_argument("--mode", nargs="+", choices=MODES)
    parser.add_argument("--threads", type=positive, nargs="+")
    parser.add_argument(
        "--busy", action="store_true", help="once more, beside two processes that keep a core busy each"
    )
    parser.add_argument("--rounds", type=positive, default=5, help="of a cell, at least; of a large one 2 are enough")
    parser.add_argument("--seconds", type=non_negative, default=0.2, help="how long a cell takes at least")
    arguments = parser.parse_args(words)
    refuse_what_cannot_run(arguments, parser)
    arguments.dtype = arguments.dtype or list(DTYPES)[: None if arguments.all else 2]
    arguments.mode = arguments.mode or list(MODES)[: None if arguments.all else 1]
    arguments.threads = arguments.threads or ([1, 2] if arguments.all else [1])
    arguments.busy = arguments.busy or arguments.all
    return arguments


def refuse_what_cannot_run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if arguments.size and len(arguments.size) not in (2, 4):
        parser.error(f"argument --size: must be two numbers, N K, or four, N K H W, got {len(arguments.size)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: PyTorch finds no CUDA device here; use --device cpu")
    names = dict.fromkeys(case.name for case in cases((2, 2), torch.float32) if case.cost in arguments.cost)
    if not any(arguments.only in name for name in names):
        parser.error(f"argument --only: {arguments.only!r} is in none of the options: {'; '.join(names)}")


def conditions(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what is the same in all of a table."""
    states = (False, True) if arguments.busy else (False,)
    chosen = states, arguments.threads, arguments.dtype, arguments.mode, arguments.cost
    for is_busy, threads, dtype, mode, cost in product(*chosen):
        yield {
            "benchmark": "costs",
            "cost": cost,
            "dtype": dtype,
            "mode": mode,
            "device": arguments.device,
            "threads": threads,
            "busy": is_busy,
        }


def measure(
    size: tuple[int, ...], layout: str, condition: dict[str, Any], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield the cells of a line."""
    for case in cases(size, getattr(torch, condition["dtype"]), condition["device"], layout):
        if case.cost == condition["cost"] and (arguments.only in case.name or case.name == PLAIN):
            place = {"option": case.name, "size": size, "layout": layout}
            yield condition | place | measure_case(case, condition["mode"], arguments)


def sizes_and_layouts(arguments: argparse.Namespace) -> Iterator[tuple[tuple[int, ...], str]]:
    sizes = (*(ON_GPU if arguments.device == "cuda" else ()), *(ALL if arguments.all else SUBSET))
    for size in [tuple(arguments.size)] if arguments.size else sizes:
        strided = STRIDED if arguments.size or size == STRIDED_SIZE else ()
        yield from product([size], IMAGES if len(size) == 4 else (ROWS, *strided))


def measure_case(case: Case, mode: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the ratio of a case with its spread, times and memory, and of the plain one what it is judged by."""
    ours, peer = MODES[mode](case.ours), MODES[mode](case.peer)
    rounds = min(arguments.rounds, LARGE_ROUNDS) if case.z.numel() >= LARGE else arguments.rounds
    in_turns = partial(seconds_in_turns, z=case.z, y=case.y, rounds=rounds, seconds=arguments.seconds)
    found = times(in_turns(ours, peer)) | {"extra_memory": extra_memory(ours, case.z, case.y)}
    if case.name == PLAIN:
        others = {"control": peer, "memory_alone": memory_alone()}
        if case.cost == "log_likelihood" and case.z.is_cuda and mode == "eager":
            others |= liger()
        found |= {name: times(in_turns(step, peer))["ratio"] for name, step in others.items()}
    return found


def liger() -> dict[str, Any]:
    """Return the step of Liger's loss, if it is installed."""
    try:
        from liger_kernel.transformers.functional import liger_cross_entropy  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    return {"liger": eager(liger_cross_entropy)}


if __name__ == "__main__":
    main()
