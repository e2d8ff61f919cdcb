"""The kernels against the formulas: the CPU's, and a GPU's, which Triton's interpreter runs where there is none."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle

import pytest
import torch
from evaluation import cost_and_delta
from heads import layer
from switches import DEVICE, WITHOUT_GPU_KERNELS, can_have_kernels, pretend_gpu, turn_kernels_off, turn_node_off
from torch.autograd import forward_ad
from torch.func import grad, vmap
from torch.nn import functional as F

from ce_torch import explain
from ce_torch.costs._registry import COSTS as REGISTERED
from ce_torch.costs.kernels import cpp, gpu
from ce_torch.functional import cross_entropy, linear_log_likelihood, log_likelihood, quadratic

# What all kernels support: the costs without weights, those of a softmax layer with classes.
COSTS = {
    function.spec.name: partial(cost.function, **options) if (options := function.spec.examples[0]) else cost.function
    for cost in REGISTERED.values()
    for function in cost.cost_functions
}
COSTS["temperature"] = partial(log_likelihood, temperature=0.3)


def ramp(z):
    """Return a factor for each column; the first is 0."""
    return torch.linspace(0, 3, z.shape[-1], dtype=torch.float64, device=z.device)


# Every option alone, and together with all others.
OPTIONS = {
    "weights": lambda z, y, **options: cross_entropy(z, y, weight=ramp(z), pos_weight=3 - ramp(z), **options),
    "weights of examples": lambda z, y, **options: cross_entropy(
        z, y, weight=ramp(z[..., :1]) + z[..., :1].abs().detach(), **options
    ),
    "weights of every neuron": lambda z, y, **options: cross_entropy(z, y, pos_weight=z.detach().abs(), **options),
    "a mask": lambda z, y, **options: cross_entropy(z, y, mask=z > 0, **options),
    "a mask, weights": lambda z, y, **options: cross_entropy(z, y, mask=z > 0, weight=ramp(z), **options),
    "classes of neurons": lambda z, y, **options: cross_entropy(z, y.argmax(-1), **options),
    "classes of linear neurons": lambda z, y, **options: quadratic(z, y.argmax(-1), activation="linear", **options),
    "classes of neurons, weights": lambda z, y, **options: cross_entropy(
        z, y.argmax(-1), weight=z.detach().abs(), pos_weight=ramp(z), **options
    ),
    "class weights": lambda z, y, **options: log_likelihood(z, y.argmax(-1), weight=ramp(z), **options),
    "label smoothing": lambda z, y, **options: log_likelihood(z, y.argmax(-1), label_smoothing=0.2, **options),
    "nothing but smoothing": lambda z, y, **options: log_likelihood(z, y.argmax(-1), label_smoothing=1, **options),
    "desired outputs": log_likelihood,
    "all options": lambda z, y, **options: log_likelihood(
        z, y.argmax(-1), weight=ramp(z), label_smoothing=0.2, ignore_index=1, temperature=2, **options
    ),
    "desired outputs, all options": lambda z, y, **options: log_likelihood(
        z, y, weight=ramp(z), label_smoothing=0.2, temperature=2, **options
    ),
    "ignored": lambda z, y, **options: log_likelihood(z, y.argmax(-1), ignore_index=0, **options),
}
# One example without a batch, one class, no power of two, no example, leading dimensions, more classes than a kernel
# reads at once, short rows that it reads together, enough elements for a second thread.
SHAPES = [(3,), (4, 1), (5, 37), (2, 0, 3), (2, 3, 2, 8), (3, 9001), (1500, 7), (50, 1000)]
REDUCTIONS = ["mean", "none", "sum"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# Every shape in float32, and every dtype. Each reduction is among them.
KINDS = [(shape, torch.float32, reduction) for shape, reduction in zip(SHAPES, cycle(REDUCTIONS), strict=False)]
KINDS += [((5, 37), dtype, "mean") for dtype in DTYPES[1:]]
KINDS += [((3, 9001), dtype, "none") for dtype in DTYPES[1:]]
# Ways in which the rows and columns of a matrix lie in memory.
LAYOUTS = {
    "rows": lambda matrix: matrix,
    "columns": lambda matrix: matrix.mT.contiguous().mT,
    "every second column": lambda matrix: matrix.repeat_interleave(2, -1)[:, ::2],
    "rows of a wider matrix": lambda matrix: torch.cat([matrix, torch.full_like(matrix, torch.nan)], -1)[
        :, : matrix.shape[1]
    ],
}


def reason_not_to_run(kernels: str) -> str:
    if kernels == "cpu":
        return "" if can_have_kernels() else "no wheel brought kernels, and there is no C++ compiler"
    return WITHOUT_GPU_KERNELS


@pytest.fixture(autouse=True, params=["cpu", "gpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the kernels of one processor. Without a GPU, tensors on the CPU pass for tensors on one."""
    if reason := reason_not_to_run(request.param):
        pytest.skip(reason)
    if request.param == "gpu":
        pretend_gpu(monkeypatch)
    return request.param


@contextmanager
def formulas_alone() -> Iterator[None]:
    """Compute as where there is neither a compiler nor Triton."""
    with pytest.MonkeyPatch.context() as patch:
        turn_kernels_off(patch)
        patch.setattr(gpu, "has_triton", lambda: False)
        yield


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of the kernels that run."""
    launches: list[str] = []

    def recorded(run):
        return lambda name, *arguments, **more: launches.append(name) or run(name, *arguments, **more)

    turn_node_off(monkeypatch)
    monkeypatch.setattr(cpp, "kernel", recorded(cpp.kernel))
    monkeypatch.setattr(gpu, "launch", recorded(gpu.launch))
    return launches


@pytest.fixture(params=COSTS)
def cost(request: pytest.FixtureRequest):
    return COSTS[request.param]


@pytest.fixture
def examples(backend: str):
    """Return a function that makes weighted inputs, and classes or desired outputs, on the kernels' device."""

    def examples(cost, *shape, dtype=torch.float32):
        device = DEVICE if backend == "gpu" else "cpu"
        if backend == "gpu" and DEVICE == "cpu":  # Triton's interpreter takes a millisecond a row
            shape = (*(min(size, 6) for size in shape[:-1]), shape[-1])
        generator = torch.Generator().manual_seed(0)
        z = (3 * torch.randn(shape, generator=generator)).to(device, dtype)
        if cost in (COSTS["log_likelihood"], COSTS["temperature"]):
            return z, torch.randint(shape[-1], shape[:-1], generator=generator).to(device)
        return z, torch.rand(shape, generator=generator).to(device, dtype)

    return examples


def assert_kernels_are_formulas(cost, z, y, **options):
    ours = cost_and_delta(cost, z, y, **options)
    with formulas_alone():
        formulas = cost_and_delta(cost, z, y, **options)
    torch.testing.assert_close(ours, formulas, equal_nan=True)


@pytest.mark.parametrize(("shape", "dtype", "reduction"), KINDS, ids=str)
def test_a_kernel_is_its_formula(cost, examples, shape, dtype, reduction):
    z, y = examples(cost, *shape, dtype=dtype)
    assert_kernels_are_formulas(cost, z, y, reduction=reduction)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(("shape", "dtype", "reduction"), KINDS, ids=str)
def test_a_kernel_is_its_formula_with_options(name, examples, shape, dtype, reduction):
    z, y = examples(OPTIONS[name], *shape, dtype=dtype)
    assert_kernels_are_formulas(OPTIONS[name], z, y, reduction=reduction)


@pytest.mark.parametrize("name", OPTIONS)
def test_kernels_compute_every_option(name, examples, launches):
    z, y = examples(OPTIONS[name], 5, 3)
    OPTIONS[name](z.requires_grad_(), y).backward()
    assert len(launches) == 2


@pytest.mark.parametrize("y_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("z_dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["quadratic", "linear_quadratic", "cross_entropy", "focal"])
def test_kernels_take_y_of_any_dtype(name, examples, launches, z_dtype, y_dtype):
    z, y = examples(COSTS[name], 5, 9, dtype=z_dtype)
    assert_kernels_are_formulas(COSTS[name], z, y.to(y_dtype))
    assert len(launches) == 2


def test_kernels_take_any_strides(cost, examples):
    z, y = examples(cost, 6, 5, 8)
    assert_kernels_are_formulas(cost, z.transpose(0, 1)[::2, 1::2], y.transpose(0, 1)[::2, 1::2])
    assert_kernels_are_formulas(cost, z.mT.contiguous().mT, y)
    assert_kernels_are_formulas(cost, z[0, 0].expand(4, 8), y[0, :1].expand(4, *y.shape[2:]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("y_layout", LAYOUTS)
@pytest.mark.parametrize("z_layout", LAYOUTS)
@pytest.mark.parametrize("cost", [log_likelihood, cross_entropy])
def test_z_and_y_may_lie_in_memory_each_in_its_way(cost, examples, z_layout, y_layout, dtype):
    z, y = examples(cross_entropy, 69, 131, dtype=dtype)
    assert_kernels_are_formulas(cost, LAYOUTS[z_layout](z), LAYOUTS[y_layout](y))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_z_of_classes_may_lie_in_memory_in_any_way(examples, layout, dtype):
    cost = COSTS["log_likelihood"]
    z, y = examples(cost, 69, 131, dtype=dtype)
    assert_kernels_are_formulas(cost, LAYOUTS[layout](z), y)


# Triton's interpreter takes half a minute.
@pytest.mark.parametrize("backend", ["cpu", pytest.param("gpu", marks=pytest.mark.slow)], indirect=True)
def test_what_is_too_large_for_a_cache_is_written_too(examples):
    cost = COSTS["log_likelihood"]
    z, y = examples(cost, 33, 70_000)
    assert_kernels_are_formulas(cost, LAYOUTS["columns"](z), y)


def test_classes_are_weighted_and_ignored(examples):
    z, y = examples(log_likelihood, 6, 5)
    weight = torch.linspace(0.5, 2, 5, device=z.device)
    assert_kernels_are_formulas(log_likelihood, z, y.index_fill(0, y.new_tensor([2]), -100), weight=weight)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_rows_side_by_side_that_no_cache_holds_are_those_of_the_formulas(cost, examples, dtype, reduction):
    z, y = examples(cost, 2100, 1000, dtype=dtype)
    assert_kernels_are_formulas(cost, LAYOUTS["columns"](z), y, reduction=reduction)


@pytest.mark.parametrize("largest", [1e-20, 17.0, 88.0, 1e4])
def test_kernels_keep_the_digits_of_the_smallest_costs(cost, examples, largest):
    z, y = examples(cost, 7, 9)
    z = z / z.abs().amax() * largest
    exact = cost_and_delta(cost, z.double(), y.double() if y.is_floating_point() else y, reduction="none")
    for ours, theirs in zip(cost_and_delta(cost, z, y, reduction="none"), exact, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=5e-5, atol=2e-37)


@pytest.mark.parametrize("neurons", [1, 130, 6000])
@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("wrong", [0.0, -3.0, -40.0, -85.0])
def test_the_cross_entropy_of_many_neurons_alike_has_the_digits_of_one(neurons, layout, wrong, examples):
    z, _ = examples(COSTS["cross_entropy"], 40, neurons)
    z, y = LAYOUTS[layout](torch.full_like(z, wrong)), torch.zeros_like(z)
    C = cross_entropy(z, y, reduction="none")
    torch.testing.assert_close(C, torch.full_like(C, neurons * math.log1p(math.exp(wrong))), rtol=5e-6, atol=0)


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 3.0, 1e10])
def test_rows_of_large_weighted_inputs_neither_overflow_nor_vanish(examples, temperature):
    z, y = examples(log_likelihood, 9, 5)
    z = z * 1e10
    z[::3] = -1e30
    exact = cost_and_delta(log_likelihood, z.double(), y, reduction="none", temperature=temperature)
    for ours, theirs in zip(
        cost_and_delta(log_likelihood, z, y, reduction="none", temperature=temperature), exact, strict=True
    ):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("cost", [COSTS["log_likelihood"], log_likelihood], ids=["classes", "desired outputs"])
def test_classes_far_above_those_before_lose_no_digits(cost, examples, layout, temperature):
    z, y = examples(cost, 40, 2500)
    z = LAYOUTS[layout](z + 40 * (torch.arange(2500, device=z.device) // 500))
    options = {"reduction": "none", "temperature": temperature}
    exact = cost_and_delta(cost, z.double(), y.double() if y.is_floating_point() else y, **options)
    for ours, theirs in zip(cost_and_delta(cost, z, y, **options), exact, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=5e-5, atol=2e-37)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("special", [float("-inf"), float("inf"), float("nan")])
@pytest.mark.parametrize(("layout", "shape"), [("rows", (4, 6)), ("columns", (70, 80))], ids=str)
def test_kernels_are_finite_where_the_formulas_are(cost, examples, layout, shape, special):
    z, y = examples(cost, *shape)
    z[1, 2] = special
    z[2] = special
    z[3, -2:] = special
    z = LAYOUTS[layout](z)
    C, delta = cost_and_delta(cost, z, y, reduction="none")
    with formulas_alone():
        formula_C, formula_delta = cost_and_delta(cost, z, y, reduction="none")
    assert C.isfinite().tolist() == formula_C.isfinite().tolist()
    torch.testing.assert_close(delta, formula_delta, equal_nan=True)


def test_vmap_runs_the_kernels(cost, examples, launches):
    z, y = examples(cost, 5, 4, 3)
    expected = torch.stack([cost(*example) for example in zip(z, y, strict=True)])
    launches.clear()
    torch.testing.assert_close(vmap(cost)(z, y), expected)
    assert len(launches) == 1


def test_per_example_gradients_are_those_of_the_formulas(cost, examples):
    z, y = examples(cost, 5, 3)
    delta = vmap(grad(cost))(z, y)
    with formulas_alone():
        torch.testing.assert_close(delta, vmap(grad(cost))(z, y))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_forward_mode_goes_through_the_kernels(cost, examples, launches, reduction):
    z, y = examples(cost, 5, 3)

    def tangent():
        with forward_ad.dual_level():
            C = cost(forward_ad.make_dual(z, torch.ones_like(z) + z), y, reduction=reduction)
            return forward_ad.unpack_dual(C).tangent

    through_kernels = tangent()
    assert launches
    with formulas_alone():
        torch.testing.assert_close(through_kernels, tangent())


def test_second_derivatives_are_those_of_the_formulas(cost, examples):
    z, y = examples(cost, 5, 3)
    second = curvature(cost, z, y)
    with formulas_alone():
        torch.testing.assert_close(second, curvature(cost, z, y))


def curvature(cost, z, y):
    z = z.detach().requires_grad_()
    (delta,) = torch.autograd.grad(cost(z, y), z, create_graph=True)
    return torch.autograd.grad((delta**2).sum(), z)


def test_backward_passes_may_be_repeated_and_leave_z_alone(cost, examples):
    z, y = examples(cost, 5, 3)
    before = z.clone()
    C = cost(z.requires_grad_(), y)
    once, twice = (torch.autograd.grad(C, z, C.new_tensor(factor), retain_graph=True)[0] for factor in (1.0, 2.0))
    torch.testing.assert_close(2 * once, twice)
    torch.testing.assert_close(z.detach(), before, rtol=0, atol=0)


def test_forward_and_backward_are_a_kernel_each(cost, examples, launches):
    z, y = examples(cost, 5, 3)
    cost(z.requires_grad_(), y).backward()
    assert len(launches) == 2


def test_explain_names_the_kernels_that_run(backend, cost, examples, launches):
    assert explain(cost, *examples(cost, 5, 3)).name == {"cpu": "cpp", "gpu": "triton"}[backend]
    assert len(launches) == 1


def test_kernels_take_a_parameter(cost, examples, launches):
    z, y = examples(cost, 5, 3)
    cost(torch.nn.Parameter(z), y).backward()
    assert len(launches) == 2


def test_without_kernels_the_formulas_serve(cost, examples, launches):
    z, y = examples(cost, 5, 3)
    with formulas_alone():
        cost(z.requires_grad_(), y).backward()
    assert not launches


def test_a_view_that_negates_is_read_negated(cost, examples):
    z, y = examples(cost, 5, 3)
    torch.testing.assert_close(cost(torch._neg_view(z), y), cost(-z, y))
    torch.testing.assert_close(cost(z, torch._neg_view(-y)), cost(z, y))


def test_a_gradient_that_is_zero_and_takes_no_memory_gives_zeros(cost, examples):
    z, y = examples(cost, 5, 3)
    C = cost(z.requires_grad_(), y)
    assert not torch.autograd.grad(C, z, torch._efficientzerotensor(C.shape, device=C.device))[0].any()


@pytest.mark.parametrize("backend", ["gpu"], indirect=True)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_a_layer_takes_the_kernels_of_the_gpu_for_its_blocks(backend, launches, bias):
    inputs, y = layer(40, 5, 300, torch.float32, bias=bias), torch.arange(40)
    inputs = [tensor.detach().to(DEVICE).requires_grad_() for tensor in inputs]
    C = linear_log_likelihood(inputs[0], inputs[1], y.to(DEVICE), *inputs[2:], block_rows=16, ignore_index=3)
    assert launches == ["log_likelihood", "log_likelihood_delta"] * 3
    right = F.cross_entropy(F.linear(*inputs), y.to(DEVICE), ignore_index=3)
    torch.testing.assert_close(C, right)
    torch.testing.assert_close(torch.autograd.grad(C, inputs), torch.autograd.grad(right, inputs))
    assert explain(linear_log_likelihood, inputs[0], inputs[1], y.to(DEVICE), *inputs[2:]).name == "triton"


@pytest.mark.parametrize("backend", ["gpu"], indirect=True)
def test_blocks_of_a_layer_in_half_precision_are_summed_in_float32_on_a_gpu(backend, monkeypatch):
    products = []
    if DEVICE == "cpu":  # PyTorch has no such product there

        def record_product(left, right):
            products.append((left.dtype, right.dtype))
            return left.float() @ right.float()

        monkeypatch.setattr(gpu, "product_in_float32", record_product)
    inputs = [tensor.to(DEVICE) for tensor in layer(40, 5, 300, torch.bfloat16, bias=False)]
    y = torch.arange(40).to(DEVICE)
    C = linear_log_likelihood(*inputs, y, softcap=5.0, temperature=torch.ones((), device=DEVICE))
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    right = F.cross_entropy(5 * torch.tanh(F.linear(*exact) / 5), y)
    torch.testing.assert_close(C, right.bfloat16())
    gradients, right_gradients = torch.autograd.grad(C, inputs), torch.autograd.grad(right, exact)
    for gradient, expected in zip(gradients, right_gradients, strict=True):
        torch.testing.assert_close(gradient.double(), expected, rtol=0.01, atol=1e-4)
    assert set(products) <= {(torch.bfloat16, torch.bfloat16)}
    assert products or DEVICE == "cuda"
