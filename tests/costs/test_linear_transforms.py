"""The cost of a layer under PyTorch's tracers, compilers and checks of operators."""

import pytest
import torch
from heads import fused, layer, unfused
from torch.func import functionalize, grad, hessian, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal import composite_compliance

from ce_torch.costs.linear import blocks, class_blocks

CLASSES = torch.tensor([0, 3, -100, 4, 6, 1, 1])
OUTPUTS = torch.rand(7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WEIGHTS = torch.rand(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

both_targets = pytest.mark.parametrize("y", [CLASSES, OUTPUTS], ids=["classes", "outputs"])
usually_classes = pytest.mark.parametrize(
    "y", [CLASSES, pytest.param(OUTPUTS, marks=pytest.mark.slow)], ids=["classes", "outputs"]
)
usually_the_mean = pytest.mark.parametrize("reduction", ["mean", pytest.param("none", marks=pytest.mark.slow)])
both_reductions = pytest.mark.parametrize("reduction", ["mean", "none"])


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    """Let blocks hold up to five of the nine classes, and let the compiler start afresh."""
    monkeypatch.setattr(blocks, "FEWEST_ROWS", 1)
    monkeypatch.setattr(blocks, "FEWEST_CLASSES", 5)
    monkeypatch.setattr(blocks, "FEWEST_ELEMENTS", 20)
    torch.compiler.reset()


@pytest.mark.usefixtures("needs_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "gradient",
    [
        lambda cost, x: grad(cost)(x),
        lambda cost, x: torch.autograd.grad(cost(x.requires_grad_()), x, create_graph=True)[0],
    ],
    ids=["torch.func", "with a graph"],
)
def test_kernels_compute_a_gradient_that_can_be_differentiated(monkeypatch, dtype, gradient):
    x, weight, bias = detached_layer(dtype=dtype)

    def cost(x):
        return fused(x, weight, bias, CLASSES)

    expected = torch.autograd.grad(cost(z := x.clone().requires_grad_()), z)[0]
    monkeypatch.setattr(class_blocks, "gradients", None)
    torch.testing.assert_close(gradient(cost, x), expected)


def detached_layer(**sizes):
    return [tensor.detach() for tensor in layer(**sizes)]


def compiled(function, backend="aot_eager", **options):
    return torch.compile(function, fullgraph=True, backend=backend, **options)


@both_targets
@both_reductions
def test_functionalize_keeps_the_cost_and_its_gradients(y, reduction):
    inputs = detached_layer()

    def total(x, weight, bias):
        return fused(x, weight, bias, y, reduction=reduction).sum()

    torch.testing.assert_close(functionalize(total)(*inputs), total(*inputs))
    gradients = grad(total, (0, 1, 2))
    torch.testing.assert_close(functionalize(gradients)(*inputs), gradients(*inputs))


@both_reductions
@pytest.mark.parametrize("y", ["classes", "outputs"])
def test_a_symbolic_trace_of_a_gradient_takes_inputs_of_other_sizes(y, reduction):
    def examples(N, K):
        inputs = detached_layer(N=N, K=K)
        return *inputs, torch.arange(N) % K if y == "classes" else torch.ones(N, K, dtype=torch.float64) / K

    gradients = grad(lambda *inputs: fused(*inputs, reduction=reduction).sum(), (0, 1, 2))
    traced = make_fx(gradients, tracing_mode="symbolic")(*examples(7, 9))
    other = examples(5, 11)
    torch.testing.assert_close(traced(*other), gradients(*other))
    operators = {node.target for node in traced.graph.nodes}
    assert torch.ops.ce_torch.linear_log_likelihood_gradients.default in operators


@both_targets
class TestCompositeCompliance:
    """If any inputs are subclasses, nothing reads their memory, or writes them to a plain tensor."""

    @usually_the_mean
    def test_of_the_cost(self, y, reduction):
        inputs, options = (*detached_layer(), y), {"reduction": reduction}
        for check in (composite_compliance.check_with_mode, composite_compliance.check_all_permutations):
            check(fused, inputs, options, torch.testing.assert_close)

    @usually_the_mean
    def test_of_the_backward_pass(self, y, reduction):
        options = {"y": y, "reduction": reduction}
        check = composite_compliance.check_backward_formula
        check(fused, layer(), options, assert_equal_fn=torch.testing.assert_close)

    @pytest.mark.slow
    def test_of_forward_mode(self, y):
        check = composite_compliance.check_forward_ad_formula
        check(lambda *inputs: fused(*inputs, y), layer(), {}, assert_equal_fn=torch.testing.assert_close)


@both_targets
@both_reductions
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_lazy_copy_is_read_and_stays_lazy(dtype, reduction, y):
    # 16 examples in a block, so that the kernels take float32.
    y = (y.clamp(min=0) if y is CLASSES else y.to(dtype)).repeat(5, *(1,) * (y.ndim - 1))
    lazy = [torch._lazy_clone(tensor.detach()) for tensor in (*layer(N=35, dtype=dtype), y)]
    inputs = [tensor.requires_grad_() for tensor in lazy[:3]]
    C = fused(*lazy, reduction=reduction, block_rows=16)
    torch.autograd.grad(C.sum(), inputs, retain_graph=True)
    first = torch.autograd.grad(C.sum(), inputs, create_graph=True)
    torch.autograd.grad(sum(gradient.sum() for gradient in first), inputs)
    assert all(torch._C._is_cow_tensor(tensor) for tensor in lazy)


@both_targets
def test_a_compiled_cost_has_the_gradients_by_all_inputs(y):
    inputs = layer()
    found = compiled(fused)(*inputs, y), unfused(*inputs, y)
    torch.testing.assert_close(*(torch.autograd.grad(C, inputs) for C in found))


def test_a_compiled_cost_has_the_gradient_by_desired_outputs():
    inputs, y = detached_layer(), OUTPUTS.clone().requires_grad_()
    found = compiled(fused)(*inputs, y), unfused(*inputs, y)
    torch.testing.assert_close(*(torch.autograd.grad(C, y) for C in found))


def test_one_compilation_serves_any_number_of_examples():
    function, parameters = compiled(fused, dynamic=True), layer()[1:]
    for N in (7, 5, 11):
        x, y = layer(N=N)[0], torch.arange(N) % 9
        found = function(x, *parameters, y), unfused(x, *parameters, y)
        torch.testing.assert_close(*(torch.autograd.grad(C, [x, *parameters]) for C in found))


TRANSFORMS = {
    "grad": grad,
    "jvp": lambda cost: lambda bias: jvp(cost, (bias,), (bias,)),
}
SLOW_TRANSFORMS = {
    "grad of grad": lambda cost: grad(lambda bias: grad(cost)(bias).square().sum()),
    "vmap of grad": lambda cost: lambda bias: vmap(grad(cost))(torch.stack([bias, 2 * bias])),
    "jacrev of jacrev": lambda cost: jacrev(jacrev(cost)),
    "hessian": hessian,
}


@pytest.mark.parametrize(
    "transform",
    [pytest.param(transform, id=name) for name, transform in TRANSFORMS.items()]
    + [pytest.param(transform, id=name, marks=pytest.mark.slow) for name, transform in SLOW_TRANSFORMS.items()],
)
@usually_classes
def test_transforms_compile(y, transform):
    x, weight, bias = detached_layer()
    function = transform(lambda bias: fused(x, weight, bias, y))
    torch.testing.assert_close(compiled(function)(bias), function(bias))


def test_a_compiled_cost_takes_inputs_of_any_strides(needs_a_compiler):
    x, weight, bias = layer()
    turned = x.detach().T.contiguous().requires_grad_()
    C = compiled(lambda x: fused(2 * x.T, weight, bias, CLASSES), backend="inductor")(turned)
    right = torch.autograd.grad(unfused(2 * turned.T, weight, bias, CLASSES), turned)
    torch.testing.assert_close(torch.autograd.grad(C, turned), right)


NEW_OPTIONS = {
    "softcap": {"softcap": 2.0, "label_smoothing": 0.1},
    "z-loss": {"z_loss": 0.1, "token_weight": torch.linspace(0, 2, 7, dtype=torch.float64), "denominator": 3.0},
    "temperatures": {"temperature": torch.linspace(0.5, 2, 7, dtype=torch.float64), "reduction": "none"},
    "max-memory": {"z_loss": 0.1, "softcap": 2.0, "max_memory": "1 MB"},
}


@pytest.mark.slow
@pytest.mark.parametrize("options", NEW_OPTIONS.values(), ids=NEW_OPTIONS)
def test_newer_options_compile_with_inductor_and_have_second_derivatives(options):
    inputs = layer()
    found = compiled(fused, backend="inductor")(*inputs, CLASSES, **options)
    plain = {name: value for name, value in options.items() if name != "max_memory"}
    right = unfused(*inputs, CLASSES, **plain)
    torch.testing.assert_close(found, right)
    torch.testing.assert_close(*(torch.autograd.grad(C.square().sum(), inputs) for C in (found, right)))
    x, weight, bias = detached_layer()

    def change(head, bias, options):
        gradient = grad(lambda bias: head(x, weight, bias, CLASSES, **options).square().sum())
        return jvp(gradient, (bias,), (bias.cos(),))

    found = compiled(change, backend="inductor")(fused, bias, options)
    torch.testing.assert_close(found, change(unfused, bias, plain))


@pytest.mark.parametrize("transposed", [False, True])
def test_the_operators_are_as_pytorch_wants_them(transposed):
    x, weight, bias = detached_layer()
    x = x.T.contiguous().T if transposed else x
    ones, plan = torch.ones(7, dtype=x.dtype), (0.5, None, 2.0, True, True, True, None, 0)
    adapter = torch.ones(7, 2, dtype=x.dtype), torch.ones(9, 2, dtype=x.dtype)
    inputs = x, weight, bias, ones, *adapter, CLASSES.clamp(min=0), ones, WEIGHTS
    operators = torch.ops.ce_torch
    torch.library.opcheck(operators.linear_log_likelihood.default, (*inputs, *plan))
    numbers, statistics, _ = operators.linear_log_likelihood(*inputs, *plan)
    needs = [True, True, True, True, True, True, False, True, True]
    arguments = numbers, statistics, *inputs, *plan, needs
    torch.library.opcheck(operators.linear_log_likelihood_gradients.default, arguments)
