"""Time and memory of the costs, forward and backward, side by side with PyTorch's own losses.

    python -m benchmarks.costs [--device cpu] [--dtype float32] [--cost log_likelihood] [--rounds 15] [--write FOLDER]

Each contender takes turns with PyTorch's own loss, so that a slow spell of the machine hits both, in an order that
changes, since each finds the caches and the allocator as the other has left them. PyTorch's loss beside itself shows
how far a ratio is to be trusted. The table gives the median time, half the range between the quartiles, the ratio to
PyTorch's own loss, and the most memory beyond z and its gradient, in parts of z's size, as PyTorch's profiler counts
it. "The memory alone" reads z twice and writes δ once, and is what none can be faster than. --write leaves costs.json
and costs.png in a folder.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from benchmarks.memory import peak_memory
from ce_torch.costs._registry import COSTS as REGISTERED

SIZES = ((10, 10), (128, 10), (128, 1000), (4096, 1000), (512, 32000), (256, 128256))
OURS, OURS_COMPILED, PEER, COMPILED, FORMULA, LIGER, MEMORY = (
    "ce_torch",
    "ce_torch, compiled",
    "PyTorch's own",
    "the same, compiled",
    "the formula, autograd",
    "Liger",
    "the memory alone",
)
Loss = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Tensor, Tensor], None]

# The costs as the registry has them, with the first of their examples' options.
COSTS: dict[str, Loss] = {
    function.spec.name: partial(cost.function, **function.spec.examples[0])
    for cost in REGISTERED.values()
    for function in cost.cost_functions
}


def focal_formula(z: Tensor, y: Tensor) -> Tensor:
    a = torch.sigmoid(z)
    H = -(y * a.log() + (1 - y) * (1 - a).log())
    return ((0.25 * y + 0.75 * (1 - y)) * (a + y - 2 * a * y) ** 2 * H).sum(-1).mean()


# Of each cost PyTorch's own loss, or torchvision's, and the formula, which autograd differentiates.
PEERS: dict[str, tuple[Loss, Loss]] = {
    "log_likelihood": (
        F.cross_entropy,
        lambda z, y: -(z.exp() / z.exp().sum(-1, keepdim=True)).gather(-1, y[:, None]).log().mean(),
    ),
    "cross_entropy": (
        F.binary_cross_entropy_with_logits,
        lambda z, y: -(y * torch.sigmoid(z).log() + (1 - y) * (1 - torch.sigmoid(z)).log()).sum(-1).mean(),
    ),
    "focal": (partial(sigmoid_focal_loss, reduction="mean"), focal_formula),
    "quadratic": (
        lambda z, y: F.mse_loss(torch.sigmoid(z), y),
        lambda z, y: ((torch.sigmoid(z) - y) ** 2).sum(-1).mean() / 2,
    ),
    "linear_quadratic": (F.mse_loss, lambda z, y: ((z - y) ** 2).sum(-1).mean() / 2),
}


def contenders(cost: str, device: str) -> dict[str, Step]:
    """Return the contenders for a cost by name, each forward and backward, and what they can't be faster than."""
    return {name: forward_and_backward(loss) for name, loss in losses(cost, device).items()} | {MEMORY: memory_alone()}


def losses(cost: str, device: str) -> dict[str, Loss]:
    """Return the losses for a cost by name; all are means, PyTorch's over the neurons too."""
    ours, (peer, formula) = COSTS[cost], PEERS[cost]
    found = {
        OURS: ours,
        OURS_COMPILED: torch.compile(ours, dynamic=False),
        PEER: peer,
        COMPILED: torch.compile(peer, dynamic=False),
        FORMULA: formula,
    }
    if cost == "log_likelihood" and device == "cuda":
        try:
            from liger_kernel.transformers.functional import liger_cross_entropy
        except ImportError:
            return found
        found[LIGER] = liger_cross_entropy
    return found


def examples(cost: str, size: tuple[int, int], device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    z = torch.randn(size, generator=generator, device=device).to(dtype)
    if cost == "log_likelihood":
        return z, torch.randint(size[1], size[:1], generator=generator, device=device)
    return z, torch.rand(size, generator=generator, device=device).to(dtype)


def forward_and_backward(loss: Loss) -> Step:
    def step(z: Tensor, y: Tensor) -> None:
        # A copy: Liger writes the gradient into the weighted inputs.
        z = (z.clone() if getattr(loss, "__module__", "").startswith("liger") else z).detach().requires_grad_()
        loss(z, y).backward()

    return step


def memory_alone() -> Step:
    """Return what reads z, and y, twice and writes δ once, to memory that is there, and does no more."""
    delta = cache(torch.empty_like)

    def step(z: Tensor, y: Tensor) -> None:
        for _ in range(2):
            z.sum()
            if y.is_floating_point():
                y.sum()
        delta(z).fill_(1)

    return step


def seconds_in_turns(
    step: Step, peer: Step, z: Tensor, y: Tensor, rounds: int, warm_up: int = 3
) -> tuple[list[float], list[float]]:
    """Return the times of a contender and of its peer, which take turns, either first."""
    synchronize = torch.cuda.synchronize if z.is_cuda else lambda: None
    taken = ([], [])
    order = random.Random(0)
    for round in range(warm_up + rounds):
        for which in order.sample((0, 1), 2):
            synchronize()
            start = time.perf_counter()
            (step, peer)[which](z, y)
            synchronize()
            if round >= warm_up:
                taken[which].append(time.perf_counter() - start)
    return taken


def extra_memory(step: Step, z: Tensor, y: Tensor) -> float:
    """Return the most memory that was in use beyond z and its gradient, in parts of z's size."""
    return max(peak_memory(lambda: step(z, y), z.device) / z.nbytes - 1, 0)


def measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what was measured, a row for each cost, size, dtype and contender."""
    for dtype in arguments.dtype:
        for cost in arguments.cost:
            # The large sizes first: the allocator learns from them to keep memory for the small ones.
            for size in reversed(SIZES):
                torch.compiler.reset()
                z, y = examples(cost, size, arguments.device, getattr(torch, dtype))
                steps = contenders(cost, arguments.device)
                rounds = arguments.rounds if z.numel() > 1_000_000 else 20 * arguments.rounds
                for name, step in steps.items():
                    taken, of_peer = seconds_in_turns(step, steps[PEER], z, y, rounds)
                    low, median, high = statistics.quantiles(taken, n=4)
                    yield {
                        "cost": cost,
                        "dtype": dtype,
                        "size": size,
                        "contender": name,
                        "microseconds": median * 1e6,
                        "spread": (high - low) / 2 * 1e6,
                        "ratio": median / statistics.median(of_peer),
                        "extra_memory": 0 if name == MEMORY else extra_memory(step, z, y),
                    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw each contender's time in parts of PyTorch's own, cost by cost."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["dtype"] == rows[0]["dtype"]]
    costs = list(dict.fromkeys(row["cost"] for row in rows))
    figure = Figure(figsize=(3.6 * len(costs) + 2, 3.6), layout="constrained")
    for axes, cost in zip(figure.subplots(1, len(costs), squeeze=False, sharey=True)[0], costs, strict=True):
        for name in dict.fromkeys(row["contender"] for row in rows if row["cost"] == cost):
            of_name = [row for row in reversed(rows) if (row["cost"], row["contender"]) == (cost, name)]
            sizes = ["×".join(map(str, row["size"])) for row in of_name]
            axes.plot(sizes, [row["ratio"] for row in of_name], marker="o", label=name)
        axes.set(title=cost, yscale="log")
        ticks = (0.05, 0.1, 0.2, 0.5, 1, 2, 5)
        axes.set_yticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.tick_params(axis="x", rotation=45)
        axes.grid(alpha=0.3)
    figure.supylabel("time / PyTorch's own")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    costs = list(COSTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--cost", nargs="+", choices=costs, default=costs)
    parser.add_argument("--rounds", type=int, default=15, help="of the large sizes; 20 times as many of the small ones")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="where to write costs.json and costs.png")
    arguments = parser.parse_args()

    print(f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, {arguments.device}\n")
    print("| cost, dtype, (N, K) | contender | time, µs | time / PyTorch's own | extra memory / z |")
    print("|---|---|---|---|---|")
    rows = []
    for row in measure(arguments):
        rows.append(row)
        N, K = row["size"]
        print(
            f"| {row['cost']}, {row['dtype']}, ({N}, {K}) | {row['contender']} | {row['microseconds']:.0f} ± "
            f"{row['spread']:.0f} | {row['ratio']:.2f} | {row['extra_memory']:.1%} |",
            flush=True,
        )
    if arguments.write:
        arguments.write.mkdir(parents=True, exist_ok=True)
        (arguments.write / "costs.json").write_text(json.dumps(rows, indent=1))
        draw(rows, arguments.write / "costs.png")


if __name__ == "__main__":
    main()
