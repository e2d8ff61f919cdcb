"""Right values where numbers are infinite, far apart, near one another, or of several precisions.

The right values come from the formula in float64, without the terms of weight 0, and not from the library.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, vmap

from ce_torch.functional import cross_entropy, focal, linear_log_likelihood, log_likelihood, quadratic

pytestmark = pytest.mark.every_backend

inf, nan = math.inf, math.nan


def bias_layer(z, y, weight=None, **options):
    """Return the log-likelihood of a layer that has biases only, so that z can be anything."""
    x = torch.zeros(len(z), 1, dtype=z.dtype)
    costs = [
        linear_log_likelihood(x[:1], x.new_zeros(z.shape[1], 1), y_x[None], z_x, class_weight=weight, **options)
        for z_x, y_x in zip(z, y, strict=True)
    ]
    return sum(costs[1:], start=costs[0])


def softmax_by_formula(z, t, c=1.0):
    """Return C = −Σⱼ tⱼ ln aⱼ, of j with tⱼ ≠ 0, and δ."""
    m = max(z)
    e = [math.exp(c * (z_j - m)) for z_j in z]
    a = [e_j / sum(e) for e_j in e]
    C = -math.fsum(t_j * math.log(a_j) if a_j > 0 else -inf for t_j, a_j in zip(t, a, strict=True) if t_j != 0)
    return C, [c * (a_j * sum(t) - t_j) for t_j, a_j in zip(t, a, strict=True)]


RULED_OUT = [1.0, 2.0, -inf]
WITHOUT_WEIGHT = {"weight": torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)}
NO_TERM = {
    "desired outputs": ([0.5, 0.5, 0.0], {}, [0.5, 0.5, 0.0]),
    "class": (1, {}, [0.0, 1.0, 0.0]),
    "weights": ([0.2, 0.3, 0.5], WITHOUT_WEIGHT, [0.4, 0.3, 0.0]),
    "smoothed class": (1, {"label_smoothing": 0.3, **WITHOUT_WEIGHT}, [0.2, 0.8, 0.0]),
    "class without weight": (2, WITHOUT_WEIGHT, [0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("cost", [log_likelihood, bias_layer])
@pytest.mark.parametrize(("y", "options", "t"), NO_TERM.values(), ids=NO_TERM)
def test_a_class_that_is_ruled_out_and_not_desired_adds_nothing(cost, y, options, t, dtype):
    z, y = torch.tensor([RULED_OUT], dtype=dtype, requires_grad=True), torch.tensor([y])
    C = cost(z, y if y.dtype == torch.int64 else y.to(dtype), reduction="sum", **options)
    right_C, right_delta = softmax_by_formula(RULED_OUT, t)
    assert C.item() == pytest.approx(right_C, rel=1e-6)
    torch.testing.assert_close(torch.autograd.grad(C, z)[0][0].tolist(), right_delta, rtol=1e-6, atol=1e-7)


ROWS = {"-inf": [-inf] * 3, "nan": [nan] * 3, "inf": [inf] * 3, "one nan": [0.0, nan, 1.0]}


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("weighted", [False, True])
def test_an_example_that_is_ignored_adds_nothing_whatever_its_z(row, weighted, label_smoothing, case_dtype):
    weight = torch.tensor([0.5, 1, 2], dtype=case_dtype, requires_grad=True) if weighted else None
    z = torch.tensor([[1.0, 2, 3], row], dtype=case_dtype, requires_grad=True)
    options = {"weight": weight, "label_smoothing": label_smoothing}
    C = log_likelihood(z, torch.tensor([0, -100]), **options)
    alone = log_likelihood(z[:1], torch.tensor([0]), **options)
    torch.testing.assert_close(C, alone)
    inputs = [z] if weight is None else [z, weight]
    ours = torch.autograd.grad(C, inputs, create_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(alone, inputs))
    second = torch.autograd.grad(sum(slope.square().sum() for slope in ours), z)[0]
    assert second[0].isfinite().all()
    assert (second[1] == 0).all()


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_forward_mode_and_vmap_ignore_what_is_ignored(row):
    z = torch.tensor([[1.0, 2, 3], row], dtype=torch.float64)
    y = torch.tensor([0, -100])
    with forward_ad.dual_level():
        C = forward_ad.unpack_dual(log_likelihood(forward_ad.make_dual(z, torch.ones_like(z)), y, reduction="sum"))
        torch.testing.assert_close(C.tangent.item(), 0.0)
    each = vmap(grad(lambda z, y: log_likelihood(z, y, reduction="sum")))(z, y)
    assert (each[1] == 0).all()
    assert each[0].isfinite().all()


@pytest.mark.parametrize("what", [inf, nan])
@pytest.mark.parametrize("options", [{}, {"class_weight": torch.tensor([1.0, 1, 1, 0])}], ids=["ignored", "weighted"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_inputs_of_a_layer_that_do_not_count_add_nothing_to_its_gradients(what, options, reduction):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 5, generator=generator) for n in (3, 4))
    x[1] = what
    x.requires_grad_(), weight.requires_grad_()
    y = torch.tensor([0, -100 if not options else 3, 2])
    C = linear_log_likelihood(x, weight, y, reduction=reduction, **options)
    counted = [0, 2]
    alone = linear_log_likelihood(x[counted], weight, y[counted], reduction=reduction, **options)
    torch.testing.assert_close(C.sum(), alone.sum())
    torch.testing.assert_close(torch.autograd.grad(C.sum(), (x, weight)), torch.autograd.grad(alone.sum(), (x, weight)))


# Of a sigmoid neuron: z, y, its options, C and δ.
NEURONS = {
    "0 as desired": (cross_entropy, -inf, 0.0, {}, 0.0, 0.0),
    "1 as desired": (cross_entropy, inf, 1.0, {}, 0.0, 0.0),
    "0 for 1": (cross_entropy, -inf, 1.0, {}, inf, -1.0),
    "1 for 0": (cross_entropy, inf, 0.0, {}, inf, 1.0),
    "1 for between": (cross_entropy, inf, 0.25, {}, inf, 0.75),
    "0 for between": (cross_entropy, -inf, 0.25, {}, inf, -0.25),
    "positive without weight": (cross_entropy, -inf, 1.0, {"pos_weight": 0.0}, 0.0, 0.0),
    "positive with weight": (cross_entropy, -inf, 1.0, {"pos_weight": 3.0}, inf, -3.0),
    "without weight": (cross_entropy, inf, 0.0, {"weight": 0.0}, 0.0, 0.0),
    "unknown without weight": (cross_entropy, nan, 0.0, {"weight": 0.0}, 0.0, 0.0),
    "unknown y without weight": (cross_entropy, 1.0, nan, {"weight": 0.0}, 0.0, 0.0),
    "quadratic, 1 for 0": (quadratic, inf, 0.0, {}, 0.5, 0.0),
    "quadratic, 0 as desired": (quadratic, -inf, 0.0, {}, 0.0, 0.0),
    "quadratic, 0 for 1": (quadratic, -inf, 1.0, {}, 0.5, 0.0),
    "linear": (quadratic, inf, 0.0, {"activation": "linear"}, inf, inf),
}


@pytest.mark.parametrize(("cost", "z", "y", "options", "right_C", "right_delta"), NEURONS.values(), ids=NEURONS)
def test_a_neuron_at_infinity_costs_the_limit(cost, z, y, options, right_C, right_delta, case_dtype):
    z = torch.tensor([[z, 0.5]], dtype=case_dtype, requires_grad=True)
    y = torch.tensor([[y, 0.5]], dtype=case_dtype)
    options = {
        name: torch.tensor([value, 1.0]) if isinstance(value, float) else value for name, value in options.items()
    }
    C = cost(z, y, **options)
    other = cost(z[:, 1:], y[:, 1:], **{k: v[1:] if isinstance(v, torch.Tensor) else v for k, v in options.items()})
    torch.testing.assert_close(C, other + right_C)
    slope = torch.autograd.grad(C, z, create_graph=True)[0]
    assert slope[0, 0].item() == right_delta
    curvature = torch.autograd.grad(slope[slope.isfinite()].sum(), z)[0]
    assert curvature.isfinite().all()


@pytest.mark.parametrize("cost", [log_likelihood, bias_layer])
@pytest.mark.parametrize("y", [0, 1, [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], ids=str)
def test_a_softmax_layer_with_an_infinite_z_costs_the_limit(cost, y, case_dtype):
    z = torch.tensor([[inf, 1.0, 2.0]], dtype=case_dtype, requires_grad=True)
    y = torch.tensor([y])
    t = y[0] if y.is_floating_point() else torch.nn.functional.one_hot(y[0], 3)
    C = cost(z, y if y.dtype == torch.int64 else y.to(case_dtype))
    assert C.item() == (0.0 if t[0] == 1 else inf)
    torch.testing.assert_close(torch.autograd.grad(C, z)[0][0].tolist(), (torch.tensor([1.0, 0, 0]) - t).tolist())


@pytest.mark.parametrize("temperature", [1e46, 1e300])
@pytest.mark.parametrize("z", [[1.0, 2, 3], [1.0, 2, -inf], [-1e30, 0, 1e30]], ids=str)
@pytest.mark.parametrize("cost", [log_likelihood, bias_layer])
@pytest.mark.parametrize("y", [0, [1.0, 0.0, 0.0]], ids=["class", "outputs"])
def test_at_a_temperature_without_end_all_classes_that_are_left_are_alike(cost, z, y, temperature):
    z, y = torch.tensor([z], requires_grad=True), torch.tensor([y])
    left = (z > -inf).sum().item()
    C = cost(z, y, temperature=temperature)
    torch.testing.assert_close(C.item(), math.log(left), rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(C, z)[0], torch.zeros(1, 3))


@pytest.mark.parametrize("temperature", [1e-38, 1.0, 2.0, 1e10])
@pytest.mark.parametrize("cost", [log_likelihood, bias_layer])
@pytest.mark.parametrize("y", [0, [1.0, 0.0]], ids=["class", "outputs"])
def test_z_as_large_as_its_dtype_has_it_costs_no_nan(cost, y, temperature):
    z, y = torch.tensor([[3e38, -3e38]], requires_grad=True), torch.tensor([y])
    C = cost(z, y, temperature=temperature)
    torch.testing.assert_close(C.item(), 0.0)
    torch.testing.assert_close(torch.autograd.grad(C, z)[0], torch.zeros(1, 2))


@pytest.mark.parametrize("x", [-80.0, -87.0, -87.5, -87.9, -88.5, -104.0, -176.0, -700.0, -1e4, -3e38])
@pytest.mark.parametrize("classes", [2, 9, 200])
def test_activations_near_the_lowest_normal_number_are_right_or_0(x, classes):
    z = torch.zeros(9, classes).index_fill_(1, torch.tensor([1]), x)
    a = slope_of(log_likelihood, z, torch.zeros(9, dtype=torch.int64))[:, 1]
    right = torch.full_like(a, math.exp(x) / (classes - 1))
    torch.testing.assert_close(a, right, rtol=1e-5, atol=torch.finfo(torch.float32).tiny)


@pytest.mark.parametrize("cost", [log_likelihood, cross_entropy, quadratic])
def test_delta_of_nan_is_nan_in_every_dtype(cost, case_dtype):
    z = torch.zeros(3, 21, dtype=case_dtype)
    z[1, 4] = math.nan
    delta = slope_of(cost, z, torch.full_like(z, 0.5))
    assert delta[1, 4].isnan()
    assert delta[[0, 2]].isfinite().all()


def sigma(z):
    return 1 / (1 + math.exp(-z)) if z > 0 else math.exp(z) / (1 + math.exp(z))


def slope_of(cost, z, y, **options):
    z = z.requires_grad_()
    return torch.autograd.grad(cost(z, y, reduction="sum", **options), z)[0]


@pytest.mark.parametrize("z", [-80.0, -37.43, -9.0, 9.0, 20.0, 37.43, 80.0])
@pytest.mark.parametrize("y", [0.0, 1.0, 1 - 2**-20, 2**-20])
def test_delta_of_a_saturated_neuron_keeps_its_digits(z, y, case_dtype):
    a_minus_y = (1 - y) * sigma(z) - y * sigma(-z)
    right = {"cross_entropy": a_minus_y, "quadratic": a_minus_y * sigma(z) * sigma(-z)}
    for cost in (cross_entropy, quadratic):
        tensors = torch.tensor([[z]], dtype=case_dtype), torch.tensor([[y]], dtype=case_dtype)
        found = slope_of(cost, *tensors).item()
        z_rounded = tensors[0].item()
        change = abs(z - z_rounded) + 8 * torch.finfo(case_dtype).eps
        assert found == pytest.approx(right[cost.__name__], rel=4 * change, abs=1e-37)


@pytest.mark.parametrize("z", [9.0, 20.0, 37.0, 80.0])
@pytest.mark.parametrize("cost", [log_likelihood, bias_layer])
@pytest.mark.parametrize("y", [0, [1.0, 0.0]], ids=["class", "outputs"])
def test_a_softmax_layer_that_is_sure_and_right_keeps_the_digits_of_cost_and_delta(cost, y, z, case_dtype):
    y = torch.tensor([y])
    z = torch.tensor([[z, 0.0]], dtype=case_dtype, requires_grad=True)
    C = cost(z, y if y.dtype == torch.int64 else y.to(case_dtype))
    rounding = 8 * torch.finfo(case_dtype).eps
    assert C.item() == pytest.approx(math.log1p(math.exp(-z[0, 0].item())), rel=rounding)
    right = sigma(-z[0, 0].item())
    assert torch.autograd.grad(C, z)[0][0].tolist() == pytest.approx([-right, right], rel=rounding)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("weight_dtype", DTYPES)
@pytest.mark.parametrize("y_dtype", DTYPES)
@pytest.mark.parametrize("z_dtype", DTYPES)
def test_y_and_weights_of_any_dtype_go_with_any_z(z_dtype, y_dtype, weight_dtype):
    generator = torch.Generator().manual_seed(0)
    z, y, weight = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (4, 3), (3,)))
    z, y, weight = z.to(z_dtype), y.to(y_dtype), weight.to(weight_dtype)
    rounding = max(
        torch.finfo(torch.float64 if z_dtype == torch.float64 else torch.float32).eps, torch.finfo(z_dtype).eps
    )
    costs = {
        quadratic: {},
        cross_entropy: {"weight": weight, "pos_weight": weight},
        log_likelihood: {"weight": weight, "label_smoothing": 0.1},
    }
    for cost, options in costs.items():
        C = cost(z, y, **options)
        right = cost(
            z.double(), y.double(), **{k: v.double() if k != "label_smoothing" else v for k, v in options.items()}
        )
        assert C.dtype == z_dtype
        torch.testing.assert_close(C.double(), right, rtol=4 * rounding, atol=0)


@pytest.mark.parametrize("cost", [quadratic, cross_entropy, log_likelihood])
def test_y_in_half_precision_beside_z_in_float32_is_worked_out_in_float32(cost):
    z, y = torch.linspace(-3, 3, 12).view(4, 3), torch.linspace(0, 1, 12).view(4, 3).bfloat16()
    torch.testing.assert_close(cost(z, y), cost(z, y.float()), rtol=0, atol=0)


def test_parts_of_sums_in_half_precision_are_added_before_they_are_rounded():
    generator = torch.Generator().manual_seed(0)
    shapes = ((16, 32), (500, 32), (16, 500))
    x, weight, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    tensors = (5 * x).half(), (0.3 * weight).half(), y.abs().half()

    def second(x, weight, y):
        inputs = [tensor.requires_grad_() for tensor in (x, weight, y)]
        C = linear_log_likelihood(*inputs, reduction="sum", out_dtype=torch.promote_types(x.dtype, torch.float32))
        slopes = torch.autograd.grad(C, inputs[:2], create_graph=True)
        return torch.autograd.grad(slopes, inputs[:2], (x.detach(), torch.full_like(weight, 3)))

    right = second(*(tensor.double() for tensor in tensors))
    for found, exact in zip(second(*tensors), right, strict=True):
        fits = exact.abs() < torch.finfo(torch.float16).max
        torch.testing.assert_close(found.double()[fits], exact[fits], rtol=2e-3, atol=exact.abs().max().item() * 1e-3)


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


THREADED = {
    "quadratic": quadratic,
    "linear": lambda z, y, **options: quadratic(z, y, activation="linear", **options),
    "cross-entropy": cross_entropy,
    "weights": lambda z, y, **options: cross_entropy(z, y, pos_weight=y[0], **options),
    "outputs": log_likelihood,
    "classes": lambda z, y, **options: log_likelihood(z, y.argmax(-1), label_smoothing=0.1, **options),
}


@pytest.mark.parametrize("backend", ["large blocks", "kernels"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5000, 99), (777, 1003)], ids=str)
@pytest.mark.parametrize("cost", THREADED.values(), ids=THREADED)
def test_cost_and_gradient_are_the_same_with_any_number_of_threads(cost, shape, dtype):
    generator = torch.Generator().manual_seed(0)
    z, y = (torch.rand(shape, generator=generator, dtype=dtype) for _ in range(2))
    found = []
    for n in (1, 2, 3):
        with threads(n):
            found.append((cost(z, y, reduction="none"), slope_of(cost, z, y)))
    torch.testing.assert_close(found[1:], [found[0]] * 2, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["formulas", "kernels"], indirect=True)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("head", [quadratic, cross_entropy, log_likelihood, linear_log_likelihood])
def test_a_cost_of_half_precision_comes_in_float32_where_that_is_asked_for(head, reduction, half):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3000, 20, generator=generator).to(half)
    y = torch.randint(20, (3000,), generator=generator)
    inputs = (z, torch.eye(20, dtype=half)) if head is linear_log_likelihood else (z,)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    C = head(*inputs, y, reduction=reduction, out_dtype=torch.float32)
    exact = head(*(tensor.double() for tensor in inputs), y, reduction=reduction)
    assert C.dtype == torch.float32
    torch.testing.assert_close(C.double(), exact, rtol=1e-5, atol=1e-6)
    assert {slope.dtype for slope in torch.autograd.grad(C.sum(), inputs)} == {half}


def test_desired_outputs_that_label_smoothing_replaces_have_no_gradient_whatever_z():
    z = torch.tensor([[inf, 1.0], [0.0, -inf], [-inf, -inf]])
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], requires_grad=True)
    log_likelihood(z, y, label_smoothing=1, reduction="sum").backward()
    assert (y.grad == 0).all()


def test_a_neuron_at_infinity_has_the_cross_entropys_gradient_by_y_without_gamma():
    z, y = torch.tensor([[inf, -inf]]), torch.tensor([[0.0, 1.0]], requires_grad=True)
    focal(z, y, alpha=None, gamma=0, reduction="sum").backward()
    assert y.grad.tolist() == [[-inf, inf]]


@pytest.mark.parametrize("differentiate", [grad, lambda cost: lambda z: vmap(grad(cost))(z.unsqueeze(0)).squeeze(0)])
def test_a_mean_over_classes_of_weight_0_is_nan_without_a_gradient(differentiate):
    weight, y = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([2, 2])
    z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    C = log_likelihood(z, y, weight=weight, label_smoothing=0.3)
    assert C.isnan()
    C.backward()
    by_func = differentiate(lambda z: log_likelihood(z, y, weight=weight, label_smoothing=0.3))(z.detach())
    assert (z.grad == 0).all()
    assert (by_func == 0).all()


def test_what_is_left_to_1_by_a_label_smoothing_keeps_its_digits():
    z, ε, weight = torch.zeros(1, 1000), 1 - 1e-5, torch.ones(1000)
    z[0, 7], weight[7] = -20, 2
    z.requires_grad_()
    log_likelihood(z, torch.tensor([7]), label_smoothing=ε, weight=weight, reduction="sum").backward()
    t = [ε / 1000 * w for w in weight.tolist()]
    t[7] += (1 - ε) * 2
    _, δ = softmax_by_formula(z[0].tolist(), t)
    assert z.grad[0, 7].item() == pytest.approx(δ[7], rel=2e-6)


def test_what_is_left_to_1_by_alpha_keeps_its_digits():
    z, α = torch.zeros(1, 3, requires_grad=True), 1 - 1e-5
    focal(z, torch.zeros(1, 3), alpha=α, gamma=0.0).backward()
    assert z.grad.tolist() == [[pytest.approx((1 - α) / 2, rel=2e-6)] * 3]
