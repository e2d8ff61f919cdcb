"""Compilers, tracers and PyTorch's own checks see a cost as operators, which run the kernels."""

import pytest
import torch
from switches import turn_kernels_off
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close
from torch.testing._internal import composite_compliance
from torch.utils.flop_counter import FlopCounterMode

from ce_torch import explain, use_backend
from ce_torch.costs import _in_graph
from ce_torch.costs._registry import SPECS
from ce_torch.functional import cross_entropy, focal, log_likelihood, quadratic, softmax_statistics


def gradient(case, z: Tensor, y: Tensor) -> Tensor:
    z = z.detach().requires_grad_()
    return torch.autograd.grad(case(z, y), z)[0]


def operators(graph: torch.fx.Graph) -> set[str]:
    return {node.target.name() for node in graph.nodes if "ce_torch::" in str(getattr(node.target, "name", str)())}


def compiled_graphs(case, z: Tensor, y: Tensor) -> list[torch.fx.Graph]:
    """Return the graphs of a compiled cost and of its backward pass, which must give the gradient."""
    graphs = []

    def keep(module, inputs):
        graphs.append(module.graph)
        return make_boxed_func(module.forward)

    compiled = torch.compile(case, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), fullgraph=True)
    assert_close(gradient(compiled, z, y), gradient(case, z, y))
    return graphs


@pytest.mark.usefixtures("calls_operators")
def test_a_compiled_cost_is_two_operators(whole_case):
    graphs = compiled_graphs(whole_case, *whole_case.examples(6, 3))
    assert [len(operators(graph)) for graph in graphs] == [1, 1]


def test_a_small_compiled_cost_is_formulas(whole_case):
    torch.compiler.reset()
    graphs = compiled_graphs(whole_case, *whole_case.examples(6, 3))
    assert [len(operators(graph)) for graph in graphs] == [0, 0]


def test_a_batch_of_many_small_costs_is_not_small():
    z, y = torch.randn(100, 1, 100), torch.rand(100, 1, 100)
    sizes = []

    def size(z, y):
        sizes.append((z.numel(), _in_graph.takes_formulas(z)))
        return cross_entropy(z, y)

    torch.vmap(torch.func.grad(size))(z, y)
    assert sizes == [(100, False)]


@pytest.mark.usefixtures("needs_a_compiler")
@pytest.mark.parametrize("wrong", [-1, 3, -100])
@pytest.mark.parametrize(
    "loss",
    [
        log_likelihood,
        cross_entropy,
        quadratic,
        focal,
        lambda z, y: softmax_statistics(z, y).log_prob.sum(),
        lambda z, y: torch.func.grad(log_likelihood)(z, y).sum(),
        lambda z, y: torch.vmap(torch.func.grad(log_likelihood))(z, y).sum(),
    ],
)
def test_a_small_compiled_cost_refuses_a_class_that_z_does_not_have(loss, wrong):
    torch.compiler.reset()
    z, y = torch.randn(4, 3, requires_grad=True), torch.tensor([0, wrong, 2, 1])
    compiled = torch.compile(loss)
    if wrong == -100 and loss not in (cross_entropy, quadratic, focal):
        assert_close(compiled(z, y), loss(z, y))
        return
    with pytest.raises(RuntimeError, match="index out of bounds"):
        compiled(z, y)


@pytest.mark.skipif(
    torch.__version__.startswith("2.11."), reason="Dynamo of torch 2.11 does not trace an assignment to a class"
)
@pytest.mark.parametrize(
    ("backend", "size", "count"), [("kernels", 6, 1), ("formulas", 6, 0), ("kernels", 5000, 1), ("formulas", 5000, 0)]
)
def test_a_backend_may_be_prescribed_inside_of_what_is_compiled(backend, size, count):
    def prescribed(z, y):
        with use_backend(backend):
            return log_likelihood(z, y)

    graphs = compiled_graphs(prescribed, torch.randn(size, 5), torch.arange(size) % 5)
    assert [len(operators(graph)) for graph in graphs] == [count, count]


def test_the_compiler_caches_tell_one_code_from_another(monkeypatch):
    version = _in_graph.version()
    monkeypatch.setattr(_in_graph, "digest", lambda: "another")
    assert _in_graph.version() != version


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_a_trace_of_a_gradient_holds_two_operators(whole_case, tracing_mode):
    z, y = whole_case.examples(6, 3)

    def traced(z, y):
        return gradient(whole_case, z, y)

    trace = make_fx(traced, tracing_mode=tracing_mode, _allow_non_fake_inputs=True)(z, y)
    assert len(operators(trace.graph)) == 2
    assert_close(trace(z, y), gradient(whole_case, z, y))


def test_a_trace_of_forward_mode_takes_any_direction(whole_case):
    z, y = whole_case.examples(6, 3)

    def tangent(v):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(whole_case(forward_ad.make_dual(z, v), y)).tangent

    trace = make_fx(tangent)(z.sin())
    assert_close(trace(z.cos()), tangent(z.cos()))


def test_a_dispatch_mode_and_hooks_for_saved_tensors_go_together(whole_case):
    z, y = whole_case.examples(6, 3)
    expected = gradient(whole_case, z, y)
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
    with FlopCounterMode(display=False), hooks:
        assert_close(gradient(whole_case, z, y), expected)


def test_functionalize_takes_a_cost_and_its_gradient(whole_case):
    z, y = whole_case.examples(6, 3)
    assert_close(torch.func.functionalize(whole_case)(z, y), whole_case(z, y))
    functional = torch.func.functionalize(torch.func.grad(whole_case))
    assert_close(functional(z, y), gradient(whole_case, z, y))


def test_a_lazy_copy_is_read_and_stays_lazy(whole_case):
    z, y = (torch._lazy_clone(tensor) for tensor in whole_case.examples(6, 3))
    torch.autograd.grad(whole_case(z.requires_grad_(), y), z)
    assert torch._C._is_cow_tensor(z)
    assert torch._C._is_cow_tensor(y)


def test_delta_has_the_memory_format_of_z(whole_case):
    z, y = whole_case.examples(3, 6, 3)
    z = z.transpose(0, 1)
    assert gradient(whole_case, z, y.transpose(0, 1)).stride() == z.stride()


def test_the_node_of_autograd_has_the_name_of_the_cost(whole_case):
    z, y = whole_case.examples(6, 3)
    names = {f"{spec.class_name}Backward" for spec in SPECS}
    assert whole_case(z.requires_grad_(), y, "sum").grad_fn.name() in names


@pytest.mark.every_backend
def test_pytorch_finds_a_cost_compliant(whole_case):
    z, y = whole_case.examples(6, 3)
    y = y if whole_case.indices else y.requires_grad_()
    sample = (z.requires_grad_(), y)
    composite_compliance.check_with_mode(whole_case, sample, {}, assert_close)
    composite_compliance.check_all_permutations(whole_case, sample, {}, assert_close)
    composite_compliance.check_backward_formula(whole_case, sample, {}, None, None, assert_close)
    composite_compliance.check_forward_ad_formula(whole_case, sample, {}, None, assert_close)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("indices", [False, True], ids=["outputs", "classes"])
@pytest.mark.parametrize("classes", [3, 301])
def test_pytorch_checks_the_operators(spec, indices, classes, case_dtype):
    z = torch.linspace(-2, 2, 3 * classes, dtype=case_dtype).view(3, classes)
    y = torch.tensor([0, 2, 1]) if indices else z.abs() / 2
    constants = {float: 0.5, int: -100}
    more = [constants.get(kind) for kind in [*spec.parameters.values()][2:]]
    operator = getattr(torch.ops.ce_torch, spec.name).default
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(operator, ("mean", z, y, *more), test_utils=checks)
    C, statistics = operator("mean", z, y, *more)
    delta = getattr(torch.ops.ce_torch, f"{spec.name}_delta").default
    torch.library.opcheck(delta, (torch.ones_like(C), statistics, "mean", z, y, *more), test_utils=checks)
    both = getattr(torch.ops.ce_torch, f"{spec.name}_value_and_change").default
    torch.library.opcheck(both, (torch.ones_like(z), "mean", z, y, *more), test_utils=checks)


@pytest.mark.usefixtures("needs_kernels")
@pytest.mark.parametrize("indices", [False, True], ids=["outputs", "classes"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_statistics_are_kept_where_they_are_at_most_a_hundredth_of_z(dtype, indices):
    each = (2 if indices else 3) * max(dtype.itemsize, 4)
    for classes in (100 * each // dtype.itemsize - 1, 100 * each // dtype.itemsize):
        z = torch.randn(6, classes, dtype=dtype)
        inputs = "mean", z, torch.arange(6) if indices else z.sigmoid(), None, 1.0, -100, 0.0
        C, statistics = torch.ops.ce_torch.log_likelihood(*inputs)
        assert (statistics.nbytes > 0) == (100 * 6 * each <= z.nbytes)
        delta = torch.ops.ce_torch.log_likelihood_delta(torch.ones_like(C), statistics, *inputs)
        assert_close(delta, torch.ops.ce_torch.log_likelihood_delta(torch.ones_like(C), None, *inputs))


@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_a_cost_of_as_many_classes_as_data_tell_is_compiled():
    z, y, shown = torch.randn(6, 400, requires_grad=True), torch.arange(6), torch.rand(400) < 0.5

    def cost(z):
        return log_likelihood(z[:, torch.nonzero(shown)[:, 0]], y)

    compiled = torch.compile(cost, fullgraph=True, backend="aot_eager")
    assert_close(torch.autograd.grad(compiled(z), z), torch.autograd.grad(cost(z), z))


def test_the_prescribed_backend_runs(whole_case):
    z, y = whole_case.examples(40, 3, dtype=torch.float32)
    names = {}
    for backend in ("auto", "kernels", "blocks", "formulas"):
        with use_backend(backend):
            names[backend] = explain(whole_case, z, y).name
    assert names == {"auto": "cpp", "kernels": "cpp", "blocks": "formulas", "formulas": "formulas"}


def test_an_error_says_why_prescribed_kernels_do_not_run(whole_case, monkeypatch):
    turn_kernels_off(monkeypatch)
    with (
        use_backend("kernels"),
        pytest.raises(RuntimeError, match=r"does not support this call: cpp: .*; triton: z is"),
    ):
        whole_case(*whole_case.examples(6, 3))


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backend must be one of auto, kernels, blocks, formulas, got 'gpu'"):
        use_backend("gpu").__enter__()


@pytest.mark.parametrize(
    "cost",
    [
        lambda z, w: cross_entropy(z, w, weight=w, pos_weight=w),
        lambda z, w: cross_entropy(z, z, mask=w > 0.5),
        lambda z, w: focal(z, z),
        lambda z, w: log_likelihood(z, z),
        lambda z, w: quadratic(z, z),
        lambda z, w: softmax_statistics(z, z, entropy=True).log_prob.sum(),
    ],
)
def test_a_compiled_cost_takes_a_tensor_twice(cost):
    z, w = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    torch._dynamo.reset()
    C = torch.compile(cost, backend="aot_eager", fullgraph=True)(z, w)
    assert_close(torch.autograd.grad(C, z), torch.autograd.grad(cost(z, w), z))
