"""The CPU's kernels for second derivatives and forward mode of a layer agree with float64."""

import pytest
import torch
from heads import fused, layer, scores, unfused
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap
from torch.nn import functional as F

from ce_torch.costs.linear import class_blocks, cpu_blocks
from ce_torch.functional import linear_softmax_statistics

pytestmark = pytest.mark.usefixtures("needs_kernels")

# No multiple of 16 examples, and more classes than one sum takes.
N, D, K = 50, 70, 700
OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "softcap": {"softcap": 1.5},
    "z-loss": {"z_loss": 0.1},
    "label smoothing": {"label_smoothing": 0.1},
    "class weights": {"class_weight": torch.linspace(0.5, 2, K)},
    "these five": {
        "temperature": 0.7,
        "softcap": 1.5,
        "z_loss": 0.1,
        "label_smoothing": 0.1,
        "class_weight": torch.linspace(0.5, 2, K),
    },
    "weights of words": {"token_weight": torch.linspace(0, 2, N)},
    "reduction none": {"reduction": "none"},
}
# Room for the rounding of x, weight and the products of δ, which is rounded to x's dtype where a layer is of pairs.
TOLERANCES = {torch.float32: 4e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}


@pytest.fixture(autouse=True)
def backend(small_tiles):
    """Compute in several tiles."""


@pytest.fixture
def calls(calls, monkeypatch):
    """Return the list of the kernels that run; let no formula run in their place."""
    monkeypatch.setattr(class_blocks, "jvp", None)
    monkeypatch.setattr(class_blocks, "hvp", None)
    return calls


def examples(dtype=torch.float32):
    """Return x, weight and bias, how they change, and classes."""
    inputs = [tensor.detach() for tensor in layer(N, D, K, dtype, scale=0.6)]
    generator = torch.Generator().manual_seed(3)
    changes = [torch.randn(tensor.shape, generator=generator).to(dtype) for tensor in inputs]
    return inputs, changes, torch.randint(K, (N,), generator=generator)


def in_float64(tensors):
    return [tensor.double() for tensor in tensors]


def wide(options):
    return {name: value.double() if isinstance(value, torch.Tensor) else value for name, value in options.items()}


def total(head, y, options):
    def cost(*inputs):
        C = head(*inputs, y, **options)
        return (C * torch.linspace(0.5, 1, N, dtype=C.dtype)).mean()

    return cost


def second_derivatives(cost, inputs, changes):
    """Return how the gradients change, by a backward pass of a backward pass."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    found = torch.autograd.grad(cost(*leaves), leaves, create_graph=True)
    return torch.autograd.grad(found, leaves, changes)


def changed_gradients(cost, inputs, changes):
    """Return the same by forward over reverse mode."""
    return jvp(grad(cost, tuple(range(len(inputs)))), tuple(inputs), tuple(changes))[1]


def assert_near(found, expected, dtype):
    for value, right in zip(found, expected, strict=True):
        assert value.dtype == dtype
        assert (value - right).norm() <= TOLERANCES[dtype] * right.norm()


DTYPES = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


@DTYPES
@pytest.mark.parametrize("derivative", [second_derivatives, changed_gradients])
@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_change_as_float64s_do(name, derivative, dtype, calls):
    inputs, changes, y = examples(dtype)
    found = derivative(total(fused, y, OPTIONS[name] | {"out_dtype": torch.float32}), inputs, changes)
    expected = derivative(total(unfused, y, wide(OPTIONS[name])), in_float64(inputs), in_float64(changes))
    assert_near(found, expected, dtype)
    assert "layer_gradient_changes" in calls


@DTYPES
@pytest.mark.parametrize("name", OPTIONS)
def test_a_cost_changes_as_float64s_does(name, dtype, calls):
    inputs, changes, y = examples(dtype)
    _, found = jvp(total(fused, y, OPTIONS[name] | {"out_dtype": torch.float32}), tuple(inputs), tuple(changes))
    _, right = jvp(total(unfused, y, wide(OPTIONS[name])), tuple(in_float64(inputs)), tuple(in_float64(changes)))
    torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-5)
    assert "layer_changes" in calls


@pytest.mark.parametrize("moving", [(0,), (1,), (2,), (0, 1), (1, 2)], ids=str)
def test_what_does_not_change_adds_nothing(moving, calls):
    inputs, changes, y = examples()
    options = OPTIONS["these five"]

    def along(head, inputs, changes, options):
        def cost(*moved):
            changed = list(inputs)
            for i, tensor in zip(moving, moved, strict=True):
                changed[i] = tensor
            return total(head, y, options)(*changed)

        point, change = [inputs[i] for i in moving], [changes[i] for i in moving]
        gradient = changed_gradients(cost, point, change)
        return jvp(cost, tuple(point), tuple(change))[1], *second_derivatives(cost, point, change), *gradient

    expected = along(unfused, in_float64(inputs), in_float64(changes), wide(options))
    assert_near(along(fused, inputs, changes, options), expected, torch.float32)
    assert {"layer_changes", "layer_gradient_changes"} <= {*calls}


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("has_classes", [True, False], ids=["classes", "outputs"])
def test_all_numbers_change_as_float64s_do(has_classes, softcap, calls):
    inputs, changes, classes = examples()
    outputs = torch.rand(N, K, generator=torch.Generator().manual_seed(4))

    def ours(x, weight, bias):
        y = classes if has_classes else outputs
        return torch.stack(linear_softmax_statistics(x, weight, y, bias, entropy=True, softcap=softcap)[:3])

    def exact(x, weight, bias):
        s = scores(F.linear(x, weight, bias), softcap)
        ln_a, t = s.log_softmax(-1), F.one_hot(classes, K) if has_classes else outputs.double()
        return torch.stack([(t * ln_a).sum(-1), s.logsumexp(-1), -(ln_a.exp() * ln_a).sum(-1)])

    (_, found), (_, right) = (
        jvp(numbers, tuple(point), tuple(change))
        for numbers, point, change in ((ours, inputs, changes), (exact, in_float64(inputs), in_float64(changes)))
    )
    assert_near([found], [right], torch.float32)
    g = torch.linspace(-1, 2, 3 * N).view(3, N)
    for derivative in (second_derivatives, changed_gradients):
        found = derivative(lambda *moved: (g * ours(*moved)).sum(), inputs, changes)
        right = derivative(lambda *moved: (g * exact(*moved)).sum(), in_float64(inputs), in_float64(changes))
        assert_near(found, right, torch.float32)
    assert {"layer_changes", "layer_gradient_changes"} <= {*calls}


def test_a_gradients_own_gradient_by_what_reached_the_cost_is_how_the_cost_changes(calls):
    inputs, changes, y = examples()

    def by_upstream(head, inputs, changes):
        leaves, g = [tensor.clone().requires_grad_() for tensor in inputs], torch.ones_like(inputs[0][:, 0])
        C = head(*leaves, y, reduction="none")
        found = torch.autograd.grad(C, leaves, g.requires_grad_(), create_graph=True)
        return torch.autograd.grad(found, g, changes)

    assert_near(
        by_upstream(fused, inputs, changes),
        by_upstream(unfused, in_float64(inputs), in_float64(changes)),
        torch.float32,
    )
    assert "layer_changes" in calls


def test_dual_numbers_change_by_the_same_kernels(calls):
    inputs, changes, y = examples()
    _, expected = jvp(total(fused, y, {}), tuple(inputs), tuple(changes))
    with forward_ad.dual_level():
        moved = [forward_ad.make_dual(*pair) for pair in zip(inputs, changes, strict=True)]
        found = forward_ad.unpack_dual(total(fused, y, {})(*moved)).tangent
    torch.testing.assert_close(found, expected)
    assert calls.count("layer_changes") == 2 * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("derivative", [second_derivatives, changed_gradients])
def test_parts_of_the_examples_change_the_gradients_together(derivative, dtype, calls, monkeypatch):
    monkeypatch.setattr(cpu_blocks, "PART_EXAMPLES", 128)
    inputs, changes = ([tensor.detach() for tensor in layer(300, 40, 90, dtype, scale=scale)] for scale in (0.5, 1.0))
    y = torch.arange(300) * 7 % 90
    found = derivative(lambda *moved: fused(*moved, y, reduction="sum"), inputs, changes)
    right = derivative(lambda *moved: unfused(*moved, y, reduction="sum"), in_float64(inputs), in_float64(changes))
    assert_near(found, right, dtype)
    assert calls.count("layer_gradient_changes") == 3


def test_third_derivatives_and_batches_go_by_the_formulas():
    inputs, changes, y = examples()
    directions = torch.stack([changes[0], -2 * changes[0]])

    def gradient(x):
        return grad(lambda x: total(fused, y, {})(x, *inputs[1:]))(x)

    def exact(x):
        return grad(lambda x: total(unfused, y, {})(x, *in_float64(inputs[1:])))(x)

    def third(gradient, x, v):
        return jvp(lambda x: jvp(gradient, (x,), (v,))[1], (x,), (v,))[1]

    point = inputs[0].double(), changes[0].double()
    assert_near([third(gradient, inputs[0], changes[0])], [third(exact, *point)], torch.float32)
    found = vmap(lambda v: jvp(gradient, (inputs[0],), (v,))[1])(directions)
    assert_near(found, vmap(lambda v: jvp(exact, point[:1], (v,))[1])(directions.double()), torch.float32)


@DTYPES
def test_a_batch_of_upstream_gradients_goes_by_the_formulas(dtype):
    inputs, changes, y = examples(dtype)
    directions = torch.stack([changes[0], -2 * changes[0]])

    def batched(head, inputs, directions):
        x = inputs[0].clone().requires_grad_()
        (found,) = torch.autograd.grad(head(x, *inputs[1:], y), x, create_graph=True)
        return torch.autograd.grad(found, x, directions, is_grads_batched=True)

    expected = batched(unfused, in_float64(inputs), directions.double())
    assert_near(batched(fused, inputs, directions), expected, dtype)


def test_a_gradient_with_a_graph_is_what_the_forward_pass_has_found(calls):
    inputs, _, y = examples()
    leaves = [tensor.requires_grad_() for tensor in inputs]
    C = fused(*leaves, y)
    calls.clear()
    some = torch.autograd.grad(3 * C, leaves[1], create_graph=True)
    assert calls == []
    again = torch.autograd.grad(3 * fused(*leaves, y), leaves)
    torch.testing.assert_close(some[0], again[1])


def test_pairs_may_begin_at_any_address(calls):
    inputs, changes, y = examples(torch.bfloat16)

    def moved(tensor):
        return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)

    cost = total(fused, y, {})
    found = changed_gradients(cost, [moved(tensor) for tensor in inputs], [moved(tensor) for tensor in changes])
    assert_near(found, changed_gradients(cost, inputs, changes), torch.bfloat16)
