"""Time and memory of an output layer and its log-likelihood, forward and backward, side by side with PyTorch's own.

    python -m benchmarks.linear [--device cpu] [--dtype float32] [--size N D K] [--threads 2] [--busy] [--options]
                                [--derivatives] [--rounds 3] [--error] [--write FILE]

Contenders are F.linear and F.cross_entropy; F.linear_cross_entropy in chunks of several sizes, its own choice among
them; and linear_log_likelihood, by itself and with blocks of as many rows. Each takes turns with the first, in an order
that changes. The table gives the median time, its ratio to that of F.linear and F.cross_entropy in the same turns, the
most memory beyond inputs and their gradients in parts of the (N, K) weighted inputs, and how far the gradient of the
weight is from the one in float64. --options measures what else there is instead, each option, the statistics and
distillation, beside F.linear and PyTorch's operations for the same. --derivatives measures forward mode and second
derivatives. --size takes other sizes. --busy starts two processes that keep a core busy each.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cases import IGNORED
from benchmarks.commands import measuring_parser
from benchmarks.memory import peak_memory
from benchmarks.results import Row, keep
from benchmarks.tables import contender_header, contender_line
from benchmarks.timing import busy, on_threads, seconds_in_turns, times
from ce_torch.functional import linear_distillation, linear_log_likelihood, linear_softmax_statistics
from ce_torch.training.settings import whole_number

# N examples of D inputs, and K classes.
SIZES = {"cpu": ((2048, 512, 32000), (1024, 768, 128256)), "cuda": ((8192, 4096, 128256),)}
CHUNKS = (64, 256, 512)
UNFUSED = "F.linear, F.cross_entropy"
Head = Callable[..., Tensor]


def contenders(device: str) -> dict[str, Head]:
    def chunked(**options: int) -> Head:
        options = torch.nn.LinearCrossEntropyOptions(**options)
        return lambda x, weight, y: F.linear_cross_entropy(x, weight, y, options=options)

    heads = {UNFUSED: lambda x, weight, y: F.cross_entropy(F.linear(x, weight), y)}
    if hasattr(F, "linear_cross_entropy"):  # from PyTorch 2.12 on
        heads["F.linear_cross_entropy, auto"] = chunked()
        heads |= {f"F.linear_cross_entropy, {rows} rows": chunked(batch_chunk_size=rows) for rows in CHUNKS}
    heads["ce_torch"] = linear_log_likelihood
    heads |= {f"ce_torch, {rows} rows": partial(linear_log_likelihood, block_rows=rows) for rows in CHUNKS}
    return heads | (other_fused_heads() if device == "cuda" else {})


def other_fused_heads() -> dict[str, Head]:
    """Return the heads of Liger and of cut-cross-entropy that are installed."""
    heads = {}
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        heads["Liger"] = lambda x, weight, y: liger_fused_linear_cross_entropy(x, weight, y)
    except ImportError:
        print("Liger is not installed.")
    try:
        from cut_cross_entropy import linear_cross_entropy

        heads["cut-cross-entropy"] = linear_cross_entropy
    except ImportError:
        print("cut-cross-entropy is not installed.")
    return heads


def examples(size: tuple[int, int, int], device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    N, D, K = size
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(N, D, generator=generator, device=device)
    weight = torch.randn(K, D, generator=generator, device=device) / D**0.5
    return x.to(dtype), weight.to(dtype), torch.randint(K, (N,), generator=generator, device=device)


def forward_and_backward(head: Head, weight: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a step that works out the gradients of x and weight, and returns that of weight."""

    def step(x: Tensor, y: Tensor) -> Tensor:
        leaf, parameter = x.detach().requires_grad_(), weight.detach().requires_grad_()
        head(leaf, parameter, y).backward()
        return parameter.grad

    return step


def measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row of measurements for each size and contender."""
    for size in sizes(arguments):
        yield from MEASURES[compared(arguments)](size, arguments)


def compared(arguments: argparse.Namespace) -> str:
    """Return what is measured of a size."""
    return "options" if arguments.options else "derivatives" if arguments.derivatives else "heads"


def sizes(arguments: argparse.Namespace) -> Iterable[tuple[int, int, int]]:
    return SIZES[arguments.device] if arguments.size is None else [tuple(arguments.size)]


def measure_size(size: tuple[int, int, int], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    x, weight, y = examples(size, arguments.device, getattr(torch, arguments.dtype))
    z_bytes = len(x) * len(weight) * x.element_size()
    exact = forward_and_backward(linear_log_likelihood, weight.double())(x.double(), y) if arguments.error else None
    steps = {name: forward_and_backward(head, weight) for name, head in contenders(arguments.device).items()}
    for name, step in steps.items():
        taken = seconds_in_turns(step, steps[UNFUSED], x, y, arguments.rounds)
        in_use = peak_memory(partial(step, x, y), x.device) - x.nbytes - weight.nbytes
        row = {"size": size, "contender": name, **times(taken), "extra_memory": in_use / z_bytes}
        if exact is not None:
            row["error"] = ((step(x, y).double() - exact).norm() / exact.norm()).item()
        yield row


def measure_options(size: tuple[int, int, int], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each use of the layer beside PyTorch's own operations for the same."""
    x, weight, classes = examples(size, arguments.device, getattr(torch, arguments.dtype))
    z_bytes = len(x) * len(weight) * x.element_size()
    for name, y, ours, peer in uses(x, weight, classes):
        fused, unfused = forward_and_backward(ours, weight), forward_and_backward(peer, weight)
        taken = seconds_in_turns(fused, unfused, x, y, arguments.rounds, seconds=0.25)
        in_use = peak_memory(partial(fused, x, y), x.device) - x.nbytes - weight.nbytes
        yield {"size": size, "contender": name, **times(taken), "extra_memory": in_use / z_bytes}


def measure_derivatives(size: tuple[int, int, int], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each derivative that takes more than a backward pass."""
    x, weight, y = examples(size, arguments.device, getattr(torch, arguments.dtype))
    z_bytes = len(x) * len(weight) * x.element_size()
    direction = x.flip(0), weight.flip(0)
    for name, derivative, results in DERIVATIVES:
        ours, peer = (derivative(head, weight, direction) for head in (linear_log_likelihood, pytorch_head))
        taken = seconds_in_turns(ours, peer, x, y, arguments.rounds)
        in_use = peak_memory(partial(ours, x, y), x.device) - results * (x.nbytes + weight.nbytes)
        yield {"size": size, "contender": name, **times(taken), "extra_memory": in_use / z_bytes}


def forward_mode(head: Head, weight: Tensor, direction: tuple[Tensor, Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a step that works out how the cost changes in a direction of x and weight."""
    return lambda x, y: torch.func.jvp(lambda *moved: head(*moved, y), (x, weight), direction)[1]


def two_backward_passes(
    head: Head, weight: Tensor, direction: tuple[Tensor, Tensor]
) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    """Return a step that works out how the gradients of x and weight change in the direction."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
        gradients = torch.autograd.grad(head(*leaves, y), leaves, create_graph=True)
        return torch.autograd.grad(gradients, leaves, direction)

    return step


def forward_over_reverse(
    head: Head, weight: Tensor, direction: tuple[Tensor, Tensor]
) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    """Return a step that works out the same by forward mode."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        gradients = torch.func.grad(lambda *moved: head(*moved, y), (0, 1))
        return torch.func.jvp(gradients, (x, weight), direction)[1]

    return step


# The names, the steps, and how many tensors like x and weight these return or hold as gradients.
DERIVATIVES = (
    ("forward mode", forward_mode, 0),
    ("two backward passes", two_backward_passes, 2),
    ("forward over reverse mode", forward_over_reverse, 2),
)
MEASURES = {"heads": measure_size, "options": measure_options, "derivatives": measure_derivatives}


def uses(x: Tensor, weight: Tensor, classes: Tensor) -> Iterator[tuple[str, Tensor, Head, Head]]:
    """Yield the name of each use, its y, how it calls ours, and the same in PyTorch's operations."""
    numbers = torch.arange(len(classes), device=classes.device)
    few = classes.masked_fill(numbers % 20 >= 3, IGNORED)
    for name, y, options in (
        ("plain", classes, {}),
        ("85% ignored", few, {}),
        ("reduction none", classes, {"reduction": "none"}),
        ("label smoothing", classes, {"label_smoothing": 0.1}),
        ("class weights", classes, {"class_weight": torch.rand_like(weight[:, 0])}),
        ("token weights", classes, {"token_weight": torch.rand_like(x[:, 0], dtype=torch.float32)}),
        ("z-loss", classes, {"z_loss": 1e-4}),
        ("softcap", classes, {"softcap": 30.0}),
    ):
        yield name, y, *(partial(summed, head, **options) for head in (linear_log_likelihood, pytorch_head))
    outputs = torch.rand(len(x), len(weight), device=x.device).to(x.dtype)
    yield "desired outputs", outputs, linear_log_likelihood, pytorch_head
    del outputs
    yield "log_prob, logsumexp, entropy", classes, sum_of_statistics, pytorch_statistics
    teacher = x.flip(0), weight.flip(0)
    for divergence in ("forward_kl", "jensen_shannon"):
        heads = (partial(head, teacher, divergence) for head in (distillation, pytorch_distillation))
        yield f"distillation, {divergence}", classes, *heads


def summed(head: Head, x: Tensor, weight: Tensor, y: Tensor, **options: Any) -> Tensor:
    return head(x, weight, y, **options).sum()


def pytorch_head(
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    softcap: float | None = None,
    z_loss: float = 0.0,
    token_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Return what the layer's cost computes, by operations of PyTorch's on all of z."""
    z, options = F.linear(x, weight), {**options, "weight": class_weight}
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    if token_weight is not None:
        return (token_weight * F.cross_entropy(z, y, reduction="none", **options)).sum() / token_weight.sum()
    C = F.cross_entropy(z, y, **options)
    return C if z_loss == 0 else C + z_loss * z.float().logsumexp(-1).square().mean()


def sum_of_statistics(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    numbers = linear_softmax_statistics(x, weight, y, entropy=True)
    assert numbers.log_prob is not None
    assert numbers.entropy is not None
    return (numbers.log_prob + numbers.logsumexp.square() + numbers.entropy).mean()


def pytorch_statistics(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    z = F.linear(x, weight).float()
    logsumexp = z.logsumexp(-1)
    ln_a = z - logsumexp.unsqueeze(-1)
    log_prob = ln_a.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    return (log_prob + logsumexp.square() - (ln_a.exp() * ln_a).sum(-1)).mean()


def distillation(teacher: tuple[Tensor, Tensor], divergence: str, x: Tensor, weight: Tensor, _y: Tensor) -> Tensor:
    return linear_distillation(x, weight, *teacher, divergence=divergence)


def pytorch_distillation(
    teacher: tuple[Tensor, Tensor], divergence: str, x: Tensor, weight: Tensor, _y: Tensor
) -> Tensor:
    ln_q = F.linear(x, weight).log_softmax(-1)
    with torch.no_grad():
        ln_p = F.linear(*teacher).log_softmax(-1)
    kl = partial(F.kl_div, reduction="batchmean", log_target=True)
    if divergence == "forward_kl":
        return kl(ln_q, ln_p)
    ln_m = torch.logsumexp(torch.stack([ln_p, ln_q]), 0) - math.log(2)
    return (kl(ln_m, ln_p) + kl(ln_m, ln_q)) / 2


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = measuring_parser("benchmarks.linear", __doc__)
    parser.add_argument("--device", choices=SIZES, default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--size", type=whole_number(1), nargs=3, metavar=("N", "D", "K"))
    parser.add_argument("--threads", type=whole_number(1), default=torch.get_num_threads())
    parser.add_argument("--busy", action="store_true", help="beside two processes that keep a core busy each")
    parser.add_argument(
        "--options", action="store_true", help="each option, the statistics and distillation, instead of other heads"
    )
    parser.add_argument("--derivatives", action="store_true", help="forward mode and second derivatives, instead")
    parser.add_argument("--rounds", type=whole_number(1), default=3, help="of twice each")
    parser.add_argument("--error", action="store_true", help="compare gradients with float64's, which takes a minute")
    return parser.parse_args(words)


def run(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the row of each contender or option, which is printed as it is measured."""
    condition = {name: getattr(arguments, name) for name in ("device", "dtype", "threads", "busy")}
    with busy(2 if arguments.busy else 0), on_threads(arguments.threads):
        for index, measured in enumerate(measure(arguments)):
            row = {"benchmark": "linear", "compared": compared(arguments), **condition, **measured}
            if index == 0:
                print(contender_header(row))
            print(contender_line(row), flush=True)
            yield [row]


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    keep(run(arguments), arguments.write)


if __name__ == "__main__":
    main()
