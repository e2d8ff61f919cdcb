"""Every cost keeps what autograd promises for PyTorch's own functions. Each test is a row of docs/promises.md."""

import copy
import pickle

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint

SHAPES = [(3,), (4, 3), (2, 0, 3), (2, 3, 2, 3)]
REDUCTIONS = ["mean", "sum", "none"]
SHAPES_AND_REDUCTIONS = [*zip(SHAPES, [*REDUCTIONS, "mean"], strict=True)]


def differentiable(case, *shape, **options):
    """Return z and y, which require gradients, except y that holds classes."""
    z, y = case.examples(*shape, **options)
    return z.requires_grad_(), y if case.indices else y.requires_grad_()


def select_differentiable(*tensors):
    return [tensor for tensor in tensors if tensor.requires_grad]


def assert_same(ours, theirs, **tolerance):
    torch.testing.assert_close(ours, theirs, equal_nan=True, **tolerance)


@pytest.mark.every_backend
@pytest.mark.parametrize(("shape", "reduction"), SHAPES_AND_REDUCTIONS)
def test_value_is_the_textbooks(case, shape, reduction):
    z, y = case.examples(*shape)
    assert_same(case(z, y, reduction), case.by_textbook(z, y, reduction))


@pytest.mark.every_backend
@pytest.mark.parametrize(("shape", "reduction"), SHAPES_AND_REDUCTIONS)
def test_gradient_is_the_one_autograd_derives_from_the_textbook(case, shape, reduction):
    z, y = differentiable(case, *shape)
    inputs = select_differentiable(z, y)
    ours, theirs = (torch.autograd.grad(cost(z, y, reduction).sum(), inputs) for cost in (case, case.by_textbook))
    assert_same(ours, theirs)


@pytest.mark.parametrize("first", [jacrev, jacfwd])
@pytest.mark.parametrize("second", [jacrev, jacfwd])
def test_second_derivative_is_the_one_autograd_derives_from_the_textbook(case, first, second):
    z, y = case.examples(4, 3)
    assert_same(second(first(case))(z, y), second(first(case.by_textbook))(z, y))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_batch_of_gradients_at_once_can_be_differentiated_again(case, reduction):
    z, y = differentiable(case, 4, 3)
    second = []
    for cost in (case, case.by_textbook):
        C = cost(z, y, reduction)
        upstream = torch.arange(1.0, 2 * C.numel() + 1, dtype=C.dtype).view(2, *C.shape)
        (slopes,) = torch.autograd.grad(C, z, upstream, is_grads_batched=True, create_graph=True)
        second.append(torch.autograd.grad(slopes.square().sum(), z))
    assert_same(*second)


def test_third_derivative_is_the_one_autograd_derives_from_the_textbook(case):
    z, y = case.examples(2, 3)
    assert_same(jacrev(hessian(case))(z, y), jacrev(hessian(case.by_textbook))(z, y))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_first_derivatives_agree_with_finite_differences(case, reduction):
    z, y = differentiable(case, 2, 3, dtype=torch.float64)
    every_mode = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert gradcheck(lambda z, y: case(z, y, reduction), (z, y), **every_mode)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_second_derivatives_agree_with_finite_differences(case, reduction):
    z, y = differentiable(case, 2, 3, dtype=torch.float64)
    assert gradgradcheck(lambda z, y: case(z, y, reduction), (z, y), check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.every_backend
def test_forward_mode_gives_the_directional_derivative(case):
    z, y = case.examples(4, 3)
    direction = torch.ones_like(z)
    with forward_ad.dual_level():
        ours = forward_ad.unpack_dual(case(forward_ad.make_dual(z, direction), y)).tangent
    assert_same(ours, jvp(lambda z: case.by_textbook(z, y), (z,), (direction,))[1])


def test_forward_mode_goes_through_a_backward_pass_that_keeps_no_graph(case):
    z, y = case.examples(4, 3)
    direction = torch.ones_like(z)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(z.requires_grad_(), direction)
        ours = forward_ad.unpack_dual(torch.autograd.grad(case(dual, y), dual)[0]).tangent
    assert_same(ours, jvp(grad(lambda z: case.by_textbook(z, y)), (z.detach(),), (direction,))[1])


def test_forward_mode_goes_through_the_gradient_that_reaches_the_cost(case):
    z, y = case.examples(4, 3)
    C = case(z.requires_grad_(), y)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.ones_like(C), torch.full_like(C, 3.0))
        delta, tangent = forward_ad.unpack_dual(torch.autograd.grad(C, z, dual)[0])
    assert_same(tangent, 3 * delta)


def test_vmap_of_grad_gives_per_example_gradients(case):
    z, y = case.examples(5, 3)
    gradient = grad(lambda z, y: case(z, y, "sum"))
    assert_same(vmap(gradient)(z, y), torch.stack([gradient(*example) for example in zip(z, y, strict=True)]))


def test_vmap_over_either_argument_alone(case):
    z, y = case.examples(5, 4, 3)
    assert_same(vmap(case, in_dims=(0, None))(z, y[0]), torch.stack([case(part, y[0]) for part in z]))
    assert_same(vmap(case, in_dims=(None, 0))(z[0], y), torch.stack([case(z[0], part) for part in y]))


@pytest.mark.parametrize("jacobian", [jacrev, jacfwd])
def test_jacobians_of_torch_func(case, jacobian):
    z, y = case.examples(2, 3)
    assert_same(jacobian(case)(z, y, "none"), jacobian(case.by_textbook)(z, y, "none"))


def test_compiles_as_one_graph(case):
    assert_compiles(case, "aot_eager")


def test_compiles_to_code(first_case, needs_a_compiler):
    assert_compiles(first_case, "inductor")


def assert_compiles(case, backend):
    torch.compiler.reset()
    z, y = differentiable(case, 4, 3)
    inputs = select_differentiable(z, y)
    compiled = torch.compile(case, fullgraph=True, backend=backend)
    ours, theirs = compiled(z, y), case(z, y)
    assert_same(ours, theirs)
    assert_same(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs))


def test_z_and_y_are_left_untouched(case):
    z, y = differentiable(case, 4, 3)
    before = z.detach().clone(), y.detach().clone()
    case(z, y).backward()
    assert_same((z.detach(), y.detach()), before, rtol=0, atol=0)


@pytest.mark.every_backend
def test_a_retained_graph_gives_the_gradient_for_every_upstream_gradient(case):
    z, y = case.examples(4, 3)
    z.requires_grad_()
    C = case(z, y, "none")
    first = torch.autograd.grad(C, z, torch.ones(4, dtype=z.dtype), retain_graph=True)[0]
    second = torch.autograd.grad(C, z, torch.arange(4, dtype=z.dtype), retain_graph=True)[0]
    assert_same(second, first * torch.arange(4, dtype=z.dtype).unsqueeze(-1))


@pytest.mark.every_backend
def test_two_costs_on_one_z_add_up(case):
    z, y = case.examples(4, 3)
    z.requires_grad_()
    alone = torch.autograd.grad(case(z, y), z)[0]
    (case(z, y) + 2 * case(z, y) + z.sum()).backward()
    assert_same(z.grad, 3 * alone + 1)


@pytest.mark.every_backend
def test_activation_checkpointing(case):
    z, y = case.examples(4, 3)
    z.requires_grad_()
    alone = torch.autograd.grad(case(z, y), z)[0]
    checkpoint(case, z, y, use_reentrant=False).backward()
    assert_same(z.grad, alone)


@pytest.mark.every_backend
def test_inputs_need_not_be_contiguous(case):
    z, y = case.examples(4, 5, 3)
    z, y = z.transpose(0, 1), y.transpose(0, 1)
    assert not z.is_contiguous()
    for_grad = z.detach().requires_grad_()
    assert_same(case(z, y), case(z.contiguous(), y.contiguous()))
    ours = torch.autograd.grad(case(for_grad, y), for_grad)[0]
    assert_same(ours, grad(case.by_textbook)(z.contiguous(), y.contiguous()))


@pytest.mark.every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precisions_are_worked_out_in_float32_and_come_back_in_their_own(case, dtype):
    z, y = case.examples(40, 3, dtype=dtype)
    z.requires_grad_()
    C = case(z, y)
    (gradient,) = torch.autograd.grad(C, z)
    exact = z.detach().double().requires_grad_()
    exact_C = case(exact, y if case.indices else y.double())
    rounding = torch.finfo(dtype).eps
    assert C.dtype == gradient.dtype == dtype
    assert_same(C.double(), exact_C, rtol=2 * rounding, atol=0)
    assert_same(gradient.double(), torch.autograd.grad(exact_C, exact)[0], rtol=4 * rounding, atol=1e-6)


@pytest.mark.every_backend
def test_under_autocast_the_cost_is_float32_and_the_gradient_reaches_the_weights(case):
    z, y = case.examples(40, 3, dtype=torch.float32)
    weight = torch.eye(3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        logits = z @ weight
        C = case(logits, y)
    C.backward()
    assert (logits.dtype, C.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert_same(C, case(z, y), rtol=0.02, atol=0.01)


@pytest.mark.every_backend
def test_a_hook_on_z_sees_delta(case):
    z, y = case.examples(4, 3)
    z.requires_grad_()
    seen = []
    z.register_hook(seen.append)
    case(z, y, "sum").backward()
    assert_same(seen[0], case.cost().to(z.dtype).delta(z.detach(), y))


@pytest.mark.every_backend
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_delta_is_the_gradient_of_each_example_whatever_the_reduction(case, reduction):
    z, y = differentiable(case, 2, 4, 3)
    delta = case.cost(reduction=reduction).to(z.dtype).delta(z, y)
    assert_same(delta, torch.autograd.grad(case.by_textbook(z, y, "sum"), z)[0])


def test_the_module_is_the_function(case):
    z, y = case.examples(4, 3)
    assert_same(case.cost().to(z.dtype)(z, y), case(z, y), rtol=0, atol=0)


def test_a_module_can_be_pickled_and_copied(case):
    z, y = case.examples(4, 3)
    cost = case.cost().to(z.dtype)
    for twin in (pickle.loads(pickle.dumps(cost)), copy.deepcopy(cost)):
        assert_same(twin(z, y), cost(z, y), rtol=0, atol=0)


def test_functional_call(case):
    z, y = case.examples(4, 3)
    cost = case.cost().to(z.dtype)
    assert_same(functional_call(cost, {}, (z, y)), cost(z, y), rtol=0, atol=0)


@pytest.mark.every_backend
def test_nan_in_z_comes_out_as_nan_and_stays_with_its_example(case):
    z, y = case.examples(2, 3)
    z[0, 0] = torch.nan
    C = case(z, y, "none")
    assert C[0].isnan()
    assert C[1].isfinite()


@pytest.mark.every_backend
def test_an_example_that_no_gradient_reaches_has_none_whatever_its_z(whole_case):
    z, y = whole_case.examples(2, 3)
    z[1, 0] = torch.nan
    C = whole_case(z.requires_grad_(), y, "none")
    (gradient,) = torch.autograd.grad(C, z, C.new_tensor([1, 0]))
    assert gradient.isfinite().all()
    assert not gradient[1].any()


@pytest.mark.every_backend
@pytest.mark.parametrize("infinity", [torch.inf, -torch.inf])
def test_infinity_in_z_comes_out_as_the_limit_or_not_finite(case, infinity):
    z, y = case.examples(2, 3)
    z[0, 0] = infinity
    C = case(z, y, "none")
    z[0, 0] = 1e5 if infinity > 0 else -1e5
    assert not C[0].isfinite() or C[0] == case(z, y, "none")[0]
    assert C[1].isfinite()
