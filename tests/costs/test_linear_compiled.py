"""A compiled mean or sum of a layer works out as much in its forward pass, and keeps as little, as an eager one."""

import gc

import pytest
import torch
from heads import fused, layer, unfused

from ce_torch.costs.linear import cpu_blocks, example_blocks, recorded
from ce_torch.costs.linear.held import held_gradients

CLASSES = torch.tensor([0, 3, -100, 4, 6, 1, 1])
OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "smoothing": {"label_smoothing": 0.1, "z_loss": 0.1},
    "softcap": {"softcap": 2.0, "temperature": 0.5, "token_weight": torch.linspace(0, 2, 7)},
    "temperatures": {"softcap": 2.0, "z_loss": 0.1, "temperature": torch.linspace(0.5, 2, 7)},
    "three at once": {"softcap": 2.0, "z_loss": 0.1, "label_smoothing": 0.1},
}


@pytest.fixture(autouse=True)
def backend():
    """Use blocks as users have them, and let the compiler start afresh."""
    torch.compiler.reset()


def compiled(**options):
    return torch.compile(lambda *inputs: fused(*inputs, **options), fullgraph=True, backend="aot_eager")


@pytest.fixture
def passes(monkeypatch):
    """Return the list of the layers whose z was worked out by blocks of examples."""
    layers, compute = [], example_blocks.exponentials
    monkeypatch.setattr(example_blocks, "exponentials", lambda *args: layers.append(args[0]) or compute(*args))
    return layers


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_cost_and_gradients_are_those_of_the_eager_one(options, dtype):
    inputs = layer(dtype=dtype)
    found = [head(*inputs, CLASSES) for head in (compiled(**options), lambda *args: fused(*args, **options))]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad(3 * C, inputs) for C in found))


def test_z_is_worked_out_once(passes):
    inputs = layer()
    torch.autograd.grad(compiled()(*inputs, CLASSES), inputs)
    assert len(passes) == 1


@pytest.mark.usefixtures("needs_kernels")
def test_in_bfloat16_tiles_wait_for_the_backward_pass(monkeypatch):
    taken, take = [], cpu_blocks.LayerTiles.take
    monkeypatch.setattr(cpu_blocks.LayerTiles, "take", lambda *args: taken.append(take(*args)) or taken[-1])
    inputs = layer(64, 256, 300, torch.bfloat16)
    torch.autograd.grad(compiled()(*inputs, torch.arange(64)), inputs)
    assert [memory is None for memory in taken] == [False]


def test_what_nobody_asks_for_is_not_worked_out(monkeypatch):
    calls, compute = [], recorded.cost_and_gradients
    monkeypatch.setattr(recorded, "cost_and_gradients", lambda *args: calls.append(args[3]) or compute(*args))
    x, weight, bias = layer()
    cost = compiled()
    with torch.no_grad():
        cost(x, weight, bias, CLASSES)
    cost(x.detach(), weight.detach(), bias.detach(), CLASSES)
    assert calls == []
    cost(x, weight.detach(), bias.detach(), CLASSES)
    assert calls == [{"x"}]


def test_a_second_backward_pass_has_the_same_gradients(passes):
    inputs = layer()
    C = compiled()(*inputs, CLASSES)
    first = torch.autograd.grad(C, inputs, 2 * torch.ones_like(C), retain_graph=True)
    second = torch.autograd.grad(C, inputs, 2 * torch.ones_like(C))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert len(passes) == 2


def test_of_several_forward_passes_one_holds_gradients_until_its_graph_ends():
    inputs, cost = layer(), compiled()
    costs = [cost(*inputs, CLASSES) for _ in range(3)]
    assert len(held_gradients) == 1
    first, *others = (torch.autograd.grad(C, inputs) for C in costs)
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)
    del costs
    gc.collect()
    assert len(held_gradients) == 0


@pytest.mark.parametrize(("name", "size"), [("class_weight", 9), ("token_weight", 7)])
def test_weights_that_require_grad_have_their_gradient(name, size):
    inputs = [*layer(), torch.linspace(0.5, 2, size, dtype=torch.float64).requires_grad_()]
    compiled = torch.compile(lambda *t: fused(*t[:3], CLASSES, **{name: t[3]}), fullgraph=True, backend="aot_eager")
    found = compiled(*inputs), unfused(*inputs[:3], CLASSES, **{name: inputs[3]})
    torch.testing.assert_close(*(torch.autograd.grad(C, inputs) for C in found))


def test_pytorch_checks_the_operators():
    x, weight, bias = layer(dtype=torch.float32)
    y = CLASSES.clamp(min=0)
    ones = torch.ones(7)
    fields = x, weight, bias, None, None, None, y, ones, None
    plan = 1.0, None, None, False, False, False, None, 0
    more = *fields, *plan, 0.1, [True, True, True, False, False, False]
    checks = ("test_schema", "test_faketensor")
    operators = torch.ops.ce_torch
    torch.library.opcheck(operators.linear_log_likelihood_cost.default, (ones, *more), test_utils=checks)
    _, statistics, ticket = operators.linear_log_likelihood_cost(ones, *more)
    arguments = torch.ones(()), statistics, ticket, ones, *more
    torch.library.opcheck(operators.linear_log_likelihood_cost_gradients.default, arguments, test_utils=checks)


def test_derivatives_of_derivatives_in_what_is_compiled_are_those_of_the_eager_one():
    x, weight, bias = (tensor.detach() for tensor in layer())

    def change(bias):
        gradient = torch.func.grad(lambda bias: fused(x, weight, bias, CLASSES, z_loss=0.1))
        return torch.func.grad(lambda bias: gradient(bias).square().sum())(bias)

    torch.testing.assert_close(torch.compile(change, fullgraph=True, backend="aot_eager")(bias), change(bias))


@pytest.mark.parametrize("options", [{}, {"reduction": "none", "token_weight": torch.linspace(1, 2, 7).double()}])
def test_how_many_examples_there_are_may_depend_on_their_values(options):
    x, weight, bias = (tensor.detach() for tensor in layer())
    x.requires_grad_()

    def cost(x):
        chosen = x[:, 0] > 0
        found = {name: option[chosen] if name == "token_weight" else option for name, option in options.items()}
        return fused(x[chosen], weight, bias, CLASSES[chosen], **found).sum()

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        found = torch.compile(cost, fullgraph=True, backend="aot_eager")(x), cost(x)
    torch.testing.assert_close(*(torch.autograd.grad(C, x) for C in found))


def test_memory_may_be_given_as_a_text():
    inputs = layer()
    torch.testing.assert_close(compiled(max_memory="1 MB")(*inputs, CLASSES), fused(*inputs, CLASSES))
