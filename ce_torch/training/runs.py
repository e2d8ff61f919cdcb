"""A run as its settings say: data, network and cost brought together."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch

from ce_torch.training import distributed, mnist
from ce_torch.training.distributed import SharedOut, SplitBatches
from ce_torch.training.loop import Training
from ce_torch.training.network import MLP, MLPs
from ce_torch.training.settings import COSTS, Settings, UsageError, as_typed, grid

# Where a step multiplies less often than that, its threads wait for one another longer than they save.
WORTH_THREADS = 20_000_000
# What PyTorch's allocators say, of which only those of accelerators have an error of their own.
NO_MEMORY = "can't allocate memory", "out of memory"


def new_training(
    run: Settings, data: mnist.MNIST, monitor: Sequence[str] = ("training", "validation", "test")
) -> Training:
    """Return the training of a run: of one network, or of many at once, those of each point of the grid together."""
    device = data.training.x.device
    sizes, init = [784, *run["hidden"], 10], run["init"]
    cost, _ = COSTS[run["cost"]]
    check_processes(run)
    check_memory(run)
    points = [point for point in grid(run) for _ in range(run["runs"])]
    seeds = [run["seed"] + k for _ in grid(run) for k in range(run["runs"])]
    share = distributed.share(len(seeds)) if len(seeds) > 1 else slice(1)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds[share]]
    options = {"batch_size": run["batch_size"], "compile": run["compile"]}
    options["monitor"] = {name: getattr(data, name) for name in monitor}
    if len(seeds) == 1:
        network = MLP(sizes, init=init, generator=generators[0])
        options |= {"generator": generators[0], **points[0]._asdict()}
        kind = SplitBatches if distributed.processes() > 1 else Training
    else:
        network = MLPs(sizes, init=init, generators=generators)
        lr, lmbda = zip(*points[share], strict=True)
        options |= {"generator": generators, "lr": lr, "lmbda": lmbda}
        kind = partial(SharedOut, share=share) if distributed.processes() > 1 else Training
    return kind(network.to(device), cost(), *data.training, **options)


def networks_of(run: Settings) -> int:
    return len(grid(run)) * run["runs"]


def parameters_of(run: Settings) -> int:
    """Return the weights and biases of all the networks of a run."""
    sizes = [784, *run["hidden"], 10]
    return networks_of(run) * sum((n + 1) * m for n, m in pairwise(sizes))


def choose_threads(run: Settings) -> None:
    """Train on one thread where that is as fast as several are, unless OMP_NUM_THREADS says how many."""
    if "OMP_NUM_THREADS" not in os.environ and parameters_of(run) * run["batch_size"] < WORTH_THREADS:
        torch.set_num_threads(1)


def check_processes(run: Settings) -> None:
    """Raise `UsageError` unless there is work for every process."""
    networks, processes = networks_of(run), distributed.processes()
    if 1 < networks < processes:
        raise UsageError(
            f"{networks} networks cannot be shared out over {processes} processes; start {networks} at most"
        )
    if networks == 1 < processes and run["compile"]:
        raise UsageError(f"--compile goes with one process for one network, got {processes}; leave it out")


def check_memory(run: Settings) -> None:
    """Raise `UsageError` if the weights alone, and their gradients, are more than the machine's memory."""
    needed = 2 * 4 * parameters_of(run) // distributed.processes()
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        flags = " ".join(as_typed(name, run[name]) for name in ("hidden", "lr", "lmbda", "runs"))
        raise UsageError(
            f"{flags} would take {needed / 1e9:,.0f} GB of memory, of which there are {there / 1e9:,.0f}; choose fewer "
            f"neurons or networks"
        )


def check_compiler(device: torch.device) -> None:
    """Raise `UsageError` unless torch.compile can compile for a device."""
    try:
        torch.compile(torch.neg, fullgraph=True, options={"fx_graph_cache": False})(torch.ones(1, device=device))
    except RuntimeError as error:
        raise UsageError(
            f"--compile finds no compiler that works ({mnist.first_line(error)}); install g++, name another in CXX, or "
            f"leave --compile out"
        ) from error


@contextmanager
def within_memory() -> Iterator[None]:
    """Raise `UsageError` where memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in NO_MEMORY):
            raise
        raise UsageError("there is not enough memory for the run; choose fewer --hidden, --runs or --lr") from error
