"""The cost of a layer keeps within the memory that it may take, or says how much it needs."""

import re

import pytest
import torch
from heads import layer

from ce_torch import LinearLogLikelihoodCost
from ce_torch.costs.kernels import cpp
from ce_torch.functional import linear_log_likelihood, linear_softmax_statistics

SIZES = [
    (200, 64, 300),
    *(pytest.param(size, marks=pytest.mark.slow) for size in ((100, 300, 200), (40, 256, 1000), (1000, 100, 50))),
]
COSTS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "none": {"reduction": "none"},
    "softcap": {"softcap": 3.0, "label_smoothing": 0.1},
    "all": {"softcap": 3.0, "label_smoothing": 0.1, "z_loss": 0.1, "reduction": "none"},
    "temperature": {"temperature": torch.tensor(2.0)},
}


@pytest.fixture(autouse=True)
def backend():
    """Use blocks as users have them."""


@pytest.fixture(params=[pytest.param(True, id="kernels"), pytest.param(False, id="no-compiler")])
def compiler(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(cpp, "has_kernels", lambda: False)


def least_memory(step):
    """Return the bytes that the error names as the least."""
    with pytest.raises(ValueError, match="max_memory must be at least") as error:
        step(1)
    return int(float(re.search(r'at least "([0-9.]+) MB"', str(error.value))[1]) * 1e6)


def memory_of(step, inputs, max_memory, peak_memory):
    return peak_memory(lambda: step(max_memory)) - sum(tensor.nbytes for tensor in inputs)


def check(step, inputs, peak_memory):
    least = least_memory(step)
    for max_memory in (least, 2 * least, 2 * least + 8_000_000):
        assert memory_of(step, inputs, max_memory, peak_memory) <= max_memory


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("options", COSTS.values(), ids=COSTS)
def test_the_memory_of_both_passes_keeps_within_its_limit(options, sizes, dtype, peak_memory):
    inputs, y = layer(*sizes, dtype), torch.arange(sizes[0]) % sizes[2]
    y[::3] = -100

    def step(max_memory):
        C = linear_log_likelihood(inputs[0], inputs[1], y, inputs[2], max_memory=max_memory, **options)
        return torch.autograd.grad(C.sum(), inputs)

    check(step, inputs, peak_memory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_desired_outputs_keep_within_the_limit_too(label_smoothing, sizes, dtype, peak_memory):
    inputs, y = layer(*sizes, dtype), torch.rand(sizes[0], sizes[2]).to(dtype)

    def step(max_memory):
        options = {"label_smoothing": label_smoothing, "max_memory": max_memory}
        return torch.autograd.grad(linear_log_likelihood(inputs[0], inputs[1], y, inputs[2], **options), inputs)

    check(step, inputs, peak_memory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("options", [{}, {"softcap": 3.0, "temperature": torch.tensor(2.0)}], ids=["plain", "softcap"])
def test_statistics_keep_within_the_limit_too(options, sizes, dtype, peak_memory):
    inputs, y = layer(*sizes, dtype), torch.arange(sizes[0]) % sizes[2]
    y[::3] = -100

    def step(max_memory):
        options_here = {"entropy": True, "max_memory": max_memory} | options
        found = linear_softmax_statistics(inputs[0], inputs[1], y, inputs[2], **options_here)
        return torch.autograd.grad(sum(number.sum() for number in found[:3]), inputs)

    check(step, inputs, peak_memory)


@pytest.mark.parametrize("adapter_dtype", [None, torch.float32])
@pytest.mark.parametrize("is_autocast", [False, True], ids=["plain", "autocast"])
def test_copies_for_autocast_and_adapters_count_too(is_autocast, adapter_dtype, peak_memory):
    dtype = torch.float32 if is_autocast else torch.bfloat16
    x, weight, bias = layer(200, 64, 200, dtype)
    adapter, y = None, torch.arange(200)
    inputs = [x, weight, bias]
    if adapter_dtype is not None:
        adapter = tuple(torch.ones(shape, dtype=adapter_dtype, requires_grad=True) for shape in ((8, 64), (200, 8)))
        inputs += adapter

    def step(max_memory):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
            C = linear_log_likelihood(x, weight, y, bias, adapter=adapter, max_memory=max_memory)
        return torch.autograd.grad(C, inputs)

    check(step, inputs, peak_memory)


@pytest.mark.slow
def test_64_megabytes_do_for_a_large_layer(peak_memory):
    inputs, y = layer(2048, 512, 32000, torch.float32, bias=False), torch.arange(2048)
    cost = LinearLogLikelihoodCost(512, 32000, bias=False, max_memory="64 MB")
    cost.layer.weight = torch.nn.Parameter(inputs[1].detach())
    step = peak_memory(lambda: torch.autograd.grad(cost(inputs[0], y), [inputs[0], cost.layer.weight]))
    assert step - sum(tensor.nbytes for tensor in inputs) <= 64e6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_limit_makes_no_difference_to_the_results(dtype):
    inputs, y = layer(100, 20, 2000, dtype), torch.arange(100)
    found = []
    for max_memory in (None, "1.5 MB"):
        C = linear_log_likelihood(inputs[0], inputs[1], y, inputs[2], max_memory=max_memory)
        found.append((C, *torch.autograd.grad(C, inputs)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64 MB", 64_000_000), ("1.5GiB", 3 << 29), ("512 kB", 512_000), (" 3 KiB ", 3072), ("2 MiB", 2 << 20), (7, 7)],
)
def test_a_limit_is_a_number_of_bytes_or_a_text_with_a_unit(text, size):
    assert LinearLogLikelihoodCost(3, 4, max_memory=text).max_memory == size


def test_a_limit_and_rows_of_a_block_exclude_each_other():
    x, weight, _ = layer()
    for cost in (linear_log_likelihood, linear_softmax_statistics):
        with pytest.raises(ValueError, match=r"block_rows=4 and max_memory=1000 both choose .* leave one out"):
            cost(x, weight, torch.arange(7), block_rows=4, max_memory="1 kB")


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
@pytest.mark.parametrize("options", [{"reduction": r} for r in ("mean", "sum", "none")] + [{"softcap": 3.0}], ids=str)
def test_what_is_frozen_takes_no_gradient(options, frozen, dtype, peak_memory):
    sizes, index = {"x": ((1000, 64, 16), 0), "weight": ((16, 64, 2000), 1), "bias": ((2, 2, 50_000), 2)}[frozen]
    inputs, y = layer(*sizes, dtype), torch.arange(sizes[0]) % sizes[2]

    def step():
        needed = [tensor for tensor in inputs if tensor.requires_grad]
        C = linear_log_likelihood(inputs[0], inputs[1], y, inputs[2], block_rows=16, **options).sum()
        return torch.autograd.grad(C, needed)

    step()
    with_gradient = peak_memory(step)
    inputs[index].requires_grad_(False)
    assert peak_memory(step) <= with_gradient - 0.9 * inputs[index].nbytes


@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
def test_second_derivatives_by_torch_func_take_a_limit(is_compiled):
    (x, weight, bias), y = [tensor.detach() for tensor in layer(7, 5, 9, torch.float64)], torch.arange(7)

    def change(x, **options):
        slope = torch.func.grad(lambda x: linear_log_likelihood(x, weight, y, bias, **options))
        return torch.func.jvp(slope, (x,), (x.cos(),))

    limited = torch.compile(change, fullgraph=True, backend="aot_eager") if is_compiled else change
    torch.testing.assert_close(limited(x, max_memory="64 MB"), change(x))
