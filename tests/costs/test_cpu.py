"""Promises of the kernels for the CPU that the formulas do not make."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ce_torch.costs.log_likelihood import LOG_LIKELIHOOD
from ce_torch.functional import cross_entropy, log_likelihood

needs_kernels = pytest.mark.usefixtures("needs_kernels")


@pytest.fixture(autouse=True)
def backend() -> None:
    """Run the kernels, as users do."""


@needs_kernels
def test_the_default_device_does_not_matter():
    z, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    expected = log_likelihood(z, y)
    with torch.device("meta"):
        torch.testing.assert_close(log_likelihood(z, y), expected, rtol=0, atol=0)


SMALL_STACK = """
import threading, torch
from ce_torch.functional import log_likelihood

def train():
    for z, y in ((torch.randn(300, 100), torch.randint(100, (300,))), (torch.randn(300, 400), torch.rand(300, 400))):
        log_likelihood(z.requires_grad_(), y).backward()

torch.set_num_threads(1)
log_likelihood(torch.zeros(1, 2), torch.tensor([0]))  # compiles the kernels, if nobody has
threading.stack_size(256 * 1024)
thread = threading.Thread(target=train)
thread.start()
thread.join()
"""


@needs_kernels
def test_threads_with_a_small_stack_compute_costs():
    run = subprocess.run([sys.executable, "-c", SMALL_STACK], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


@needs_kernels
def test_a_backward_pass_can_be_traced_after_a_forward_pass_that_was_not():
    z = torch.zeros(2, 3, requires_grad=True)
    C = log_likelihood(z, torch.tensor([0, 1]), reduction="none")
    traced = make_fx(lambda grad: torch.autograd.grad(C, z, grad, retain_graph=True)[0])(torch.ones(2))
    torch.testing.assert_close(traced(torch.ones(2)), torch.autograd.grad(C, z, torch.ones(2))[0])


@needs_kernels
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # Dynamo looks at it
def test_compiled_autograd_leaves_the_kernels_alone():
    z, y = torch.randn(300, 5, requires_grad=True), torch.randint(5, (300,))
    grad = torch.rand(600)[::2]
    (expected,) = torch.autograd.grad(log_likelihood(z, y, reduction="none"), z, grad)
    C = log_likelihood(z, y, reduction="none")
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda: C.backward(grad), backend="eager")()
    torch.testing.assert_close(z.grad, expected)


@needs_kernels
@pytest.mark.parametrize(
    "unpack",
    [
        lambda tensor: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor,
        lambda tensor: tensor.double() if tensor.is_floating_point() else tensor,
        lambda tensor: tensor.bfloat16().float() if tensor.is_floating_point() else tensor,
    ],
    ids=["strides", "dtype", "values"],
)
@pytest.mark.parametrize("cost", [log_likelihood, cross_entropy])
def test_delta_is_of_the_z_that_hooks_unpack(cost, unpack):
    z = (100 * torch.randn(6, 5)).requires_grad_()
    y = torch.randint(5, (6,)) if cost is log_likelihood else torch.rand(6, 5)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach(), unpack):
        C = cost(z, y)
    other = unpack(z.detach()).requires_grad_()
    (expected,) = torch.autograd.grad(cost(other, unpack(y)), other)
    torch.testing.assert_close(torch.autograd.grad(C, z)[0], expected.to(z.dtype))


def costs_of_many(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z, y = (torch.rand(300, 2000, generator=generator) for _ in range(2))
    z.requires_grad_()
    C = cross_entropy(z, y, reduction="none")
    return torch.cat([C.detach(), torch.autograd.grad(C.sum(), z)[0].sum(1)])


@needs_kernels
def test_threads_of_python_may_run_kernels_at_once():
    alone = [costs_of_many(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        torch.testing.assert_close(list(pool.map(costs_of_many, range(8))), alone, rtol=0, atol=0)


FORKED = """
import os, sys, torch
from ce_torch.functional import log_likelihood
torch.set_num_threads(3)
z, y = torch.randn(300, 2000).exp(), torch.randint(2000, (300,))
if sys.argv[1] == "used":
    log_likelihood(z, y)
C = torch.nn.functional.cross_entropy(z, y)
child = os.fork()
if child == 0:
    os._exit(0 if torch.isclose(log_likelihood(z, y), C) else 1)
assert os.waitpid(child, 0)[1] == 0
assert torch.isclose(log_likelihood(z, y), C)
"""


@needs_kernels
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.parametrize("kernels", ["used", "unused"])
def test_a_process_that_is_forked_runs_kernels_too(kernels):
    run = subprocess.run([sys.executable, "-c", FORKED, kernels], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


THREADS_OF_PYTORCH = """
import os, torch
from ce_torch.functional import log_likelihood
torch.set_num_threads(3)
z, y = torch.randn(300, 2000).exp(), torch.randint(2000, (300,))
before = os.listdir("/proc/self/task")
log_likelihood(z, y)
assert os.listdir("/proc/self/task") == before
"""
WAITING_FOR_THREADS = """
import os, torch
from ce_torch.functional import log_likelihood
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
torch.set_num_threads(64)
z, y = torch.randn(2, 40_000).exp(), torch.randint(40_000, (2,))
before = len(os.listdir("/proc/self/task"))
for _ in range(20):
    log_likelihood(z, y)
assert len(os.listdir("/proc/self/task")) == before + 1
"""


@needs_kernels
@pytest.mark.skipif(sys.platform != "linux", reason="threads of a process are listed on Linux")
@pytest.mark.parametrize(
    "promise", [THREADS_OF_PYTORCH, WAITING_FOR_THREADS], ids=["they work", "unless they keep it waiting"]
)
def test_threads_of_pytorch_work_for_the_kernels(promise):
    run = subprocess.run([sys.executable, "-c", promise], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


@needs_kernels
def test_a_class_out_of_range_is_refused_before_memory_is_read():
    with pytest.raises(IndexError, match="class indices from 0 to 3, got -1 to 4"):
        LOG_LIKELIHOOD.implementations[0].cost(
            torch.float32, "mean", torch.zeros(3, 4), torch.tensor([-1, 4, 3]), None, 1.0, -100, 0.0
        )


@pytest.mark.slow
@needs_kernels
def test_elements_past_2_to_the_31st_are_found():
    # Pages of zeros that are only read take no memory.
    z = torch.zeros(2**11 + 1, 2**20, dtype=torch.bfloat16)
    z[-1, -1] = 20
    y = torch.full((len(z),), 2**20 - 1)
    assert log_likelihood(z, y, reduction="none")[-1] < 0.01


@needs_kernels
def test_numbers_are_the_same_with_any_number_of_threads():
    z, y = torch.randn(300, 1000), torch.rand(300, 1000)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = cross_entropy(z, y)
        torch.set_num_threads(4)
        together = cross_entropy(z, y)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(alone, together, rtol=0, atol=0)


@needs_kernels
@pytest.mark.parametrize("function", ["exp", "log1p of exp"])
def test_functions_are_exact_to_a_few_units_in_the_last_place(function):
    """Compute exp by the softmax of two classes, ln(1 + exp(z)) by the cross-entropy of one neuron."""
    z = torch.linspace(-80, 0, 1_000_001)
    if function == "exp":
        pair = torch.stack([z, torch.zeros_like(z)], -1).requires_grad_()
        (delta,) = torch.autograd.grad(
            log_likelihood(pair, torch.ones(len(z), dtype=torch.int64), reduction="sum"), pair
        )
        found, exact = delta[:, 0], z.double().sigmoid()
    else:
        found = cross_entropy(z.unsqueeze(-1), torch.zeros(len(z), 1), reduction="none")
        exact = torch.nn.functional.softplus(z.double(), threshold=1e9)
    error = (found.double() - exact).abs() / exact
    assert error.max() < 4 * torch.finfo(torch.float32).eps


@needs_kernels
def test_more_classes_than_an_integer_of_32_bits_counts_are_refused():
    z, y = torch.zeros(1, 1).expand(1, 2**31), torch.tensor([0])
    on_cpu = LOG_LIKELIHOOD.implementations[0]
    assert on_cpu.refusal(z, y, None, -100, 1.0, 0.0) == "z has more than 2,147,483,647 classes"
