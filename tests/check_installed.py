"""Check an installed wheel where torch alone is there: each kernel that it brought computes what the formulas do.

`python check_installed.py` checks the kernels, `python check_installed.py node` that it brought a node too.
"""

import ctypes
import re
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ce_torch import functional, use_backend
from ce_torch.costs._registry import COSTS
from ce_torch.costs.kernels import compiler, installed, node
from ce_torch.costs.kernels.sources import read_sources

taken: set[str] = set()


class Library(ctypes.CDLL):
    """A library that notes which functions are looked up in it."""

    def __getitem__(self, name):
        taken.add(name)
        return super().__getitem__(name)


def main(has_node: bool) -> None:
    ctypes.CDLL = Library
    kernels = compiler.library()
    assert isinstance(kernels, Library), kernels
    assert kernels._name == str(installed.kernels()), f"{kernels._name} did not come with ce_torch"
    assert (node.load_installed() is not None) == has_node
    torch.manual_seed(0)
    check_costs(has_node)
    check_statistics()
    check_layer()
    exported = re.findall(r'^extern "C" [^({]*?(\w+)\(', "\n".join(read_sources().values()), re.MULTILINE)
    missing = {name for name in exported if has_node or not name.endswith("_kernels")} - taken
    assert not missing, f"nothing has taken {sorted(missing)}"
    print(f"{len(exported)} kernels of {kernels._name} were taken, {'and' if has_node else 'without'} a node")


def check_costs(has_node: bool) -> None:
    for cost in COSTS.values():
        for function in cost.cost_functions:
            z, y = torch.randn(5, 3), torch.rand(5, 3)
            for options in function.spec.examples:
                check(partial(cost.function, y=y, **options), z)
                check_forward_mode(partial(cost.function, y=y, **options), z)
            C = cost.function(z.requires_grad_(), y, **function.spec.examples[0])
            assert (type(C.grad_fn).__name__ == "CppFunction") == has_node, C.grad_fn


def check_statistics() -> None:
    y = torch.tensor([0, 2, 1, 0])
    check(lambda z: sum(map(torch.sum, functional.softmax_statistics(z, y, entropy=True)[:3])), torch.randn(4, 3))


def check_layer() -> None:
    # Of a smaller z all is computed at once.
    cost, x, weight = functional.linear_log_likelihood, torch.randn(48, 32), torch.randn(3000, 32) / 6
    y, outputs = torch.arange(48) % 20, torch.rand(48, 3000).softmax(-1)
    check(lambda x: cost(x, weight, y), x)
    check(lambda x: cost(x, weight, y, softcap=5.0), x)
    check(lambda x: cost(x, weight, outputs), x)
    check(lambda x: functional.linear_distillation(x, weight, x.detach() / 2, weight), x)
    check(lambda x: cost(x, weight.bfloat16(), y), x.bfloat16(), rtol=0.02, atol=1e-3)
    check(lambda weight: cost(x.bfloat16(), weight, y), weight.bfloat16(), rtol=0.02, atol=1e-3)
    teacher = x.bfloat16() / 2, weight.bfloat16()
    check(lambda x: functional.linear_distillation(x, teacher[1], *teacher), x.bfloat16(), rtol=0.02, atol=1e-3)
    check(
        lambda weight: functional.linear_distillation(x.bfloat16(), weight, *teacher),
        weight.bfloat16(),
        rtol=0.02,
        atol=1e-3,
    )


def check(cost: Callable[[Tensor], Tensor], input: Tensor, **tolerance: float) -> None:
    """Compare C, its gradient and a second derivative, by kernels and as users compute them, with the formulas'."""
    results = []
    for backend in ("formulas", "auto", "kernels"):
        with use_backend(backend):
            tensor = input.clone().requires_grad_()
            C = cost(tensor)
            (gradient,) = torch.autograd.grad(cost(tensor), tensor)
            (again,) = torch.autograd.grad(C, tensor, create_graph=True)
            (second,) = torch.autograd.grad(again.float().square().sum(), tensor)
        results.append((C.detach(), gradient, second))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], **({"rtol": 1e-4, "atol": 1e-5} | tolerance))


def check_forward_mode(cost: Callable[[Tensor], Tensor], z: Tensor) -> None:
    """Compare C and its change in a direction with the formulas'."""
    results = []
    for backend in ("formulas", "auto", "kernels"):
        with use_backend(backend):
            results.append(torch.func.jvp(cost, (z,), (z.cos(),)))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main(sys.argv[1:] == ["node"])
