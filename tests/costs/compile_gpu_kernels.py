"""Compile what the costs launch for an H100, without one, and check that they read z and write δ 128 bits at once."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from ce_torch.costs._registry import COSTS
from ce_torch.costs.kernels import cpp, gpu, node
from ce_torch.functional import (
    cross_entropy,
    linear_log_likelihood,
    linear_softmax_statistics,
    log_likelihood,
    softmax_statistics,
)


class H100:
    """As much of a driver as Triton needs to compile."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


Call = Callable[[Tensor], Tensor]
programs: dict[str, str] = {}
run = JITFunction.run


def compile_only(kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **constants: Any) -> None:
    programs[kernel.__name__] = run(kernel, *arguments, grid=grid, warmup=True, **constants).asm["ptx"]


def calls(shape: tuple[int, ...]) -> Iterator[tuple[str, Call]]:
    """Yield each cost as a function of z, and those with options with all of them."""
    classes, outputs, weights = torch.zeros(shape[:-1], dtype=torch.int64), torch.zeros(shape), torch.ones(shape[-1])
    for cost in COSTS.values():
        for function in cost.cost_functions:
            y = classes if function.spec.family == "softmax" else outputs
            options = dict(function.spec.examples[0])
            yield function.spec.name, lambda z, cost=cost, y=y, options=options: cost.function(z, y, **options)
    of_softmax = {"weight": weights, "label_smoothing": 0.1, "temperature": 2.0}
    of_neurons = {"weight": weights, "pos_weight": weights}
    yield "log_likelihood of classes, with options", lambda z: log_likelihood(z, classes, **of_softmax)
    yield "log_likelihood of outputs, with options", lambda z: log_likelihood(z, outputs, **of_softmax)
    yield "softmax_statistics of classes", lambda z: log_prob_and_entropy(z, classes)
    yield "softmax_statistics with a softcap", lambda z: log_prob_and_entropy(z, classes, softcap=30.0)
    yield "cross_entropy of classes, with options", lambda z: cross_entropy(z, classes, **of_neurons)
    yield "cross_entropy of outputs, with options", lambda z: cross_entropy(z, outputs, **of_neurons)


def log_prob_and_entropy(z: Tensor, y: Tensor, **options: Any) -> Tensor:
    numbers = softmax_statistics(z, y, entropy=True, **options)
    assert numbers.log_prob is not None
    assert numbers.entropy is not None
    return (numbers.log_prob + numbers.entropy + numbers.logsumexp).sum()


def moves_128_bits(access: str, program: str, dtype: torch.dtype) -> bool:
    return f"{access}.global.v{'2.b64' if dtype == torch.float64 else '4.b32'}" in program


def multiply(left: Tensor, right: Tensor, out: Tensor, adds: bool = False) -> None:
    """Stand in for PyTorch's product of half precision in float32, which only a GPU has."""
    out.copy_(left.float() @ right.float())


triton.runtime.driver.set_active(H100())
JITFunction.run = compile_only
cpp.has_kernels = lambda: False
node.library = lambda: None
gpu.is_on_gpu = lambda z: True
# Classes that come last, and classes before pixels, of which rows are neighbours in memory.
for shape, last, dtypes in (
    ((8, 8192), (8, 8192), (torch.float32, torch.bfloat16, torch.float16, torch.float64)),
    ((2, 32, 8, 64), (2, 8, 64, 32), (torch.float32,)),
):
    for dtype in dtypes:
        z = torch.zeros(shape, dtype=dtype)
        z = (z if shape == last else z.movedim(1, -1)).requires_grad_()
        for name, cost in calls(last):
            programs.clear()
            cost(z).backward()
            (of_cost,) = (text for kernel, text in programs.items() if not kernel.endswith(("_delta", "finish")))
            (of_delta,) = (text for kernel, text in programs.items() if kernel.endswith("_delta"))
            # Where rows are neighbours, those that are ignored are left out one by one.
            if shape == last:
                assert moves_128_bits("ld", of_cost, dtype), (name, shape, dtype)
                assert moves_128_bits("ld", of_delta, dtype), (name, shape, dtype)
            assert moves_128_bits("st", of_delta, dtype), (name, shape, dtype)

        programs.clear()
        for function in (function for cost in COSTS.values() for function in cost.cost_functions):
            of_softmax = function.spec.family == "softmax"
            y = torch.zeros(last[:-1], dtype=torch.int64) if of_softmax else torch.zeros(last)
            constants = [{float: 0.5, int: -100}.get(kind) for kind in [*function.spec.parameters.values()][2:]]
            change = function.implementations[1].change
            change(torch.ones_like(z), torch.zeros(()), None, "mean", z.detach(), y, *constants)
            (of_change,) = (
                text
                for kernel, text in programs.items()
                if kernel.endswith("s_change" if not of_softmax else "delta_change")
            )
            assert moves_128_bits("st", of_change, dtype), (function.spec.name, shape, dtype)

gpu.multiply = multiply
sizes, y, outputs = ((8, 64), (8192, 64), (8192,)), torch.zeros(8, dtype=torch.int64), torch.zeros(8, 8192)
x, weight, bias = (torch.zeros(size, dtype=torch.bfloat16, requires_grad=True) for size in sizes)
fused, by_blocks = (
    {"block_exponentials", "x_gradient", "block_delta", "multiply_by"},
    {"block_numbers", "block_gradient"},
)
for layer_cost, kernels in (
    (lambda: linear_log_likelihood(x, weight, y, bias), fused),
    (lambda: linear_log_likelihood(x, weight, y, label_smoothing=0.1), fused),
    (lambda: linear_log_likelihood(x, weight, y, bias, softcap=30.0, label_smoothing=0.1, z_loss=0.1), by_blocks),
    (lambda: linear_log_likelihood(x, weight, outputs, bias), by_blocks),
    (lambda: linear_softmax_statistics(x, weight, y, entropy=True).entropy.sum(), by_blocks),
):
    programs.clear()
    C = layer_cost()
    C.backward(torch.full_like(C, 2.0))
    assert programs.keys() == kernels, programs.keys()
