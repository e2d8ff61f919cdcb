"""Tables of each cost with each option, layout, dtype and mode: its time in parts of that of PyTorch's own loss.

    python -m benchmarks.tables [--all] [--size N K] [--cost NAME] [--dtype float32] [--mode eager] [--threads 1 2]
                                 [--busy] [--only TEXT] [--rounds 5] [--write FILE]

Ours and PyTorch's own take turns, in an order that changes. PyTorch's own beside itself is the control, and tells how
far a ratio is to be trusted. --busy starts two processes that keep a core busy each.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.cases import Case, cases
from benchmarks.costs import SIZES, memory_alone, seconds_in_turns
from benchmarks.layouts import LAYOUTS, arrange
from benchmarks.modes import MODES

DTYPES = ("float32", "bfloat16", "float16", "float64")
IMAGES = ((4, 21, 128, 128), (2, 150, 64, 64))
SUBSET = ((10, 10), (128, 1000), (4096, 1000))
# A case of a small size is repeated for so long.
SECONDS = 0.2


def arranged_cases(arguments: argparse.Namespace, dtype: torch.dtype) -> Iterator[tuple[tuple[int, ...], str, Case]]:
    """Yield the cases by size and layout."""
    sizes = [tuple(arguments.size)] if arguments.size else SIZES if arguments.all else SUBSET
    for size in sizes:
        layouts = LAYOUTS[:3] if size == (4096, 1000) and arguments.all else LAYOUTS[:1]
        for case in cases(*size, dtype) if len(size) == 2 else ():
            yield from ((size, layout, arrange(case, layout)) for layout in layouts)
    for size in IMAGES if arguments.all else [size for size in sizes if len(size) == 4]:
        N, K, *image = size
        for case in cases(N * image[0] * image[1], K, dtype):
            if case.cost == "log_likelihood":
                yield from ((size, layout, arrange(case, layout, (N, *image))) for layout in LAYOUTS[3:])


def measure(case: Case, mode: str, rounds: int) -> dict[str, float]:
    """Return the ratio of a case, its spread, and those of the control and of the memory alone."""
    ours, peer = MODES[mode](case.ours), MODES[mode](case.peer)
    peer(case.z, case.y)
    start = time.perf_counter()
    peer(case.z, case.y)
    repeats = max(rounds, min(300, int(rounds * SECONDS / 5 / (time.perf_counter() - start))))
    found = {}
    for name, step in (("ratio", ours), ("control", peer), ("memory", memory_alone())):
        turns = seconds_in_turns(step, peer, case.z, case.y, repeats, warm_up=1)
        ratios = [taken / of_peer for taken, of_peer in zip(*turns, strict=True)]
        found[name] = statistics.median(ratios)
        if name == "ratio":
            low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            found["spread"] = (high - low) / 2
    return found


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many cores busy meanwhile."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every size, layout, dtype and mode")
    parser.add_argument("--size", type=int, nargs="+", help="N K, or N K H W for images")
    parser.add_argument("--cost", nargs="+", help="names of costs, such as log_likelihood")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES)
    parser.add_argument("--mode", nargs="+", choices=MODES)
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--busy", action="store_true", help="beside two processes that keep a core busy each")
    parser.add_argument("--only", default="", metavar="TEXT", help="the cases whose name has this in it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, metavar="FILE", help="where to write the ratios (JSON)")
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, PyTorch {torch.__version__}, cpu, busy: {arguments.busy}\n")
    print(
        "| cost, option | size, layout | dtype, mode, threads | ratio | control | memory alone |\n"
        "|---|---|---|---|---|---|"
    )
    rows = []
    with busy(2 if arguments.busy else 0):
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            for dtype in arguments.dtype or (DTYPES if arguments.all else DTYPES[:1]):
                for size, layout, case in arranged_cases(arguments, getattr(torch, dtype)):
                    if arguments.only not in case.name or case.cost not in (arguments.cost or [case.cost]):
                        continue
                    for mode in arguments.mode or (MODES if arguments.all else ["eager"]):
                        row = measure(case, mode, arguments.rounds)
                        rows.append(
                            {"cost": case.cost, "option": case.name, "size": size, "layout": layout, "dtype": dtype}
                            | {"mode": mode, "threads": threads, "busy": arguments.busy}
                            | row
                        )
                        print(
                            f"| {case.cost}, {case.name} | {size}, {layout} "
                            f"| {dtype}, {mode}, {threads} "
                            f"| {row['ratio']:.2f} ± {row['spread']:.2f} | {row['control']:.2f} "
                            f"| {row['memory']:.2f} |",
                            flush=True,
                        )
    if arguments.write:
        arguments.write.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
