"""Time a training step of the chapter's run, [784, 30, 10] in mini-batches of 10, side by side with its peers.

    python -m benchmarks.training [--rounds 7] [--steps 1000] [--whole-runs] [--write FILE]

The contenders take turns, so that a slow spell of the machine hits all of them. In each round ours trains for an epoch,
the others make --steps steps. The table gives the median round, per network where many train at once, beside
that of the loop of PyTorch's tutorials. --whole-runs adds the seconds of train.py, and the most memory that it held.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms
from torchvision.datasets.utils import extract_archive

from benchmarks.commands import measuring_parser
from benchmarks.results import Row, keep
from benchmarks.tables import contender_header, contender_line
from benchmarks.timing import times
from ce_torch import CrossEntropyCost
from ce_torch.training import mnist
from ce_torch.training.loop import Training
from ce_torch.training.network import MLP
from ce_torch.training.runs import new_training
from ce_torch.training.settings import DEFAULTS, whole_number

PROJECT = Path(__file__).resolve().parent.parent
BATCH_SIZE, LR = 10, 0.5
PEER = "PyTorch, DataLoader"
MEASURE_CHILD = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
Run = Callable[[int], int]  # makes at least that many steps, and returns their number


def ce_torch_run(data: mnist.MNIST, compile: bool) -> Run:
    """This project's training, without what it records after an epoch."""
    training = Training(MLP([784, 30, 10], init="large"), CrossEntropyCost(), *data.training, lr=LR, compile=compile)

    def run(steps: int) -> int:
        training.train_one_epoch()
        return len(training.x) // BATCH_SIZE

    return run


def many_networks_run(data: mnist.MNIST, networks: int) -> Run:
    """Many networks at once; a step of all of them counts as one step of each."""
    run = DEFAULTS | {"lr": LR, "runs": networks}
    training = new_training(run, data, monitor=())

    def endless() -> Iterator[torch.Tensor]:
        while True:
            yield from training.chunks()

    chunks = endless()

    def train(steps: int) -> int:
        done = 0
        while done < steps:
            examples = next(chunks)
            training.descend(examples)
            done += examples.shape[-1] // BATCH_SIZE
        return done * networks

    return train


def data_loader_run(dataset: Dataset) -> Run:
    """The loop of PyTorch's tutorials: a DataLoader over torchvision's MNIST, a loss of torch's, backward, SGD.step."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.Sigmoid(), nn.Linear(30, 10))
    optimiser = torch.optim.SGD(network.parameters(), lr=LR)
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from loader

    endless = batches()

    def run(steps: int) -> int:
        for _ in range(steps):
            x, y = next(endless)
            optimiser.zero_grad()
            z = network(x)
            binary_cross_entropy_with_logits(z, one_hot(y, 10).to(z.dtype)).backward()
            optimiser.step()
        return steps

    return run


def numpy_run(data: mnist.MNIST) -> Run:
    """The chapter's way: backpropagation for one example at a time, its gradients added up over the mini-batch."""
    random = np.random.default_rng(0)
    weights = [random.standard_normal((n, m)) for m, n in ((784, 30), (30, 10))]
    biases = [random.standard_normal((n, 1)) for n in (30, 10)]
    xs = list(data.training.x.numpy()[:, :, None])
    ys = list(one_hot(data.training.y, 10).numpy()[:, :, None])

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    def gradients(x: np.ndarray, y: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        weight_gradients, bias_gradients = [np.zeros(w.shape) for w in weights], [np.zeros(b.shape) for b in biases]
        zs, activations = [], [x]
        for w, b in zip(weights, biases, strict=True):
            zs.append(w @ activations[-1] + b)
            activations.append(sigmoid(zs[-1]))
        delta = activations[-1] - y
        for layer in (1, 0):
            weight_gradients[layer], bias_gradients[layer] = delta @ activations[layer].T, delta
            if layer:
                delta = (weights[layer].T @ delta) * sigmoid(zs[layer - 1]) * (1 - sigmoid(zs[layer - 1]))
        return weight_gradients, bias_gradients

    def run(steps: int) -> int:
        nonlocal weights, biases
        for batch in random.integers(len(xs), size=(steps, BATCH_SIZE)):
            weight_gradients, bias_gradients = [np.zeros(w.shape) for w in weights], [np.zeros(b.shape) for b in biases]
            for i in batch:
                w_gradients, b_gradients = gradients(xs[i], ys[i])
                weight_gradients = [total + term for total, term in zip(weight_gradients, w_gradients, strict=True)]
                bias_gradients = [total + term for total, term in zip(bias_gradients, b_gradients, strict=True)]
            weights = [w - LR / BATCH_SIZE * g for w, g in zip(weights, weight_gradients, strict=True)]
            biases = [b - LR / BATCH_SIZE * g for b, g in zip(biases, bias_gradients, strict=True)]
        return steps

    return run


def time_contenders(contenders: dict[str, Run], rounds: int, steps: int) -> dict[str, list[float]]:
    """Return the seconds per step in every round, by contender."""
    seconds = {name: [] for name in contenders}
    for run in contenders.values():
        run(100)  # to warm up, and to compile
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            done = run(steps)
            seconds[name].append((time.perf_counter() - start) / done)
    return seconds


def run_train(*flags: str) -> tuple[float, float]:
    """Return the seconds that train.py took, and the most memory it held, in megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "--cost", "ce", "--checkpoint", f"{folder}/run.pt", "--quiet", *flags]
        start = time.perf_counter()
        # From a small process: a child's peak begins at the size of its parent.
        parent = [sys.executable, "-c", MEASURE_CHILD, *command]
        done = subprocess.run(parent, cwd=PROJECT, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, int(done.stdout.split()[-1]) / 1024


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = measuring_parser("benchmarks.training", __doc__)
    positive = whole_number(1)
    parser.add_argument("--rounds", type=positive, default=7, help="how often each contender runs (7)")
    parser.add_argument("--steps", type=positive, default=1000, help="steps in a round (1000)")
    parser.add_argument("--whole-runs", action="store_true", help="also time train.py for 30 epochs")
    return parser.parse_args(words)


def contenders(data: mnist.MNIST) -> dict[str, Run]:
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "MNIST" / "raw").mkdir(parents=True)
        for packed in (PROJECT / "data" / "MNIST" / "raw").glob("*.gz"):
            extract_archive(str(packed), f"{root}/MNIST/raw")
        dataset = datasets.MNIST(root, transform=transforms.ToTensor())
    return {
        "ce_torch": ce_torch_run(data, compile=False),
        "ce_torch --compile": ce_torch_run(data, compile=True),
        "ce_torch, each of 16 at once": many_networks_run(data, 16),
        "ce_torch, each of 64 at once": many_networks_run(data, 64),
        PEER: data_loader_run(dataset),
        "NumPy, an example at a time": numpy_run(data),
    }


def run(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows of all contenders, then that of each whole run, which are printed as they are measured."""
    condition = {"benchmark": "training", "compared": "steps of 10 examples", "threads": torch.get_num_threads()}
    seconds = time_contenders(contenders(mnist.load(PROJECT / "data")), arguments.rounds, arguments.steps)
    rows = [{**condition, "contender": name, **times((taken, seconds[PEER]))} for name, taken in seconds.items()]
    print(contender_header(rows[0]))
    print(*map(contender_line, rows), sep="\n", flush=True)
    yield rows
    for flags in ("", "--compile", "--runs 20") if arguments.whole_runs else ():
        taken, megabytes = run_train(*flags.split())
        row = {"benchmark": "training", "compared": "whole runs, 30 epochs", "contender": f"train.py --cost ce {flags}"}
        row |= {"seconds": taken, "megabytes": megabytes}
        if not flags:
            print(contender_header(row))
        print(contender_line(row), flush=True)
        yield [row]


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    keep(run(arguments), arguments.write)


if __name__ == "__main__":
    main()
