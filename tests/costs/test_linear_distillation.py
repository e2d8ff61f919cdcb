"""Distillation has the value and all derivatives of PyTorch's own divergence of both layers' whole z."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jvp, vmap
from torch.nn import functional as F

from ce_torch import explain
from ce_torch.costs._softmax import exponentials
from ce_torch.costs.kernels import layer_numbers
from ce_torch.costs.linear import blocks, cpu_tiles, distillation_blocks
from ce_torch.costs.linear.divergences import DIVERGENCES, Divergence
from ce_torch.functional import linear_distillation, linear_distillation_top_k

TOKEN_WEIGHT = torch.tensor([1.0, 0.0, 2.0, 0.5, 0.0, 1.0, 3.0])
INFINITE = [[0.0, -math.inf, 1.0, 2.0], [1.0, -math.inf, 3.0, 0.0]]


@pytest.fixture(autouse=True, params=["whole", "blocks"])
def backend(request, monkeypatch):
    """Compute all examples at once, or a few of them at a time."""
    if request.param == "blocks":
        monkeypatch.setattr(distillation_blocks, "FEWEST_ROWS", 1)
        monkeypatch.setattr(blocks, "FEWEST_ELEMENTS", 40)


def layers(N=7, D=5, teacher_D=3, K=9, dtype=torch.float64, scale=1.0):
    """Return x and weight of the student and of the teacher, and both biases, which require gradients."""
    generator = torch.Generator().manual_seed(2)
    shapes = (N, D), (K, D), (N, teacher_D), (K, teacher_D), (K,), (K,)
    tensors = [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


def by_kl_div(name, s, t, beta=0.5):
    """Return the divergence of each example of scores, by PyTorch's own."""
    ln_q, ln_p = s.log_softmax(-1), t.log_softmax(-1)

    def kl(ln_p, ln_q):
        return F.kl_div(ln_q, ln_p, reduction="none", log_target=True).sum(-1)

    if name != "jensen_shannon":
        return kl(ln_p, ln_q) if name == "forward_kl" else kl(ln_q, ln_p)
    ln_m = torch.logsumexp(torch.stack([ln_p + math.log(beta), ln_q + math.log1p(-beta)]), 0)
    return beta * kl(ln_p, ln_m) + (1 - beta) * kl(ln_q, ln_m)


def reduce(D, reduction, token_weight=None):
    w = torch.ones_like(D) if token_weight is None else token_weight.to(D.dtype)
    return {"none": w * D, "sum": (w * D).sum(), "mean": (w * D).sum() / w.sum()}[reduction]


def unfused(
    x,
    weight,
    teacher_x,
    teacher_weight,
    bias=None,
    teacher_bias=None,
    *,
    divergence="forward_kl",
    beta=0.5,
    temperature=1.0,
    teacher_temperature=None,
    token_weight=None,
    reduction="mean",
):
    teacher_temperature = temperature if teacher_temperature is None else teacher_temperature
    s = F.linear(x, weight, bias) / temperature
    t = F.linear(teacher_x, teacher_weight, teacher_bias) / teacher_temperature
    return reduce(by_kl_div(divergence, s, t, beta), reduction, token_weight)


def top_k(name, z, log_prob, classes, tail, temperature=1.0):
    """Return the divergence of each example from k classes, written with PyTorch's operations."""
    known = (z / temperature).log_softmax(-1).gather(-1, classes)
    if tail == "none":
        return by_kl_div(name, known, log_prob)
    q, p = (torch.cat([ln.exp(), 1 - ln.exp().sum(-1, keepdim=True)], -1) for ln in (known, log_prob))
    return by_kl_div(name, q.log(), p.log())


def teacher_of_k(N=7, K=9, k=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    z = 2 * torch.randn(N, K, generator=generator, dtype=torch.float64)
    log_prob, classes = z.log_softmax(-1).topk(k)
    return log_prob.to(dtype).requires_grad_(), classes


def assert_equal_derivatives(found, expected, inputs, **tolerances):
    """Compare values, and first and second derivatives with an upstream gradient."""
    torch.testing.assert_close(found, expected, **tolerances)
    g = torch.linspace(0.5, 2, found.numel(), dtype=found.dtype).view(found.shape)
    first = [torch.autograd.grad(C, inputs, g, retain_graph=True) for C in (found, expected)]
    torch.testing.assert_close(*first, **tolerances)
    again = [torch.autograd.grad(C, inputs, g, create_graph=True) for C in (found, expected)]
    torch.testing.assert_close(*again, **tolerances)
    second = [torch.autograd.grad(sum(s.square().sum() for s in slopes), inputs) for slopes in again]
    torch.testing.assert_close(*second, **tolerances)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("token_weight", [None, TOKEN_WEIGHT], ids=["all", "masked"])
@pytest.mark.parametrize("temperature", [{}, {"temperature": 2.0}, {"temperature": 0.5, "teacher_temperature": 3.0}])
def test_the_value_and_its_derivatives_are_those_of_kl_div(divergence, token_weight, temperature):
    for reduction, beta in itertools.product(("mean", "sum", "none"), (0.1, 0.5)):
        inputs = layers()
        options = {"divergence": divergence, "beta": beta, "token_weight": token_weight, "reduction": reduction}
        assert_equal_derivatives(
            *(f(*inputs, **options, **temperature) for f in (linear_distillation, unfused)), inputs
        )


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("tail", ["class", "none"])
def test_the_divergence_from_k_classes_is_that_of_kl_div_among_them(divergence, tail):
    for reduction, token_weight in itertools.product(("mean", "sum", "none"), (None, TOKEN_WEIGHT)):
        (x, weight, _, _, bias, _), (log_prob, classes) = layers(), teacher_of_k()
        options = {"reduction": reduction, "token_weight": token_weight}
        found = linear_distillation_top_k(
            x, weight, log_prob, classes, bias, divergence=divergence, tail=tail, temperature=2.0, **options
        )
        expected = reduce(top_k(divergence, F.linear(x, weight, bias), log_prob, classes, tail, 2.0), **options)
        assert_equal_derivatives(found, expected, [x, weight, bias, log_prob])


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_all_classes_as_the_most_likely_ones_are_the_whole_teacher(divergence):
    x, weight, teacher_x, teacher_weight, bias, teacher_bias = inputs = layers()
    log_prob = F.linear(teacher_x, teacher_weight, teacher_bias).log_softmax(-1)
    log_prob, classes = log_prob.sort(-1, descending=True)
    found = linear_distillation_top_k(x, weight, log_prob, classes, bias, divergence=divergence, tail="none")
    assert_equal_derivatives(found, linear_distillation(*inputs, divergence=divergence), inputs)


@pytest.mark.parametrize("backend", ["blocks"], indirect=True)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_derivatives_agree_with_finite_differences(divergence):
    inputs = layers(2, 3, 2, 4)
    batched = {"check_batched_grad": True, "check_forward_ad": True, "check_batched_forward_grad": True}
    assert gradcheck(partial(linear_distillation, divergence=divergence), inputs, **batched)
    both_modes = {"check_fwd_over_rev": True, "check_rev_over_rev": True}
    assert gradgradcheck(partial(linear_distillation, divergence=divergence), inputs, **both_modes)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_gradients_by_hand_are_autograds_of_the_formula(divergence):
    generator = torch.Generator().manual_seed(0)
    s, t = (3 * torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    D = Divergence(divergence, 0.3)
    gradients = torch.func.grad(lambda s, t: by_kl_div(divergence, s, t, 0.3).sum(), argnums=(0, 1))(s, t)
    student, teacher = exponentials(s, 1.0), exponentials(t, 1.0)
    torch.testing.assert_close((D.gradient(student, teacher), D.swapped().gradient(teacher, student)), gradients)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_student_and_teacher_that_agree_have_no_divergence_and_no_gradient(divergence):
    x, weight, *_ = layers(dtype=torch.float32, scale=3)
    C = linear_distillation(x, weight, x.detach(), weight.detach(), divergence=divergence)
    assert C == 0
    for second in (False, True):
        for gradient in torch.autograd.grad(C, (x, weight), create_graph=second, retain_graph=True):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_close_to_its_teacher_has_a_divergence_with_correct_digits(divergence):
    x, weight, *_ = layers(dtype=torch.float32, scale=2)
    teacher = weight.detach() + 1e-3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    found = linear_distillation(x, weight, x, teacher, divergence=divergence)
    expected = unfused(*(tensor.double() for tensor in (x, weight, x, teacher)), divergence=divergence)
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_swapped_divergence_is_that_of_the_teacher_from_the_student(divergence):
    x, weight, teacher_x, teacher_weight, *_ = layers()
    name, beta = Divergence(divergence, 0.3).swapped()
    there = linear_distillation(x, weight, teacher_x, teacher_weight, divergence=divergence, beta=0.3)
    back = linear_distillation(teacher_x, teacher_weight, x, weight, divergence=name, beta=beta)
    torch.testing.assert_close(there, back)


@pytest.mark.parametrize(("beta", "limit"), [(1e-6, "forward_kl"), (1 - 1e-6, "reverse_kl")])
def test_jensen_shannon_becomes_a_kl_divergence_at_either_end(beta, limit):
    inputs = layers(scale=0.5)
    C = linear_distillation(*inputs, divergence="jensen_shannon", beta=beta) / min(beta, 1 - beta)
    torch.testing.assert_close(C, linear_distillation(*inputs, divergence=limit), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_half_precision_rounds_results_only(divergence, dtype):
    inputs = layers(dtype=dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    C = linear_distillation(*inputs, divergence=divergence, out_dtype=torch.float32)
    expected = unfused(*exact, divergence=divergence)
    torch.testing.assert_close(C.double(), expected, rtol=1e-5, atol=1e-6)
    gradients, exact = torch.autograd.grad(C, inputs), torch.autograd.grad(expected, exact)
    for gradient, expected in zip(gradients, exact, strict=True):
        torch.testing.assert_close(gradient, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)
    assert linear_distillation(*inputs, divergence=divergence).dtype == dtype


@pytest.mark.usefixtures("needs_kernels")
@pytest.mark.parametrize("backend", ["whole"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_tiles_of_both_layers_have_float64s_gradients(divergence, dtype, monkeypatch):
    names, kernel = [], layer_numbers.kernel
    monkeypatch.setattr(layer_numbers, "kernel", lambda name, types: names.append(name) or kernel(name, types))
    monkeypatch.setattr(cpu_tiles, "tile_classes", lambda: 300)
    monkeypatch.setattr(cpu_tiles, "TILE_EXAMPLES", 32)
    inputs = layers(101, 70, 35, 700, dtype, scale=0.5)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    C = linear_distillation(*inputs, divergence=divergence, out_dtype=torch.float32)
    expected = unfused(*exact, divergence=divergence)
    torch.testing.assert_close(C.double(), expected, rtol=1e-5, atol=0)
    for found, right in zip(torch.autograd.grad(C, inputs), torch.autograd.grad(expected, exact), strict=True):
        assert (found - right).norm() <= max(1e-5, torch.finfo(dtype).eps) * right.norm()
    assert {"layer_rows", "layer_products"} == {*names}


def test_autocast_chooses_the_precision_of_both_layers():
    inputs = layers(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        C = linear_distillation(*inputs)
    assert C.dtype == torch.float32
    torch.testing.assert_close(C, linear_distillation(*(tensor.bfloat16() for tensor in inputs), out_dtype=C.dtype))
    C.backward()
    assert all(tensor.grad.dtype == torch.float32 for tensor in inputs)


def test_the_teacher_may_have_another_precision():
    x, weight, teacher_x, teacher_weight, *_ = layers()
    halves = teacher_x.bfloat16(), teacher_weight.bfloat16()
    assert_equal_derivatives(
        linear_distillation(x, weight, *halves),
        unfused(x, weight, *(half.double() for half in halves)),
        [x, weight],
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_infinite_z_give_the_limit(divergence):
    bias, teacher_bias = torch.tensor(INFINITE, dtype=torch.float64)
    x, weight, teacher_x, teacher_weight, *_ = layers(K=4)
    inputs = x, weight, teacher_x, teacher_weight, bias.requires_grad_(), teacher_bias
    found = linear_distillation(*inputs, divergence=divergence)
    finite = [tensor.masked_fill(tensor.isinf(), -300) for tensor in (bias, teacher_bias)]
    expected = unfused(*inputs[:4], *finite, divergence=divergence)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(C, inputs[:5]) for C in (found, expected)))


def test_the_divergence_is_infinite_where_one_rules_out_what_the_other_does_not():
    x, teacher_x = torch.ones(1, 1), torch.ones(1, 1)
    finite, infinite = torch.zeros(3, 1), torch.tensor([[0.0], [-math.inf], [1.0]])
    values = {
        (name, student): linear_distillation(x, weight, teacher_x, teacher_weight, divergence=name).item()
        for name in DIVERGENCES
        for student, weight, teacher_weight in (("all", finite, infinite), ("fewer", infinite, finite))
    }
    assert [pair for pair, value in values.items() if value == math.inf] == [
        ("forward_kl", "fewer"),
        ("reverse_kl", "all"),
    ]


def test_of_an_example_of_weight_0_nothing_is_computed():
    x, weight, teacher_x, teacher_weight, *_ = layers()
    broken = x.detach().clone()
    broken[TOKEN_WEIGHT == 0] = math.nan
    broken.requires_grad_()
    options = {"token_weight": TOKEN_WEIGHT.double()}
    expected = linear_distillation(x, weight, teacher_x, teacher_weight, **options)
    for weights in (options["token_weight"], options["token_weight"].clone().requires_grad_()):
        C = linear_distillation(broken, weight, teacher_x, teacher_weight, token_weight=weights)
        torch.testing.assert_close(C, expected)
        slopes = torch.autograd.grad(C, (broken, weight))
        torch.testing.assert_close(slopes, torch.autograd.grad(expected, (x, weight), retain_graph=True))


def test_batches_with_one_denominator_add_up_to_the_mean_over_all():
    x, weight, teacher_x, teacher_weight, *_ = layers()
    options = {"token_weight": TOKEN_WEIGHT, "denominator": TOKEN_WEIGHT.sum()}
    whole = linear_distillation(x, weight, teacher_x, teacher_weight, token_weight=TOKEN_WEIGHT)
    parts = [
        linear_distillation(
            x[part], weight, teacher_x[part], teacher_weight, **options | {"token_weight": TOKEN_WEIGHT[part]}
        )
        for part in (slice(3), slice(3, None))
    ]
    assert_equal_derivatives(sum(parts), whole, [x, weight])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_token_weights_and_temperatures_have_gradients(reduction):
    inputs = layers()
    numbers = [torch.tensor(2.0, dtype=torch.float64).requires_grad_() for _ in range(2)]
    token_weight = TOKEN_WEIGHT.double().requires_grad_()
    options = {"temperature": numbers[0], "teacher_temperature": numbers[1], "token_weight": token_weight}
    found, expected = (f(*inputs, reduction=reduction, **options) for f in (linear_distillation, unfused))
    assert_equal_derivatives(found, expected, [*inputs, *numbers, token_weight])


@pytest.mark.parametrize("N", [0, 7], ids=["no-example", "all-masked"])
def test_the_mean_over_no_example_is_nan_without_a_gradient(N):
    inputs, masked = layers(N), torch.zeros(N)
    assert linear_distillation(*inputs, token_weight=masked, reduction="sum") == 0
    assert torch.equal(linear_distillation(*inputs, token_weight=masked, reduction="none"), masked.double())
    C = linear_distillation(*inputs, token_weight=masked)
    assert C.isnan()
    assert all(gradient.eq(0).all() for gradient in torch.autograd.grad(C, inputs))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_transforms_and_forward_mode_see_the_same_function(divergence):
    x, weight, teacher_x, teacher_weight, *_ = (tensor.detach() for tensor in layers())
    fused, plain = (
        lambda x, f=f: f(x, weight, teacher_x, teacher_weight, divergence=divergence)
        for f in (linear_distillation, unfused)
    )
    for transform in (grad, hessian, lambda f: lambda x: jvp(f, (x,), (teacher_x @ teacher_x.T @ x,))):
        torch.testing.assert_close(transform(fused)(x), transform(plain)(x))
    found = vmap(linear_distillation, in_dims=(0, None, 0, None))(x, weight, teacher_x, teacher_weight)
    torch.testing.assert_close(found, unfused(x, weight, teacher_x, teacher_weight, reduction="none"))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        tangents = [forward_ad.unpack_dual(f(dual)).tangent for f in (fused, plain)]
    torch.testing.assert_close(*tangents)


@pytest.mark.parametrize("backend", ["whole"], indirect=True)
def test_compiled_the_cost_is_one_graph(needs_a_compiler):
    inputs = layers()
    compiled = torch.compile(linear_distillation, fullgraph=True)
    compare_first = [f(*inputs, divergence="jensen_shannon") for f in (compiled, linear_distillation)]
    torch.testing.assert_close(*compare_first)
    torch.testing.assert_close(*(torch.autograd.grad(C, inputs) for C in compare_first))


def test_a_graph_can_be_gone_through_twice_with_different_gradients():
    inputs = layers()
    C = linear_distillation(*inputs)
    once, twice = (torch.autograd.grad(C, inputs, g, retain_graph=True) for g in torch.tensor([1.0, 2.0]).double())
    torch.testing.assert_close([2 * gradient for gradient in once], [*twice])


def test_hooks_for_saved_tensors_see_all_that_is_kept():
    inputs, shapes = layers(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.append(t.shape) or t, lambda t: t):
        C = linear_distillation(*inputs)
    assert set(shapes) <= {tensor.shape for tensor in inputs} | {(), (7,)}
    torch.testing.assert_close(*(torch.autograd.grad(C, inputs) for C in (C, linear_distillation(*inputs))))


def test_examples_may_have_any_number_of_dimensions():
    x, weight, teacher_x, teacher_weight, *_ = layers(N=6)
    found = linear_distillation(x.view(2, 3, -1), weight, teacher_x.view(2, 3, -1), teacher_weight, reduction="none")
    torch.testing.assert_close(
        found, linear_distillation(x, weight, teacher_x, teacher_weight, reduction="none").view(2, 3)
    )
    one = linear_distillation(x[0], weight, teacher_x[0], teacher_weight)
    torch.testing.assert_close(one, found[0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["whole"], indirect=True)
@pytest.mark.parametrize("teacher", ["layer", "top-k"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_blocks_take_a_twentieth_of_z_at_most(divergence, teacher, peak_memory):
    N, K, D = 4096, 8192, 16
    x, weight, teacher_x, teacher_weight, *_ = layers(N, D, D, K, dtype=torch.float32)
    teacher_x, teacher_weight = teacher_x.detach(), teacher_weight.detach()
    if teacher == "layer":
        call = partial(linear_distillation, x, weight, teacher_x, teacher_weight, divergence=divergence)
    else:
        log_prob, classes = teacher_of_k(N, K, 8, torch.float32)
        call = partial(linear_distillation_top_k, x, weight, log_prob.detach(), classes, divergence=divergence)
    gradients = 4 * (x.numel() + weight.numel())
    assert peak_memory(lambda: call().backward()) - gradients < 4 * N * K / 20
    assert explain(call).name == "blocks"


@pytest.mark.usefixtures("needs_kernels")
def test_in_bfloat16_the_sum_of_the_weights_gradients_takes_half_as_much_as_they_do(peak_memory):
    N, D, K = 64, 512, 8000
    x, weight, teacher_x, teacher_weight, *_ = layers(N, D, D, K, dtype=torch.bfloat16)
    inputs = x, weight, teacher_x.detach(), teacher_weight.detach()
    linear_distillation(*inputs).backward()
    # Two blocks of 48 examples, and of the gradient a byte more for each number.
    x.grad = weight.grad = None
    blocks = 2 * 48 * K * 4
    assert peak_memory(lambda: linear_distillation(*inputs).backward()) < 1.5 * weight.nbytes + blocks + 4e6


@pytest.mark.usefixtures("needs_kernels")
def test_in_bfloat16_many_blocks_round_the_gradient_of_the_weight_once():
    N, D, K = 600, 24, 90
    inputs = layers(N, D, D, K, dtype=torch.bfloat16)[:4]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    (right,) = torch.autograd.grad(linear_distillation(*exact), exact[1])
    errors = []
    for block_rows in (32, 2 * N):
        (found,) = torch.autograd.grad(linear_distillation(*inputs, block_rows=block_rows), inputs[1])
        errors.append((found - right).norm())
    assert errors[0] < 1.02 * errors[1]


ONE_LAYER = dict(zip(("x", "weight", "teacher_x", "teacher_weight"), layers(dtype=torch.float32), strict=False))
REFUSED = [
    ({"divergence": "kl"}, ValueError, 'divergence must be "forward_kl", "reverse_kl" or "jensen_shannon", got \'kl\''),
    ({"beta": 0}, ValueError, 'beta must be a number between 0 and 1, got 0; pass divergence="forward_kl"'),
    ({"beta": 1.0}, ValueError, 'pass divergence="reverse_kl"'),
    ({"beta": 2}, ValueError, "beta must be a number between 0 and 1, got 2"),
    (
        {"teacher_temperature": 0.0},
        ValueError,
        "teacher_temperature must be a finite number of at least 1e-38, got 0.0",
    ),
    ({"teacher_x": torch.zeros(6, 3)}, ValueError, r"teacher_x must have shape \(7,\) \+ \(D,\), .* got \(6, 3\)"),
    ({"teacher_weight": torch.zeros(8, 3)}, ValueError, r"teacher_weight must have shape \(9, 3\), .* got \(8, 3\)"),
    (
        {"teacher_bias": torch.zeros(8)},
        ValueError,
        r"teacher_bias must have shape \(9,\), one for each class, got \(8,\)",
    ),
    ({"token_weight": torch.zeros(6)}, ValueError, r"token_weight must have shape \(7,\), one factor an example"),
    (
        {"token_weight": torch.zeros(7).bool()},
        TypeError,
        r"token_weight must be floating .* pass token_weight.float\(\)",
    ),
    ({"weight": torch.zeros(9, 4)}, ValueError, r"weight must have shape \(K, 5\)"),
]


@pytest.mark.parametrize("backend", ["whole"], indirect=True)
@pytest.mark.parametrize(("wrong", "error", "text"), REFUSED)
def test_arguments_are_refused_by_name(wrong, error, text):
    with pytest.raises(error, match=text):
        linear_distillation(**ONE_LAYER | wrong)


@pytest.mark.parametrize("backend", ["whole"], indirect=True)
@pytest.mark.parametrize(
    ("log_prob", "classes", "error", "text"),
    [
        (
            torch.zeros(7, 2),
            torch.zeros(7, 2),
            TypeError,
            r"teacher_classes must be int64 .* pass teacher_classes.long",
        ),
        (
            torch.zeros(7, 2),
            torch.zeros(7, 3).long(),
            ValueError,
            r"teacher_classes must have the shape of teacher_log",
        ),
        (torch.zeros(6, 2), torch.zeros(6, 2).long(), ValueError, r"teacher_log_prob must have shape \(7,\) \+ \(k,\)"),
        (
            torch.zeros(7, 1),
            torch.full((7, 1), 9),
            ValueError,
            "teacher_classes must hold class indices from 0 to 8, got 9",
        ),
        (
            torch.zeros(7, 1),
            torch.full((7, 1), -100),
            ValueError,
            "got -100; give examples that do not count any class",
        ),
    ],
)
def test_the_teachers_classes_are_refused_by_name(log_prob, classes, error, text):
    x, weight, *_ = layers(dtype=torch.float32)
    with pytest.raises(error, match=text):
        linear_distillation_top_k(x, weight, log_prob, classes)
