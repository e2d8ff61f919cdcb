"""Time of the costs with their options, forward and backward, beside PyTorch's own loss with the same options.

    python -m benchmarks.options [--threads 1] [--busy 0] [--dtype float32] [--size 512 32000] [--rounds 9]

Each cost takes turns with PyTorch's own loss, in an order that changes. --busy starts so many processes that do nothing
but keep a core busy, as on a machine that is shared: where threads wait for one another often, it shows. The last rows
are of the output layer with its cost, of 256 inputs, beside F.linear and F.cross_entropy.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.costs import forward_and_backward, seconds_in_turns
from ce_torch.functional import cross_entropy, linear_log_likelihood, log_likelihood, quadratic

Loss = Callable[[Tensor, Tensor], Tensor]
INPUTS = 256


def cases(N: int, K: int, dtype: torch.dtype) -> Iterator[tuple[str, Loss, Loss, Tensor, Tensor]]:
    """Yield the name of a case, our loss, PyTorch's, z (or the layer's inputs) and y."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(N, K, generator=generator).to(dtype)
    outputs, weight = torch.rand(N, K, generator=generator).to(dtype), torch.rand(K, generator=generator).to(dtype)
    classes = torch.randint(K, (N,), generator=generator)
    ignored = classes.where(torch.arange(N) % 2 == 0, -100)
    options = {
        "plain": (classes, {}),
        "half ignored": (ignored, {}),
        "label smoothing": (classes, {"label_smoothing": 0.1}),
        "class weights": (classes, {"weight": weight}),
        "all of them": (ignored, {"label_smoothing": 0.1, "weight": weight}),
        "desired outputs": (outputs, {}),
        "desired outputs, smoothing, weights": (outputs, {"label_smoothing": 0.1, "weight": weight}),
    }
    for name, (y, kwargs) in options.items():
        yield f"log-likelihood, {name}", partial(log_likelihood, **kwargs), partial(F.cross_entropy, **kwargs), z, y
    for name, kwargs in {"plain": {}, "pos_weight": {"pos_weight": weight}, "weight": {"weight": weight}}.items():
        peer = partial(F.binary_cross_entropy_with_logits, **kwargs)
        yield f"cross-entropy, {name}", partial(cross_entropy, **kwargs), peer, z, outputs
    yield "quadratic", quadratic, lambda z, y: F.mse_loss(torch.sigmoid(z), y), z, outputs
    yield "quadratic, linear", partial(quadratic, activation="linear"), F.mse_loss, z, outputs

    x = torch.randn(N, INPUTS, generator=generator).to(dtype)
    matrix = (torch.randn(K, INPUTS, generator=generator) / INPUTS**0.5).to(dtype).requires_grad_()
    heads = {
        "plain": (classes, {}),
        "half ignored": (ignored, {}),
        'reduction "none"': (classes, {"reduction": "none"}),
        "label smoothing": (classes, {"label_smoothing": 0.1}),
    }
    for name, (y, kwargs) in heads.items():
        ours, peer = layer_and_cost(matrix, kwargs)
        yield f"with its layer, {name}", ours, peer, x, y


def layer_and_cost(matrix: Tensor, options: dict[str, object]) -> tuple[Loss, Loss]:
    """Return our cost with its layer, and PyTorch's layer and loss, of the layer's inputs and y."""

    def ours(x: Tensor, y: Tensor) -> Tensor:
        matrix.grad = None
        return linear_log_likelihood(x, matrix, y, **options).sum()

    def peer(x: Tensor, y: Tensor) -> Tensor:
        matrix.grad = None
        return F.cross_entropy(F.linear(x, matrix), y, **options).sum()

    return ours, peer


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
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--busy", type=int, default=0, help="processes that keep a core busy each")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "float64"], default="float32")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 32000), metavar=("N", "K"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", metavar="TEXT", help="the cases whose name has this in it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, {arguments.busy} busy processes, {arguments.dtype}, {tuple(arguments.size)}\n")
    print("| cost | time, ms | PyTorch's own, ms | ratio |")
    print("|---|---|---|---|")
    with busy(arguments.busy):
        for name, ours, peer, z, y in cases(*arguments.size, getattr(torch, arguments.dtype)):
            if arguments.only not in name:
                continue
            steps = (forward_and_backward(lambda z, y, loss=loss: loss(z, y)) for loss in (ours, peer))
            taken, of_peer = (statistics.median(t) for t in seconds_in_turns(*steps, z, y, arguments.rounds, warm_up=1))
            print(f"| {name} | {1e3 * taken:.3f} | {1e3 * of_peer:.3f} | {taken / of_peer:.2f} |", flush=True)


if __name__ == "__main__":
    main()
