"""The tables of docs/what_runs_where.md for the CPU say what the code does."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch.func import grad, vmap

from ce_torch import explain, use_backend
from ce_torch.costs.linear import class_blocks, cpu_blocks, example_blocks, fused
from ce_torch.functional import (
    cross_entropy,
    focal,
    linear_log_likelihood,
    linear_softmax_statistics,
    log_likelihood,
    quadratic,
    softmax_statistics,
)

sys.path.append(str(Path(__file__).resolve().parents[1] / "costs"))
from switches import can_have_kernels, turn_kernels_off

pytestmark = pytest.mark.skipif(not can_have_kernels(), reason="there are no kernels, and no compiler to make them")

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "what_runs_where.md").read_text()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def table(first_cell):
    """Return the rows of the table whose head begins with this cell, each as the list of its cells."""
    (rows,) = re.findall(rf"^\| {re.escape(first_cell)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|\n").split("|")] for row in rows.splitlines()]


def without_kernels(z, y):
    with use_backend("blocks"):
        return log_likelihood_name(z, y)


def log_likelihood_name(z, y, **options):
    return explain(log_likelihood, z, y, **options).name


def every_dtype():
    z, t = torch.randn(4, 5), torch.rand(4, 5)
    return {explain(cross_entropy, z.to(a), t.to(b)).name for a in DTYPES.values() for b in DTYPES.values()}


def every_layout():
    z, t = torch.randn(8, 10), torch.rand(8, 10)
    images, y = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    return {
        explain(cross_entropy, z.t(), t.t()).name,
        explain(cross_entropy, z[:, ::2], t[:, ::2]).name,
        explain(log_likelihood, images.to(memory_format=torch.channels_last), y, dim=1).name,
    }


z, y, t = torch.randn(4, 5), torch.randint(5, (4,)), torch.rand(4, 5)
weight = torch.rand(5)
negative = torch.complex(z, z).conj().imag
COSTS = {
    "`log_likelihood` of classes or desired outputs, with any options": lambda: {
        log_likelihood_name(z, target, temperature=2.0, weight=weight, label_smoothing=0.1) for target in (y, t)
    },
    "`cross_entropy`, `quadratic`, `focal`, with any options": lambda: {
        explain(cross_entropy, z, t, weight=weight, pos_weight=weight).name,
        explain(cross_entropy, z, t, mask=t > 0.5).name,
        explain(quadratic, z, t, activation="linear").name,
        explain(focal, z, t, gamma=1.5).name,
    },
    "`softmax_statistics` of classes, or without y": lambda: {
        explain(softmax_statistics, z, target, softcap=30.0, entropy=True).name for target in (y, None)
    },
    "`softmax_statistics` of desired outputs": lambda: {explain(softmax_statistics, z, t).name},
    "z in float64, float32, bfloat16 or float16; y and weights in any of them": every_dtype,
    "z, y and weights of any strides, such as transposed, every second column, channels last": every_layout,
    "classes in any dimension, `dim`": lambda: {log_likelihood_name(z, torch.zeros(5, dtype=torch.int64), dim=0)},
    "under `torch.func`: `grad`, `vmap`": lambda: {explain(vmap(grad(log_likelihood)), z, y).name},
    "z is empty": lambda: {log_likelihood_name(z[:0], y[:0])},
    "an input is a view that negates, or of a subclass of tensors": lambda: {log_likelihood_name(negative, y)},
    "without kernels, z has up to 32768 elements": lambda: {without_kernels(torch.zeros(32, 1024), y.repeat(8))},
    "without kernels, z has more": lambda: {without_kernels(torch.zeros(36, 1024), y.repeat(9))},
}


@pytest.mark.parametrize(("what", "cpu"), [row[:2] for row in table("cost, δ")], ids=str)
def test_a_cost_of_z_is_computed_as_the_table_says(what, cpu):
    assert COSTS[what]() == {cpu.strip("`")}


N, K, D = 512, 3000, 64
WAYS = {example_blocks: "examples", cpu_blocks: "tiles", class_blocks: "classes"}
LAYERS = {
    "classes y, mean or sum": {},
    "with `label_smoothing`": {"label_smoothing": 0.1},
    "with `class_weight` or `token_weight`": {"class_weight": torch.rand(K), "token_weight": torch.rand(N)},
    "with `z_loss`": {"z_loss": 1e-4},
    "with `softcap`": {"softcap": 30.0},
    "with `z_loss`, `softcap` and `label_smoothing`": {"z_loss": 1e-4, "softcap": 30.0, "label_smoothing": 0.1},
    "with a temperature that is a tensor": {"temperature": torch.tensor(2.0)},
    "with a temperature for each example and a bias": {"temperature": 1 + torch.rand(N)},
    "with a temperature that is a tensor and `softcap`": {"temperature": torch.tensor(2.0), "softcap": 30.0},
    "with `max_memory`": {"max_memory": "8 MB"},
    "with `adapter`": {"adapter": (torch.rand(2, D), torch.rand(K, 2))},
    '`reduction="none"`': {"reduction": "none"},
    "desired outputs": {"desired": True},
    "`linear_softmax_statistics`": {"statistics": True},
    "without kernels": {"without_kernels": True},
}


@pytest.fixture
def ways(monkeypatch):
    """The ways in which layers are computed from now on."""
    found = []

    def watch(module, name, place):
        function = getattr(module, name)

        def watched(*arguments, **options):
            found.append(WAYS[module])
            return function(*arguments, **options)

        monkeypatch.setattr(place, name, watched)

    for module in WAYS:
        watch(module, "numbers", module)
        watch(module, "gradients", module)
    watch(example_blocks, "cost_and_gradients", fused)
    return found


@pytest.mark.parametrize(
    ("what", "dtype", "way"),
    [
        (what, dtype, way)
        for what, *cells in table("layer on the CPU")
        for dtype, way in zip(DTYPES, cells, strict=True)
    ],
)
def test_a_layer_is_computed_as_the_table_says(what, dtype, way, ways, monkeypatch):
    options = dict(LAYERS[what])
    if options.pop("without_kernels", False):
        turn_kernels_off(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((N, D), (K, D), (K,)))
    x, weight, bias = (tensor.to(DTYPES[dtype]).requires_grad_() for tensor in (x, weight, bias))
    if "adapter" in options:
        options["adapter"] = tuple(factor.to(x.dtype) for factor in options["adapter"])
    classes = torch.randint(K, (N,), generator=generator)
    if options.pop("statistics", False):
        C = linear_softmax_statistics(x, weight, classes, bias, entropy=True).log_prob
    else:
        target = torch.rand(N, K, generator=generator).to(x.dtype) if options.pop("desired", False) else classes
        C = linear_log_likelihood(x, weight, target, bias, **options)
    C.sum().backward()
    assert {*ways} == {way}
