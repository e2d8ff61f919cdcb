"""How costs and their δ change in a direction, in every mode, against what autograd derives from the cost's formula."""

import math

import pytest
import torch
from directions import MODES, along, backward_over_backward, check, example, forward_over_backward, transformed, twice
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jacrev, vjp, vmap

from ce_torch import use_backend
from ce_torch.costs._registry import SPECS
from ce_torch.costs.kernels import cpp
from ce_torch.functional import cross_entropy, log_likelihood, quadratic


@pytest.mark.every_backend
@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
def test_every_mode_gives_the_derivative_of_the_formula(mode, seed):
    check(mode, example(seed))


@pytest.mark.every_backend
@pytest.mark.parametrize("dims", [(0, 0), (1, 0), (-1, 0)], ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_a_batch_of_gradients_is_the_gradient_of_each(seed, dims, case_dtype):
    generator = torch.Generator().manual_seed(seed)
    z, y = (torch.rand(4, 5, 3, generator=generator, dtype=torch.float64).to(case_dtype) for _ in range(2))
    cost = [quadratic, cross_entropy, log_likelihood, lambda z, y: log_likelihood(z, y.argmax(-1))][seed % 4]
    each = torch.stack([grad(cost)(*pair) for pair in zip(z, y, strict=True)])
    z = z.movedim(0, dims[0])
    torch.testing.assert_close(vmap(grad(cost), in_dims=dims)(z, y), each)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_change_of_delta_is_the_formulas_derivative(spec, case_dtype):
    z = torch.linspace(-3, 3, 12, dtype=torch.float64).view(4, 3).requires_grad_()
    y, v = z.detach().abs() / 4, z.detach().cos()
    constants = [{float: 0.5, int: -100}.get(kind) for kind in [*spec.parameters.values()][2:]]
    (right,) = torch.autograd.grad(spec.delta(z, y, *constants), z, v)
    torch.testing.assert_close(spec.curvature(v, z, y, *constants), right)


def names_of_kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names, kernel = [], cpp.kernel
    monkeypatch.setattr(cpp, "kernel", lambda name: names.append(name) or kernel(name))
    return names


@pytest.mark.parametrize("mode", MODES)
def test_kernels_compute_it(mode, monkeypatch):
    names = names_of_kernels(monkeypatch)
    z = torch.randn(4, 3)
    # Python does not see what a node calls.
    with use_backend("kernels"):
        mode(lambda z: quadratic(z, torch.zeros(4, 3)), z, torch.ones(4, 3))
    change = "value_and_change" if mode in (along, transformed) else "change"
    assert f"quadratic_{change}" in names


def test_a_kernel_computes_the_gradients_of_a_batch_at_once(monkeypatch):
    names = names_of_kernels(monkeypatch)
    # Python does not see what a node calls.
    with use_backend("kernels"):
        vmap(grad(quadratic))(torch.randn(40, 3), torch.zeros(40, 3))
    assert names == ["quadratic", "quadratic_delta"]


@pytest.mark.every_backend
@pytest.mark.parametrize("z", [9.0, 20.0, 37.0])
@pytest.mark.parametrize("y", [0, [1.0, 0.0]], ids=["class", "outputs"])
def test_where_a_softmax_layer_is_sure_and_right_no_digits_are_lost(z, y, case_dtype):
    z, y = torch.tensor([[z, 0.0]], dtype=case_dtype), torch.tensor([y])
    y = y.to(case_dtype) if y.is_floating_point() else y
    a = 1 / (1 + math.exp(z[0, 0].item()))  # of the other class
    rounding = 16 * torch.finfo(case_dtype).eps
    for v in ([1.0, 0.0], [0.0, 1.0], [5.0, 2.0]):
        slope, (_, curvature) = (
            mode(lambda z: log_likelihood(z, y), z, torch.tensor([v]).to(z)) for mode in (along, twice)
        )
        difference = v[0] - v[1]
        assert slope.item() == pytest.approx(-a * difference, rel=rounding)
        second = a * (1 - a) * difference
        assert curvature[0].tolist() == pytest.approx([second, -second], rel=rounding)


@pytest.mark.every_backend
@pytest.mark.parametrize("row", [[-torch.inf] * 3, [torch.nan] * 3, [torch.inf] * 3, [0.0, torch.nan, 1.0]], ids=str)
def test_an_example_that_is_ignored_changes_nothing_whatever_its_z(row, case_dtype):
    z = torch.tensor([[1.0, 2, 3], row], dtype=case_dtype)
    v, y = torch.ones_like(z), torch.tensor([0, -100])
    v[0] = torch.tensor([1.0, 2.0, 4.0])
    for mode in (along, transformed, forward_over_backward, backward_over_backward):
        found = mode(lambda z: log_likelihood(z, y), z, v)
        alone = mode(lambda z: log_likelihood(z, y[:1]), z[:1], v[:1])
        torch.testing.assert_close(found if found.ndim == 0 else found[:1], alone)
        assert found.ndim == 0 or not found[1].any()


@pytest.mark.every_backend
def test_an_example_that_no_gradient_reaches_has_no_second_derivative(whole_case):
    z, y = whole_case.examples(2, 3)
    z[1, 0] = torch.nan
    C = whole_case(z.requires_grad_(), y, "none")
    g = C.new_tensor([1, 0]).requires_grad_()
    (delta,) = torch.autograd.grad(C, z, g, create_graph=True)
    by_g, by_z = torch.autograd.grad(delta, (g, z), torch.ones_like(z))
    assert by_g.isfinite().all()
    assert by_z.isfinite().all()
    assert not by_z[1].any()


def test_a_pullback_outlives_its_transform(whole_case):
    z, y = whole_case.examples(4, 3)
    C, pull_back = vjp(lambda z: whole_case(z, y, "none"), z)
    directions = torch.eye(4, dtype=C.dtype)
    jacobian = jacrev(lambda z: whole_case.by_textbook(z, y, "none"))(z)
    torch.testing.assert_close(vmap(pull_back)(directions)[0], jacobian)
    torch.testing.assert_close(pull_back(directions[1])[0], jacobian[1])


def test_a_graph_of_an_eager_cost_is_differentiated_under_vmap(whole_case):
    z, y = whole_case.examples(4, 3)
    C = whole_case(z.requires_grad_(), y, "none")
    rows = vmap(lambda g: torch.autograd.grad(C, z, g, retain_graph=True)[0])(torch.eye(4, dtype=C.dtype))
    torch.testing.assert_close(rows, jacrev(lambda z: whole_case.by_textbook(z, y, "none"))(z.detach()))


def test_without_gradients_inside_a_transform_there_are_none():
    @torch.no_grad()
    def constant(z: Tensor) -> Tensor:
        return quadratic(z, torch.zeros(3))

    assert not grad(lambda z: constant(z) + z.sum() - z.sum().detach())(torch.ones(3)).sub(1).any()


def test_second_derivatives_go_through_hooks_for_saved_tensors(whole_case):
    z, y = whole_case.examples(6, 3)
    expected = twice(lambda z: whole_case(z, y), z, torch.ones_like(z))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor):
        found = twice(lambda z: whole_case(z, y), z, torch.ones_like(z))
    torch.testing.assert_close(found, expected)


@pytest.mark.every_backend
def test_the_mean_of_nothing_does_not_change():
    z, y = torch.randn(3, 5, requires_grad=True), torch.full((3,), -100)
    grad_output = torch.tensor(2.0, requires_grad=True)
    (slope,) = torch.autograd.grad(log_likelihood(z, y), z, grad_output, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), grad_output)
    assert second == 0
    _, tangent = torch.func.jvp(lambda z: log_likelihood(z, y), (z.detach(),), (torch.ones(3, 5),))
    assert tangent == 0


@pytest.mark.every_backend
@pytest.mark.parametrize("seed", range(40))
def test_forward_mode_gives_the_cost_too(seed):
    case = example(seed)
    with forward_ad.dual_level():
        dual = case(forward_ad.make_dual(case.z, case.v))
        C = forward_ad.unpack_dual(dual).primal
    torch.testing.assert_close(C, case(case.z))


def test_forward_mode_refuses_a_class_that_is_none():
    z = torch.randn(4, 3)
    with pytest.raises(ValueError, match="from 0 to 2, got 9"):
        along(lambda z: quadratic(z, torch.tensor([0, 9, 1, 2])), z, torch.ones(4, 3))
