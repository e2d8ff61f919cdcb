"""How the benchmarks take times: in turns, on so many threads, and beside processes that keep the cores busy."""

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], object]


def seconds_in_turns(
    step: Step, peer: Step, z: Tensor, y: Tensor, rounds: int, seconds: float = 0
) -> tuple[list[float], list[float]]:
    """Return the times of a contender and of its peer, after a warm-up, over so many rounds and so many seconds.

    A round is ABBA or BAAB: each finds the caches and the allocator as itself and the other have left them.
    """
    synchronize = torch.cuda.synchronize if z.is_cuda else lambda: None
    step(z, y)
    peer(z, y)
    taken = ([], [])
    order = random.Random(0)
    end = time.perf_counter() + seconds
    while len(taken[0]) < rounds or time.perf_counter() < end:
        first = order.randrange(2)
        round = [0.0, 0.0]
        for which in (first, 1 - first, 1 - first, first):
            synchronize()
            start = time.perf_counter()
            (step, peer)[which](z, y)
            synchronize()
            round[which] += (time.perf_counter() - start) / 2
        taken[0].append(round[0])
        taken[1].append(round[1])
    return taken


def times(taken: tuple[list[float], list[float]]) -> dict[str, float]:
    """Return the median ratio of a contender and its peer, half the range between its quartiles, and the medians."""
    ratios = [ours / peer for ours, peer in zip(*taken, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    seconds, peer_seconds = map(statistics.median, taken)
    return {"ratio": ratio, "spread": (high - low) / 2, "seconds": seconds, "peer_seconds": peer_seconds}


def memory_alone() -> Step:
    """Return what reads z, and dense y, twice and writes δ once, to memory that is there, and does no more."""
    delta = cache(torch.empty_like)

    def step(z: Tensor, y: Tensor) -> None:
        for _ in range(2):
            z.sum()
            if y.is_floating_point():
                y.sum()
        delta(z).fill_(1)

    return step


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


@contextmanager
def on_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
