"""Derivatives within what is compiled, by `torch.func` and by `torch.autograd.grad`, are those of the eager cost."""

import functools

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jvp, vmap
from torch.testing import assert_close

from ce_torch import use_backend
from ce_torch.functional import cross_entropy, linear_distillation, linear_softmax_cross_entropy, softmax_statistics

CLASSES = torch.tensor([0, 3, 1, 4, 2, 2])


@pytest.fixture(autouse=True)
def a_compiler_that_starts_afresh():
    torch.compiler.reset()


def along(f, z: Tensor) -> Tensor:
    return jvp(f, (z,), (z.sin(),))[1]


TRANSFORMS = {
    "grad": lambda cost, z, y: grad(cost)(z, y),
    "vmap": lambda cost, z, y: vmap(cost)(z, y),
    "vmap of grad": lambda cost, z, y: vmap(grad(cost))(z, y),
    "vmap over z alone": lambda cost, z, y: vmap(cost, in_dims=(0, None))(torch.stack([z, z.cos()]), y),
    "vmap of grad over z alone": lambda cost, z, y: vmap(grad(cost), in_dims=(0, None))(torch.stack([z, z.cos()]), y),
    "jvp": lambda cost, z, y: along(lambda z: cost(z, y), z),
    "jvp of grad": lambda cost, z, y: along(lambda z: grad(cost)(z, y), z),
    "grad of jvp": lambda cost, z, y: grad(lambda z: along(lambda z: cost(z, y), z))(z),
    "jvp of jvp": lambda cost, z, y: along(lambda z: along(lambda z: cost(z, y), z), z),
    "grad of grad": lambda cost, z, y: grad(lambda z: grad(cost)(z, y).square().sum())(z),
    "hessian": lambda cost, z, y: hessian(cost)(z, y),
    "jacfwd of jacfwd": lambda cost, z, y: jacfwd(jacfwd(cost))(z, y),
}


@pytest.mark.usefixtures("formulas_and_operators")
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_compiled_transform_is_the_eager_one(typical_whole_case, transform):
    z, y = typical_whole_case.examples(6, 3)
    transformed = functools.partial(transform, lambda z, y: typical_whole_case(z, y))
    compiled = torch.compile(transformed, fullgraph=True, backend="aot_eager")
    assert_close(compiled(z, y), transformed(z, y))


@pytest.mark.parametrize("name", ["grad", "vmap over z alone", "vmap of grad over z alone", "jvp of grad"])
def test_a_compiled_transform_takes_any_batch_size(typical_whole_case, name):
    transformed = functools.partial(TRANSFORMS[name], lambda z, y: typical_whole_case(z, y))
    compiled = torch.compile(transformed, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (6, 4):
        z, y = typical_whole_case.examples(size, 3)
        assert_close(compiled(z, y), transformed(z, y))


def numbers(z: Tensor, y: Tensor) -> Tensor:
    found = softmax_statistics(z, y, entropy=True)
    return (found.log_prob * found.entropy + found.logsumexp).sum()


@pytest.mark.usefixtures("formulas_and_operators")
@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name != "jvp of jvp"])
def test_a_compiled_transform_of_softmax_statistics_is_the_eager_one(name):
    z, y = torch.randn(6, 5, dtype=torch.float64), CLASSES
    compiled = torch.compile(functools.partial(TRANSFORMS[name], numbers), fullgraph=True, backend="aot_eager")
    assert_close(compiled(z, y), TRANSFORMS[name](numbers, z, y))


def test_a_compiled_transform_of_softmax_statistics_gives_none_for_what_nobody_asked_for():
    def total(z):
        found = softmax_statistics(z)
        return found.logsumexp.sum() if found.log_prob is found.entropy is None else z.sum()

    z = torch.randn(6, 5)
    assert_close(torch.compile(grad(total), fullgraph=True, backend="aot_eager")(z), z.softmax(-1))


@pytest.fixture
def operators():
    """Return a function that returns the operators that run in what is compiled."""

    def find(f, *inputs: Tensor) -> set[str]:
        graphs = []

        def keep(module, _):
            graphs.append(module.graph)
            return make_boxed_func(module.forward)

        found = torch.compile(f, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), fullgraph=True)(*inputs)
        if found.requires_grad:
            found.sum().backward()
        names = [getattr(node.target, "name", str)() for graph in graphs for node in graph.nodes]
        return {name.removeprefix("ce_torch::") for name in names if name.startswith("ce_torch::")}

    return find


@pytest.mark.usefixtures("needs_kernels", "calls_operators")
@pytest.mark.parametrize(
    ("name", "expected"),
    [("grad", "delta"), ("vmap of grad", "delta"), ("jvp", "value_and_change"), ("jvp of grad", "change")],
)
def test_kernels_compute_a_compiled_transform(operators, name, expected):
    z, y = torch.randn(40, 50), torch.rand(40, 50)
    found = operators(functools.partial(TRANSFORMS[name], cross_entropy), z, y)
    # Of what is differentiated once more C is not asked for.
    unused = {"cross_entropy", "cross_entropy_value_and_change"} if "grad" in name else set()
    assert found - unused == {f"cross_entropy_{expected}"}


def with_penalty(cost, *inputs: Tensor, order: int = 2) -> Tensor:
    """Return a cost and the squares of its gradients, whose gradient takes a derivative of this order."""
    total = C = cost(*inputs)
    for _ in range(order - 1):
        gradients = torch.autograd.grad(C, [tensor for tensor in inputs if tensor.requires_grad], create_graph=True)
        C = sum(gradient.square().sum() for gradient in gradients)
        total = total + C
    return total


def assert_penalties_agree(cost, *inputs: Tensor, order: int = 2) -> None:
    def penalized(*inputs: Tensor) -> Tensor:
        return with_penalty(cost, *inputs, order=order)

    moved = [tensor for tensor in inputs if tensor.requires_grad]
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(penalized, fullgraph=True, backend="aot_eager")
        found = torch.autograd.grad(compiled(*inputs), moved)
    assert_close(found, torch.autograd.grad(penalized(*inputs), moved))


@pytest.mark.usefixtures("formulas_and_operators")
@pytest.mark.parametrize("order", [2, 3])
def test_a_compiled_penalty_of_the_gradient_is_the_eager_one(whole_case, order):
    z, y = whole_case.examples(6, 3)
    assert_penalties_agree(whole_case, z.requires_grad_(), y, order=order)


@pytest.mark.usefixtures("formulas_and_operators")
def test_a_compiled_penalty_of_every_gradient_is_the_eager_one(whole_case):
    z, y = whole_case.examples(6, 3)
    assert_penalties_agree(whole_case, z.requires_grad_(), y if whole_case.indices else y.requires_grad_())


def test_a_compiled_penalty_is_the_eager_one_by_the_formulas_too(typical_whole_case):
    z, y = typical_whole_case.examples(6, 3)
    with use_backend("formulas"):
        assert_penalties_agree(typical_whole_case, z.requires_grad_(), y)


@pytest.mark.usefixtures("needs_kernels", "calls_operators")
def test_kernels_compute_a_compiled_penalty(operators):
    z, y = torch.randn(40, 50, requires_grad=True), torch.rand(40, 50)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        found = operators(lambda z: with_penalty(cross_entropy, z, y), z)
    assert found == {"cross_entropy", "cross_entropy_delta", "cross_entropy_change"}


def test_a_compiled_gradient_without_a_graph_has_no_derivative():
    z, y = torch.randn(6, 5, requires_grad=True), torch.rand(6, 5)

    def penalized(z):
        C = cross_entropy(z, y)
        return C + torch.autograd.grad(C, z, retain_graph=True)[0].square().sum()

    with torch._dynamo.config.patch(trace_autograd_ops=True):
        C = torch.compile(penalized, fullgraph=True, backend="aot_eager")(z)
    assert_close(C, penalized(z))
    assert_close(torch.autograd.grad(C, z), torch.autograd.grad(cross_entropy(z, y), z))


@pytest.mark.parametrize(
    "cost",
    [
        numbers,
        lambda x, y: linear_softmax_cross_entropy(x, x.detach().cos()[:5], y, softcap=5.0, z_loss=0.1),
        lambda x, y: linear_softmax_cross_entropy(x, x.detach().cos()[:5], y, reduction="none").square().sum(),
        lambda x, y: linear_distillation(x, x.detach().cos()[:5], x.detach().sin(), x.detach()[:5]),
    ],
    ids=["statistics", "layer", "layer without reduction", "distillation"],
)
def test_so_is_a_penalty_of_softmax_statistics_and_of_a_cost_with_its_layer(cost):
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    assert_penalties_agree(cost, x, CLASSES)


def test_a_compiled_gradient_of_each_of_no_examples_is_empty(typical_whole_case):
    z, y = typical_whole_case.examples(0, 4, 3)
    transformed = functools.partial(TRANSFORMS["vmap of grad"], lambda z, y: typical_whole_case(z, y))
    assert_close(torch.compile(transformed, fullgraph=True, backend="aot_eager")(z, y), torch.empty_like(z))


@pytest.mark.parametrize("traces_autograd", [False, True])
@pytest.mark.parametrize(
    "cost",
    [cross_entropy, numbers, lambda x, y: linear_softmax_cross_entropy(x, x.detach().cos()[:5], y)],
    ids=["cost", "statistics", "layer"],
)
def test_a_compiled_cost_has_a_tangent_within_a_dual_level(cost, traces_autograd):
    z, y = torch.randn(6, 5, dtype=torch.float64), torch.rand(6, 5, dtype=torch.float64)

    def tangent(z, v):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(cost(forward_ad.make_dual(z, v), y)).tangent

    with torch._dynamo.config.patch(trace_autograd_ops=traces_autograd):
        compiled = torch.compile(tangent, fullgraph=True, backend="aot_eager")
        assert_close(compiled(z, z.sin()), tangent(z, z.sin()))
