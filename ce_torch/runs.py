"""A run as its settings say: data, network and cost brought together."""

from collections.abc import Sequence
from functools import partial

import torch

from ce_torch import distributed, mnist
from ce_torch.distributed import SharedOut, SplitBatches
from ce_torch.network import MLP, MLPs
from ce_torch.settings import COSTS, Settings, UsageError, grid
from ce_torch.training import Training


def new_training(
    run: Settings, data: mnist.MNIST, monitor: Sequence[str] = ("training", "validation", "test")
) -> Training:
    """Return the training of a run: of one network, or of many at once, those of each point of the grid together."""
    device = data.training.x.device
    sizes, init = [784, *run["hidden"], 10], run["init"]
    cost, _ = COSTS[run["cost"]]
    points = [point for point in grid(run) for _ in range(run["runs"])]
    seeds = [run["seed"] + k for _ in grid(run) for k in range(run["runs"])]
    check_processes(run, len(seeds))
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


def check_processes(run: Settings, networks: int) -> None:
    """Raise `UsageError` unless there is work for every process."""
    processes = distributed.processes()
    if 1 < networks < processes:
        raise UsageError(
            f"{networks} networks cannot be shared out over {processes} processes; start {networks} at most"
        )
    if networks == 1 < processes and run["compile"]:
        raise UsageError(f"--compile goes with one process for one network, got {processes}; leave it out")
