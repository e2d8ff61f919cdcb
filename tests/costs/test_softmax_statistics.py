"""Test the numbers of a softmax layer: their values and derivatives, by each backend and under each transform."""

import itertools
import random

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

from ce_torch import explain, use_backend
from ce_torch.functional import softmax_statistics

NUMBERS = ("log_prob", "logsumexp", "entropy")
SUBSETS = [names for count in (1, 2, 3) for names in itertools.combinations(NUMBERS, count)]


def textbook(z, y, temperature=1.0, softcap=None, ignore_index=-100):
    """Return log_prob, logsumexp and entropy in float64, of operations that autograd differentiates."""
    z = z.double()
    s = (z if softcap is None else softcap * torch.tanh(z / softcap)) / temperature
    ln_a = s - s.logsumexp(-1, keepdim=True)
    if y is None:
        log_prob = None
    elif y.is_floating_point():
        log_prob = (y.double() * ln_a).sum(-1)
    else:
        log_prob = ln_a.gather(-1, y.masked_fill(y == ignore_index, 0).unsqueeze(-1)).squeeze(-1)
    found = [log_prob, s.logsumexp(-1), -(ln_a.exp() * ln_a).sum(-1)]
    if y is not None and not y.is_floating_point():
        found = [number.masked_fill(y == ignore_index, 0) for number in found]
    return found


def examples(shape=(6, 5), dtype=torch.float64, kind="classes", seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    if kind == "none":
        return z, None
    if kind == "outputs":
        return z, torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(0, shape[-1], shape[:-1], generator=generator)
    return z, y.masked_fill(torch.rand(shape[:-1], generator=generator) < 0.3, -100)


def strided(z, layout):
    if layout == "transposed":
        return z.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "every other":
        wide = z.new_zeros(*z.shape[:-1], 2 * z.shape[-1])
        wide[..., ::2] = z
        return wide[..., ::2]
    return z


def tuples(*parameters):
    """Return a seeded choice of all combinations, enough for each pair of options to occur."""
    combinations = [*itertools.product(*parameters)]
    return random.Random(0).sample(combinations, 100)


CASES = tuples(
    ["classes", "outputs", "none"],
    [torch.float64, torch.float32, torch.bfloat16, torch.float16],
    ["contiguous", "transposed", "every other"],
    [None, 4.0],
    [1.0, 0.5],
    [(3, 7), (70, 5), (5, 300), (2, 3, 1), (9, 2, 130), (4,)],
)


@pytest.mark.parametrize("backend", ["auto", "formulas"])
@pytest.mark.parametrize(("kind", "dtype", "layout", "softcap", "temperature", "shape"), CASES)
def test_values_and_gradients_are_the_textbooks(backend, kind, dtype, layout, softcap, temperature, shape):
    z, y = examples(shape, dtype, kind)
    z = strided(z, layout).requires_grad_()
    inputs = [z, y.requires_grad_()] if kind == "outputs" else [z]
    with use_backend(backend):
        numbers = softmax_statistics(z, y, temperature=temperature, softcap=softcap, entropy=True)
        found = [number for number in numbers[:3] if number is not None]
        wanted = [number for number in textbook(z, y, temperature, softcap) if number is not None]
        grads = [torch.randn(z.shape[:-1], dtype=torch.float64) for _ in found]
        gradients = torch.autograd.grad(found, inputs, [g.to(found[0].dtype) for g in grads])
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-5}
    for number, expected in zip(found, wanted, strict=True):
        assert number.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(number.double(), expected, **tolerance)
    coarse = {torch.bfloat16: 1e-2, torch.float16: 2e-3}.get(dtype)
    tolerance = {"rtol": coarse, "atol": coarse} if coarse else tolerance
    for gradient, expected in zip(gradients, torch.autograd.grad(wanted, inputs, grads), strict=True):
        torch.testing.assert_close(gradient.double(), expected.double(), **tolerance)


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_gradients_may_reach_any_of_the_numbers(names):
    z, y = examples()
    z.requires_grad_()
    numbers = softmax_statistics(z, y, entropy=True, softcap=3.0)._asdict()
    wanted = dict(zip(NUMBERS, textbook(z, y, softcap=3.0), strict=True))
    gradient, expected = (
        torch.autograd.grad(sum((each[name] ** 2).sum() for name in names), z)[0] for each in (numbers, wanted)
    )
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("kind", ["classes", "outputs", "none"])
def test_first_and_second_derivatives_in_both_modes_are_right(kind, softcap):
    z, y = examples((3, 4), kind=kind)
    inputs = (z.requires_grad_(), y.requires_grad_()) if kind == "outputs" else (z.requires_grad_(),)

    def numbers(z, *desired):
        found = softmax_statistics(z, *(desired or (y,)), temperature=0.7, softcap=softcap, entropy=True)
        return tuple(number for number in found[:3] if number is not None)

    assert gradcheck(numbers, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(numbers, inputs, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_a_temperature_of_all_or_of_each_has_its_derivatives(softcap, shape):
    z, y = examples((3, 4))
    temperature = (0.5 + torch.rand(shape, dtype=torch.float64)).requires_grad_()

    def numbers(z, temperature):
        return softmax_statistics(z, y, temperature=temperature, softcap=softcap, entropy=True)[:3]

    assert gradcheck(numbers, (z.requires_grad_(), temperature), check_forward_ad=True)
    assert gradgradcheck(numbers, (z, temperature))


def loss(z: Tensor, y: Tensor, softcap: float | None = 3.0) -> Tensor:
    numbers = softmax_statistics(z, y, softcap=softcap, entropy=True)
    return numbers.log_prob.sum() + 2 * numbers.entropy.sum() - numbers.logsumexp.square().sum()


def textbook_loss(z: Tensor, y: Tensor) -> Tensor:
    log_prob, logsumexp, entropy = textbook(z, y, softcap=3.0)
    return log_prob.sum() + 2 * entropy.sum() - logsumexp.square().sum()


@pytest.mark.parametrize(
    "derive",
    [
        torch.func.grad,
        torch.func.hessian,
        lambda f: torch.func.jacrev(torch.func.jacrev(f)),
        lambda f: torch.func.jacfwd(torch.func.jacfwd(f)),
        lambda f: torch.vmap(torch.func.grad(f)),
        lambda f: torch.vmap(f),
    ],
    ids=["grad", "hessian", "jacrev of jacrev", "jacfwd of jacfwd", "vmap of grad", "vmap"],
)
def test_it_goes_under_the_transforms(derive):
    z, y = examples()
    torch.testing.assert_close(derive(loss)(z, y), derive(textbook_loss)(z, y))


def test_it_goes_in_forward_mode_without_a_transform():
    z, y = examples()
    v = torch.randn_like(z)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(loss(forward_ad.make_dual(z, v), y)).tangent
    torch.testing.assert_close(tangent, torch.func.jvp(lambda z: textbook_loss(z, y), (z,), (v,))[1])


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_it_compiles_in_one_graph(backend):
    z, y = examples(dtype=torch.float32)
    z.requires_grad_()
    torch.compile(loss, fullgraph=True, backend=backend)(z, y).backward()
    torch.testing.assert_close(z.grad, torch.func.grad(textbook_loss)(z.detach(), y))


@pytest.mark.parametrize("kind", ["classes", "outputs", "none"])
def test_its_operators_are_lawful(kind):
    z, y = examples(kind=kind)
    arguments = z, y, 0.5, 2.0, -100
    operators = torch.ops.ce_torch
    torch.library.opcheck(operators.softmax_statistics.default, (*arguments, True))
    torch.library.opcheck(
        operators.softmax_statistics_delta.default, (None, torch.ones(6).double(), None, None, *arguments)
    )


def test_a_tracer_sees_the_operator():
    z, y = examples()
    traced = make_fx(lambda z, y: torch.func.grad(loss)(z, y))(z, y)
    assert "ce_torch.softmax_statistics.default" in traced.code
    torch.testing.assert_close(traced(z, y), torch.func.grad(textbook_loss)(z, y))


def test_fake_tensors_have_the_shapes_and_dtypes():
    z, y = examples(dtype=torch.bfloat16)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = softmax_statistics(mode.from_tensor(z), mode.from_tensor(y), entropy=True)
    real = softmax_statistics(z, y, entropy=True)
    assert [(t.shape, t.dtype) for t in fake] == [(t.shape, t.dtype) for t in real]


@pytest.mark.parametrize("backend", ["auto", "formulas"])
def test_an_ignored_example_is_not_read(backend):
    z, y = torch.full((2, 3), torch.nan), torch.tensor([-100, -100])
    z.requires_grad_()
    with use_backend(backend):
        numbers = softmax_statistics(z, y, entropy=True)
        sum(numbers[:3]).sum().backward()
    assert numbers.log_prob.eq(0).all()
    assert numbers.logsumexp.eq(0).all()
    assert numbers.entropy.eq(0).all()
    assert numbers.prediction.eq(-100).all()
    assert not numbers.correct.any()
    assert z.grad.eq(0).all()


@pytest.mark.parametrize("backend", ["auto", "formulas"])
@pytest.mark.parametrize("classes", [3, 100])
def test_a_class_that_infinity_rules_out_adds_nothing(backend, classes):
    rest, y = examples((4, classes - 1), torch.float32)
    z = torch.cat([torch.full((4, 1), -torch.inf), rest], -1).requires_grad_()
    y = y.masked_fill(y >= 0, 1)
    with use_backend(backend):
        numbers = softmax_statistics(z, y, entropy=True)
        sum(numbers[:3]).sum().backward()
    wanted = textbook(rest, y - (y >= 0).long())
    for number, expected in zip(numbers[:3], wanted, strict=True):
        torch.testing.assert_close(number.double(), expected, rtol=1e-5, atol=1e-5)
    assert z.grad.isfinite().all()
    assert z.grad[:, 0].eq(0).all()


@pytest.mark.parametrize("backend", ["auto", "formulas"])
@pytest.mark.parametrize("shape", [(5, 2000), (500, 3), (3, 40, 100)])
def test_the_prediction_is_the_first_largest_and_nan_is_larger(backend, shape):
    z = torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(0)).float()
    z[0] = torch.nan
    with use_backend(backend):
        assert softmax_statistics(z, softcap=2.0).prediction.equal(z.argmax(-1))
        z = z.mT.contiguous().mT
        assert softmax_statistics(z).prediction.equal(z.argmax(-1))


@pytest.mark.parametrize("backend", ["auto", "formulas"])
@pytest.mark.parametrize("shape", [(5, 2000), (500, 3), (3, 40, 100)])
def test_nan_beside_nothing_but_minus_infinity_is_nan(backend, shape):
    z = torch.full(shape, -torch.inf)
    z[..., 1] = torch.nan
    with use_backend(backend):
        for numbers in softmax_statistics(z), softmax_statistics(z.mT.contiguous().mT):
            assert numbers.logsumexp.isnan().all()
            assert numbers.prediction.eq(1).all()


@pytest.mark.parametrize("backend", ["auto", "formulas"])
def test_one_class_is_certain_and_no_example_is_no_number(backend):
    with use_backend(backend):
        one = softmax_statistics(torch.tensor([[2.0]]), torch.tensor([0]), entropy=True)
        empty = softmax_statistics(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), entropy=True)
    assert [one.log_prob.item(), one.logsumexp.item(), one.entropy.item(), one.correct.item()] == [0, 2, 0, True]
    assert all(number.shape == (0,) for number in empty)


def test_what_is_not_asked_for_is_none():
    numbers = softmax_statistics(torch.zeros(2, 3))
    assert numbers.log_prob is None
    assert numbers.entropy is None
    assert numbers.correct is None


def test_dim_holds_the_classes():
    z, y = examples((4, 3, 5))
    for found, wanted in zip(
        softmax_statistics(z.mT, y, dim=1, entropy=True), softmax_statistics(z, y, entropy=True), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_inputs_are_saved_and_nothing_else():
    z, y = examples()
    z.requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        numbers = softmax_statistics(z, y, entropy=True)
    assert {t.data_ptr() for t in saved} <= {z.data_ptr(), y.data_ptr()}
    sum(numbers[:3]).sum().backward()
    torch.testing.assert_close(z.grad, torch.autograd.grad(sum(textbook(z, y)).sum(), z)[0])


@pytest.mark.parametrize("kind", ["classes", "outputs", "none"])
def test_the_kernels_take_it(kind, needs_kernels):
    assert explain(softmax_statistics, *examples(kind=kind)).name == "cpp"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"softcap": 0.0}, ValueError, "softcap must be a finite number of at least 1e-38, or None, got 0.0"),
        ({"softcap": "30"}, TypeError, "softcap must be a finite number"),
        ({"temperature": 0.0}, ValueError, "temperature must be a finite number of at least 1e-38, got 0.0"),
        ({"temperature": torch.tensor([1.0, -1.0])}, ValueError, "temperature must be a finite number .* got -1.0"),
        ({"temperature": torch.ones(3)}, ValueError, r"of shape \(\), or \(2,\), one for each example, got .* \(3,\)"),
        ({"y": torch.tensor([0, 3])}, ValueError, "y must hold class indices from 0 to 2, or ignore_index=-100, got 3"),
        ({"y": torch.tensor([0.0, 1.0])}, ValueError, "y must have shape"),
        ({"z": torch.zeros(2, 0)}, ValueError, "z must have at least one class"),
        ({"z": torch.tensor(0.0)}, ValueError, "got a scalar"),
        ({"z": [[0.0]]}, TypeError, "z must be a tensor, got list"),
    ],
)
def test_wrong_arguments_are_refused_by_name(options, error, text):
    with pytest.raises(error, match=text):
        softmax_statistics(**{"z": torch.zeros(2, 3)} | options)


def test_classes_that_change_after_the_forward_pass_unseen_by_autograd_are_an_error():
    z, y = torch.zeros(4, 1000, requires_grad=True), torch.zeros(4, dtype=torch.int64)
    C = softmax_statistics(z, y).log_prob.sum()
    y.numpy().fill(1 << 40)
    with pytest.raises(RuntimeError, match="was changed after the forward pass"):
        C.backward()


@pytest.mark.parametrize("number", ["log_prob", "logsumexp", "entropy"])
def test_gradients_of_a_batch_can_be_differentiated(number):
    z = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    found = getattr(softmax_statistics(z, torch.tensor([0, 1, 2, 3]), entropy=True), number)
    grads = torch.eye(4, dtype=torch.float64)
    keep = {"retain_graph": True, "create_graph": True}
    (at_once,) = torch.autograd.grad(found, z, grads, is_grads_batched=True, **keep)
    one_by_one = torch.stack([torch.autograd.grad(found, z, grad, **keep)[0] for grad in grads])
    torch.testing.assert_close(at_once, one_by_one)
    second = [torch.autograd.grad(first.square().sum(), z, retain_graph=True) for first in (at_once, one_by_one)]
    torch.testing.assert_close(*second)
