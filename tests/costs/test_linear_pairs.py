"""Every pair of a layer's options has the value and all derivatives of the formula in float64."""

import itertools

import pytest
import torch
from heads import fused, layer, unfused
from torch.func import jvp, vmap

from ce_torch.costs.linear import small

CLASSES = torch.tensor([0, 3, 5, 4, 6, 1, 1])
OUTPUTS = torch.rand(7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OPTIONS = {
    "softcap": {"softcap": 2.0},
    "smoothing": {"label_smoothing": 0.1},
    "class weight": {"class_weight": torch.linspace(0.5, 2, 9, dtype=torch.float64)},
    "token weight": {"token_weight": torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0, 1.5, 0.2], dtype=torch.float64)},
    "soft targets": {"y": OUTPUTS},
    "z-loss": {"z_loss": 0.1},
    "temperature": {"temperature": 0.7},
    "no bias": {"bias": False},
    "ignored": {"ignore_index": 5},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
}
# These exclude each other.
EXCLUDED = {("soft targets", "ignored"), ("sum", "none")}
PAIRS = [pair for pair in itertools.combinations(OPTIONS, 2) if pair not in EXCLUDED]
pairs = pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)


@pytest.fixture(autouse=True, params=["small", "large"])
def backend(request, monkeypatch):
    """Compute as users do, a layer that passes for a small one or for a large one."""
    monkeypatch.setattr(small, "MOST_ELEMENTS", 1 << 17 if request.param == "small" else 0)


def case(pair, dtype=torch.float64):
    """Return the layer's tensors, and a function of a head and of such tensors."""
    options = {"y": CLASSES, "bias": True} | OPTIONS[pair[0]] | OPTIONS[pair[1]]
    y, bias = options.pop("y"), options.pop("bias")

    def cost(head, *inputs):
        x, weight, *rest = inputs
        return head(
            x, weight, *(rest or [None]), y.to(x.dtype) if y.is_floating_point() else y, **cast(options, x.dtype)
        )

    return layer(dtype=dtype, bias=bias), cost


def cast(options, dtype):
    """Return the options with tensors in the dtype that they are computed in."""
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return {name: o.to(dtype) if isinstance(o, torch.Tensor) else o for name, o in options.items()}


@pairs
def test_values_and_first_and_second_derivatives(pair):
    inputs, cost = case(pair)
    found, right = (cost(head, *inputs) for head in (fused, unfused))
    torch.testing.assert_close(found, right)
    plain, again, right_again = (
        torch.autograd.grad(C.square().sum(), inputs, create_graph=create_graph, retain_graph=True)
        for C, create_graph in ((found, False), (found, True), (right, True))
    )
    torch.testing.assert_close(plain, right_again)
    torch.testing.assert_close(again, right_again)
    second = [
        torch.autograd.grad(sum(slope.square().sum() for slope in slopes), inputs) for slopes in (again, right_again)
    ]
    torch.testing.assert_close(*second)


@pairs
def test_forward_mode_and_vmap(pair):
    inputs, cost = case(pair)
    inputs = [tensor.detach() for tensor in inputs]

    def change(head, *inputs):
        return jvp(lambda *inputs: cost(head, *inputs), inputs, tuple(tensor.cos() for tensor in inputs))

    torch.testing.assert_close(change(fused, *inputs), change(unfused, *inputs))
    batches = [torch.stack([tensor, 2 * tensor]) for tensor in inputs]
    found, right = (vmap(lambda *inputs, head=head: change(head, *inputs))(*batches) for head in (fused, unfused))
    torch.testing.assert_close(found, right)


@pytest.mark.usefixtures("needs_kernels")
@pairs
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels(pair, dtype):
    inputs, cost = case(pair, dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    tolerance = 2 * torch.finfo(dtype).eps if dtype == torch.bfloat16 else 1e-5
    found, right = cost(fused, *inputs), cost(unfused, *exact)
    assert (found - right).norm() <= tolerance * right.norm()
    gradients = torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(right.sum(), exact)
    for gradient, expected in zip(*gradients, strict=True):
        assert (gradient - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("backend", ["small"], indirect=True)
@pairs
def test_a_small_compiled_layer(pair):
    torch.compiler.reset()
    inputs, cost = case(pair)
    compiled = torch.compile(lambda *inputs: cost(fused, *inputs), fullgraph=True, backend="aot_eager")
    found, right = compiled(*inputs), cost(unfused, *inputs)
    torch.testing.assert_close(found, right)
    torch.testing.assert_close(*(torch.autograd.grad(C.square().sum(), inputs) for C in (found, right)))
