"""Build the training of a run from its settings, and check that this machine can do it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch

from ce_torch.training import distributed, mnist
from ce_torch.training.distributed import BatchParallel, NetworkParallel
from ce_torch.training.loop import Training
from ce_torch.training.network import MLP, MLPs
from ce_torch.training.settings import COSTS, Settings, UsageError, format_flag, grid

# In a step of fewer multiplications, threads wait for one another longer than they save.
MIN_MULTIPLICATIONS_FOR_THREADS = 20_000_000
# Messages of PyTorch's allocators; only those of accelerators have an exception of their own.
MEMORY_ERRORS = "can't allocate memory", "out of memory"


def new_training(
    run: Settings, data: mnist.MNIST, monitor: Sequence[str] = ("training", "validation", "test")
) -> Training:
    """Return the training of one network, or of many at once: the runs of each point of the grid follow one another."""
    device = data.training.x.device
    sizes, init = [784, *run["hidden"], 10], run["init"]
    cost, _ = COSTS[run["cost"]]
    check_processes(run)
    check_memory(run)
    points = [point for point in grid(run) for _ in range(run["runs"])]
    seeds = [run["seed"] + k for _ in grid(run) for k in range(run["runs"])]
    part = distributed.own_part(len(seeds)) if len(seeds) > 1 else slice(1)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
    options = {"batch_size": run["batch_size"], "compile": run["compile"]}
    options["monitor"] = {name: getattr(data, name) for name in monitor}
    if len(seeds) == 1:
        network = MLP(sizes, init=init, generator=generators[0])
        options |= {"generator": generators[0], **points[0]._asdict()}
        training_class = BatchParallel if distributed.processes() > 1 else Training
    else:
        network = MLPs(sizes, init=init, generators=generators)
        lr, lmbda = zip(*points[part], strict=True)
        options |= {"generator": generators, "lr": lr, "lmbda": lmbda}
        training_class = partial(NetworkParallel, part=part) if distributed.processes() > 1 else Training
    return training_class(network.to(device), cost(), *data.training, **options)


def count_networks(run: Settings) -> int:
    return len(grid(run)) * run["runs"]


def count_parameters(run: Settings) -> int:
    """Return the number of weights and biases of all networks of a run."""
    sizes = [784, *run["hidden"], 10]
    return count_networks(run) * sum((n + 1) * m for n, m in pairwise(sizes))


def choose_threads(run: Settings) -> None:
    """Train on one thread if several are no faster, unless OMP_NUM_THREADS gives their number."""
    if (
        "OMP_NUM_THREADS" not in os.environ
        and count_parameters(run) * run["batch_size"] < MIN_MULTIPLICATIONS_FOR_THREADS
    ):
        torch.set_num_threads(1)


def check_processes(run: Settings) -> None:
    """Raise `UsageError` if a process would have no work."""
    networks, processes = count_networks(run), distributed.processes()
    if 1 < networks < processes:
        raise UsageError(
            f"{networks} networks cannot be shared out over {processes} processes; start {networks} at most"
        )
    if networks == 1 < processes and run["compile"]:
        raise UsageError(f"--compile goes with one process for one network, got {processes}; leave it out")


def check_memory(run: Settings) -> None:
    """Raise `UsageError` if the weights and their gradients alone exceed the machine's memory."""
    needed = 2 * 4 * count_parameters(run) // distributed.processes()
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > available:
        flags = " ".join(format_flag(name, run[name]) for name in ("hidden", "lr", "lmbda", "runs"))
        raise UsageError(
            f"{flags} would take {needed / 1e9:,.0f} GB of memory, and this machine has {available / 1e9:,.0f}; choose "
            f"fewer neurons or networks"
        )


def check_compiler(device: torch.device) -> None:
    """Raise `UsageError` if torch.compile cannot compile for a device."""
    try:
        torch.compile(torch.neg, fullgraph=True, options={"fx_graph_cache": False})(torch.ones(1, device=device))
    except RuntimeError as error:
        raise UsageError(
            f"--compile finds no compiler that works ({mnist.first_line(error)}); install g++, name another in CXX, or "
            f"leave --compile out"
        ) from error


@contextmanager
def explain_memory_errors() -> Iterator[None]:
    """Raise `UsageError` if memory runs out in the block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in MEMORY_ERRORS):
            raise
        raise UsageError("there is not enough memory for the run; choose fewer --hidden, --runs or --lr") from error
