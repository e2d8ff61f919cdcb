"""The output layer and its cost as one have the value and all derivatives of the layer and then the cost."""

import inspect
import itertools
from functools import partial

import pytest
import torch
from heads import compute_both, fused, layer, unfused
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from torch.nn import functional as F

from ce_torch import LinearLogLikelihoodCost
from ce_torch.costs.linear import blocks, example_blocks, small
from ce_torch.functional import log_likelihood

CLASSES = torch.tensor([0, 3, -100, 4, 6, 1, 1])
OUTPUTS = torch.rand(7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WEIGHTS = torch.rand(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(autouse=True, params=["small", "whole", "blocks"])
def backend(request, monkeypatch):
    """Take the layer for a small one, or compute all its classes and examples at once, or a few of them at a time."""
    if request.param == "small":
        monkeypatch.setattr(small, "MOST_ELEMENTS", 1 << 17)
    if request.param == "blocks":
        monkeypatch.setattr(blocks, "FEWEST_ROWS", 1)
        monkeypatch.setattr(blocks, "FEWEST_CLASSES", 1)
        monkeypatch.setattr(blocks, "FEWEST_ELEMENTS", 20)


OPTIONS = [
    {"reduction": reduction, "label_smoothing": smoothing, "class_weight": weight, "temperature": temperature}
    for reduction, smoothing, (weight, temperature) in itertools.product(
        ("mean", "sum", "none"), (0.0, 0.1), ((None, 1.0), (WEIGHTS, 0.5))
    )
]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("frozen", [None, 0, 1], ids=["all", "x-frozen", "weight-frozen"])
@pytest.mark.parametrize(
    ("y", "ignore_index"),
    [(CLASSES, -100), (CLASSES.clamp(min=0), 1), (OUTPUTS, -100)],
    ids=["ignored", "1", "outputs"],
)
def test_derivatives_are_those_of_the_layer_and_then_the_cost_whatever_the_options(y, ignore_index, frozen, bias):
    inputs = layer(bias=bias)
    needed = [tensor for i, tensor in enumerate(inputs) if i != frozen]
    if frozen is not None:
        inputs[frozen].requires_grad_(False)
    for options in OPTIONS:
        found = compute_both(*inputs, y=y, ignore_index=ignore_index, **options)
        torch.testing.assert_close(*found)
        first = [torch.autograd.grad(C.square().sum(), needed, retain_graph=True) for C in found]
        torch.testing.assert_close(*first)
        again = [torch.autograd.grad(C.square().sum(), needed, create_graph=True) for C in found]
        torch.testing.assert_close(*again)
        second = [torch.autograd.grad(sum(slope.square().sum() for slope in slopes), needed) for slopes in again]
        torch.testing.assert_close(*second)


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("y", [CLASSES, OUTPUTS], ids=["classes", "outputs"])
def test_examples_count_by_their_weights_and_a_denominator_divides_their_costs(y, learned):
    inputs, token_weight = layer(), torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0, 1.5, 0.0], dtype=torch.float64)
    needed = [*inputs, token_weight.requires_grad_()] if learned else inputs
    others = itertools.product(
        (None, WEIGHTS), (0.0, 0.1), (("mean", None), ("mean", 3.5), ("sum", None), ("none", None))
    )
    for class_weight, smoothing, (reduction, denominator) in others:
        options = {"class_weight": class_weight, "label_smoothing": smoothing, "reduction": reduction}
        found = compute_both(*inputs, y=y, token_weight=token_weight, denominator=denominator, **options)
        torch.testing.assert_close(*found)
        first = [torch.autograd.grad(C.square().sum(), needed, create_graph=True) for C in found]
        torch.testing.assert_close(*first)
        second = [torch.autograd.grad(sum(slope.square().sum() for slope in slopes), needed) for slopes in first]
        torch.testing.assert_close(*second)


TEMPERATURES = torch.linspace(0.5, 2, 7, dtype=torch.float64)
SPECIAL = [{"z_loss": 0.1}, {"softcap": 2.0}, {"temperature": TEMPERATURES}]
SPECIAL += [one | other for one, other in itertools.combinations(SPECIAL, 2)]


@pytest.mark.parametrize("special", SPECIAL, ids=lambda special: "-".join(special))
@pytest.mark.parametrize("y", [CLASSES, OUTPUTS], ids=["classes", "outputs"])
@pytest.mark.parametrize("bias", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["bias", "no-bias"])
def test_z_loss_softcap_and_temperatures_of_examples_go_with_every_option(special, y, bias):
    inputs, token_weight = layer(bias=bias), torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0, 1.5, 0.0], dtype=torch.float64)
    zero_weight = WEIGHTS.index_fill(0, torch.tensor([3]), 0)
    temperature = TEMPERATURES.clone().requires_grad_()
    special = special | ({"temperature": temperature} if "temperature" in special else {})
    needed = [*inputs, temperature] if "temperature" in special else inputs
    others = itertools.product((None, zero_weight), (0.0, 0.1), (None, token_weight), ("mean", "none"))
    for class_weight, smoothing, weights, reduction in others:
        options = {"class_weight": class_weight, "label_smoothing": smoothing, "reduction": reduction}
        found = compute_both(*inputs, y=y, token_weight=weights, **options, **special)
        torch.testing.assert_close(*found)
        plain = [torch.autograd.grad(C.square().sum(), needed, retain_graph=True) for C in found]
        torch.testing.assert_close(*plain)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [None, 0, 1], ids=["all", "x-frozen", "weight-frozen"])
@pytest.mark.parametrize("y", [CLASSES, OUTPUTS], ids=["classes", "outputs"])
def test_z_loss_adds_the_square_of_the_logsumexp_whatever_the_options(y, frozen):
    inputs = layer()
    needed = [tensor for i, tensor in enumerate(inputs) if i != frozen]
    if frozen is not None:
        inputs[frozen].requires_grad_(False)
    token_weight = torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0, 1.5, 0.2], dtype=torch.float64)
    for options, weight in itertools.product(OPTIONS, (None, token_weight)):
        found = compute_both(*inputs, y=y, token_weight=weight, z_loss=0.05, **options)
        torch.testing.assert_close(*found)
        first = [torch.autograd.grad(C.square().sum(), needed, create_graph=True) for C in found]
        torch.testing.assert_close(*first)
        second = [torch.autograd.grad(sum(slope.square().sum() for slope in slopes), needed) for slopes in first]
        torch.testing.assert_close(*second)


@pytest.mark.parametrize("special", SPECIAL, ids=lambda special: "-".join(special))
def test_forward_mode_vmap_and_third_derivatives_go_with_z_loss_softcap_and_temperatures(special):
    x, weight, bias = (tensor.detach() for tensor in layer())

    def change(head, x):
        return jvp(lambda x: jvp(lambda x: head(x, weight, bias, CLASSES, **special), (x,), (x.cos(),))[1], (x,), (x,))

    def third(head, x):
        return jacrev(lambda t: grad(grad(lambda t: head(t * x, weight, bias, CLASSES, **special)))(t))(x.new_ones(()))

    for derivative in (change, third, lambda head, x: vmap(partial(change, head))(torch.stack([x, 2 * x]))):
        torch.testing.assert_close(*(derivative(head, x) for head in (fused, unfused)))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("y", [CLASSES, OUTPUTS], ids=["classes", "outputs"])
def test_z_loss_has_the_derivatives_of_torch_func(y, reduction):
    inputs, directions = ([tensor.detach() for tensor in layer(scale=scale)] for scale in (1.0, 0.5))

    def derivatives(head):
        def cost(*inputs):
            return head(*inputs, y, z_loss=0.05, reduction=reduction).square().sum()

        gradient = grad(cost, argnums=(0, 1, 2))
        of_each = vmap(lambda x: grad(cost)(x, *inputs[1:]))(torch.stack([inputs[0], directions[0]]))
        return jvp(cost, tuple(inputs), tuple(directions)), jvp(gradient, tuple(inputs), tuple(directions)), of_each

    torch.testing.assert_close(derivatives(fused), derivatives(unfused))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_z_loss_may_cancel_the_pull_of_the_cost(reduction):
    # With one class C is 0 and ℓ = z = -1: 2 z_loss ℓ is -T.
    x, weight = torch.ones(1, 1, requires_grad=True), torch.full((1, 1), -1.0, requires_grad=True)
    fused(x, weight, None, torch.tensor([0]), z_loss=0.5, reduction=reduction).sum().backward()
    torch.testing.assert_close((x.grad, weight.grad), (torch.tensor([[1.0]]), torch.tensor([[-1.0]])))


def test_with_z_loss_an_example_whose_class_has_weight_0_still_costs_something():
    inputs, class_weight = layer(), WEIGHTS.index_fill(0, torch.tensor([3]), 0)
    found = compute_both(*inputs, y=CLASSES, class_weight=class_weight, z_loss=0.05, reduction="sum")
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad(C, inputs) for C in found))


@pytest.mark.parametrize("z_loss", [1e-9, 1e-4])
def test_a_z_loss_of_an_example_that_is_sure_and_right_keeps_its_digits(z_loss):
    N, D, K = 48, 64, 600
    generator = torch.Generator().manual_seed(0)
    weight, y = torch.randn(K, D, generator=generator), torch.randint(K, (N,), generator=generator)
    x = (0.33 * weight[y] + 0.02 * torch.randn(N, D, generator=generator)).requires_grad_()
    exact = x.detach().double().requires_grad_()
    (found,) = torch.autograd.grad(fused(x, weight, None, y, z_loss=z_loss), x)
    (right,) = torch.autograd.grad(unfused(exact, weight.double(), None, y, z_loss=z_loss), exact)
    assert ((found - right).norm(dim=-1) < 1e-4 * right.norm(dim=-1)).all()


@pytest.mark.parametrize("transform", [grad, jacrev, jacfwd], ids=lambda transform: transform.__name__)
@pytest.mark.parametrize("y", [CLASSES, OUTPUTS], ids=["classes", "outputs"])
def test_torch_func_differentiates_by_weights_of_examples(y, transform):
    inputs, token_weight = [tensor.detach() for tensor in layer()], torch.linspace(0, 2, 7, dtype=torch.float64)
    torch.testing.assert_close(
        *(transform(lambda w, head=head: head(*inputs, y, token_weight=w))(token_weight) for head in (fused, unfused))
    )


@pytest.mark.parametrize("requires_grad", [True, False], ids=["gradient", "cost"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_examples_that_cost_nothing_are_left_out_before_the_layer(monkeypatch, reduction, requires_grad):
    rows = []
    compute = example_blocks.exponentials
    monkeypatch.setattr(
        example_blocks, "exponentials", lambda layer, *more: rows.append(len(layer.x)) or compute(layer, *more)
    )
    inputs = [tensor.requires_grad_(requires_grad) for tensor in layer()]
    fused(*inputs, CLASSES, token_weight=torch.tensor([1.0, 0, 0, 1, 1, 1, 1]), reduction=reduction)
    assert sum(rows) == 5


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_an_example_of_weight_0_passes_nothing_on_whatever_its_inputs(reduction):
    x, weight, bias = layer()
    token_weight = torch.ones(7, dtype=torch.float64).index_fill(0, torch.tensor([1, 4]), 0)
    y = CLASSES.clamp(min=0)
    with torch.no_grad():
        x[1], x[4] = torch.nan, torch.inf
    fused(x, weight, bias, y, token_weight=token_weight, reduction=reduction).sum().backward()
    counted = token_weight != 0
    rest = [x[counted].detach().requires_grad_(), *(tensor.detach().requires_grad_() for tensor in (weight, bias))]
    unfused(*rest, y[counted], reduction=reduction).sum().backward()
    assert x.grad[~counted].eq(0).all()
    torch.testing.assert_close([x.grad[counted], weight.grad, bias.grad], [tensor.grad for tensor in rest])


def test_parts_of_a_batch_with_the_denominator_of_all_add_up_to_the_mean():
    x, *parameters = layer()
    parts = [fused(x[part], *parameters, CLASSES[part], denominator=6) for part in (slice(0, 3), slice(3, 7))]
    torch.testing.assert_close(sum(parts), fused(x, *parameters, CLASSES))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"token_weight": torch.ones(3)}, r"token_weight must have shape \(7,\), one factor an example, .* got \(3,\)"),
        ({"denominator": 2, "reduction": "sum"}, 'denominator goes with reduction="mean", got "sum"'),
    ],
)
def test_weights_of_examples_and_denominators_that_do_not_fit_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        fused(*layer(), CLASSES, **options)


@pytest.mark.parametrize("backend", ["blocks"], indirect=True)
@pytest.mark.parametrize("reduction", ["mean", pytest.param("none", marks=pytest.mark.slow)])
@pytest.mark.parametrize("y", [torch.tensor([0, 3]), OUTPUTS[:2, :4]], ids=["classes", "outputs"])
def test_derivatives_by_every_input_agree_with_finite_differences(y, reduction):
    inputs = *layer(2, 3, 4), y.clone().requires_grad_() if y.is_floating_point() else y
    batched = {"check_batched_grad": True, "check_forward_ad": True, "check_batched_forward_grad": True}
    assert gradcheck(partial(fused, reduction=reduction), inputs, **batched)
    both_modes = {"check_fwd_over_rev": True, "check_rev_over_rev": True}
    assert gradgradcheck(partial(fused, reduction=reduction), inputs, **both_modes)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("N", [0, 7], ids=["no-example", "all-ignored"])
def test_of_examples_that_do_not_count_the_gradients_are_0_and_the_mean_is_nan(N, label_smoothing, reduction):
    inputs, y = layer(N), torch.full((N,), -100)
    found = compute_both(*inputs, y=y, reduction=reduction, label_smoothing=label_smoothing)
    torch.testing.assert_close(*found, equal_nan=True)
    for gradient in torch.autograd.grad(found[0].sum(), inputs):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_batch_of_gradients_at_once_can_be_differentiated_again(label_smoothing, reduction):
    inputs = layer()
    second = []
    for C in compute_both(*inputs, y=CLASSES, label_smoothing=label_smoothing, reduction=reduction):
        upstream = torch.arange(1.0, 3 * C.numel() + 1, dtype=C.dtype).view(3, *C.shape)
        first = torch.autograd.grad(C, inputs, upstream, is_grads_batched=True, create_graph=True)
        second.append(torch.autograd.grad(sum(slope.square().sum() for slope in first), inputs))
    torch.testing.assert_close(*second)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_forward_mode_goes_over_vmap(reduction):
    x, weight, bias = (tensor.detach() for tensor in layer())
    weights = torch.stack([weight, 2 * weight])
    changes = [
        jvp(
            lambda w, head=head: vmap(lambda w: head(x, w, bias, CLASSES, reduction=reduction))(w),
            (weights,),
            (weights,),
        )
        for head in (fused, unfused)
    ]
    torch.testing.assert_close(*changes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_weights_of_classes_may_have_another_dtype(dtype, reduction):
    inputs, class_weight = layer(dtype=torch.float32), WEIGHTS.to(dtype)
    found = [head(*inputs, CLASSES, class_weight=class_weight, reduction=reduction) for head in (fused, unfused)]
    torch.testing.assert_close(*found, check_dtype=False)
    torch.testing.assert_close(*(torch.autograd.grad(C.sum(), inputs) for C in found), rtol=1e-4, atol=1e-5)


def test_a_layer_of_no_inputs_has_its_biases():
    x, weight, bias = layer(D=0)
    torch.testing.assert_close(*compute_both(x, weight, bias, y=CLASSES))


@settings(max_examples=40)
@given(
    N=st.integers(0, 40),
    D=st.integers(1, 9),
    K=st.integers(1, 50),
    block_rows=st.none() | st.integers(1, 50),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    reduction=st.sampled_from(["sum", "none"]),
)
def test_the_size_of_a_block_makes_no_difference(N, D, K, block_rows, scale, reduction):
    inputs, y = layer(N, D, K, scale=scale), torch.arange(N) % K
    found = compute_both(*inputs, y=y, block_rows=block_rows, reduction=reduction)
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad(C.sum(), inputs) for C in found))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_backward_pass_over_a_retained_graph_gives_the_same_to_the_last_bit(dtype):
    inputs = layer(dtype=dtype)
    C = fused(*inputs, CLASSES)
    once = torch.autograd.grad(C, inputs, retain_graph=True)
    again = torch.autograd.grad(C, inputs, retain_graph=True)
    torch.testing.assert_close(again, once, rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(C, inputs, torch.tensor(4.0)), tuple(4 * slope for slope in once))


def test_gradients_that_were_handed_over_are_not_touched_by_later_backward_passes():
    inputs = layer()
    C = fused(*inputs, CLASSES)
    once = torch.autograd.grad(C, inputs, retain_graph=True)
    kept = [slope.clone() for slope in once]
    (3 * C).backward()
    torch.testing.assert_close(once, tuple(kept), rtol=0, atol=0)


def test_weights_that_are_used_elsewhere_too_get_both_gradients():
    embedding = torch.nn.Embedding(9, 5, dtype=torch.float64)
    cost = LinearLogLikelihoodCost(5, 9, bias=False)
    cost.layer.weight = embedding.weight
    words, y = torch.tensor([1, 2, 3]), torch.tensor([2, 3, 4])
    found = cost(embedding(words), y), F.cross_entropy(F.linear(embedding(words), embedding.weight), y)
    torch.testing.assert_close(*(torch.autograd.grad(C, embedding.weight) for C in found))


@pytest.mark.parametrize("changed", [0, 1, 2], ids=["x", "weight", "bias"])
def test_inputs_that_were_written_to_before_the_backward_pass_are_refused(changed):
    inputs = layer()
    C = fused(*inputs, CLASSES.clamp(min=0))
    with torch.no_grad():
        inputs[changed] += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        C.backward()


def test_inputs_may_be_parts_of_larger_tensors():
    inputs = layer(N=16, dtype=torch.float32)
    larger = [torch.cat([torch.full_like(tensor, 100), tensor]).detach() for tensor in inputs]
    parts = [tensor[len(tensor) // 2 :].requires_grad_() for tensor in larger]
    y = torch.arange(16) % 9
    found = fused(*parts, y), unfused(*inputs, y)
    torch.testing.assert_close(*found)
    torch.testing.assert_close(torch.autograd.grad(found[0], parts), torch.autograd.grad(found[1], inputs))


def test_inputs_are_left_untouched():
    inputs = layer()
    before = [tensor.detach().clone() for tensor in inputs]
    fused(*inputs, CLASSES).backward()
    torch.testing.assert_close([tensor.detach() for tensor in inputs], before, rtol=0, atol=0)


def test_each_example_has_its_gradient_by_the_weight_under_vmap_of_grad():
    x, weight, bias = layer()
    y = CLASSES.clamp(min=0)
    example_gradients = [
        vmap(grad(lambda weight, x, y, head=head: head(x, weight, bias, y)), (None, 0, 0)) for head in (fused, unfused)
    ]
    torch.testing.assert_close(*(gradients(weight, x, y) for gradients in example_gradients))


def test_a_module_shows_what_it_is_made_with():
    assert [*inspect.signature(LinearLogLikelihoodCost).parameters][:3] == ["in_features", "classes", "bias"]


def test_a_module_owns_its_layer_and_tells_its_options():
    cost = LinearLogLikelihoodCost(5, 9, temperature=0.5, class_weight=WEIGHTS, dtype=torch.float64)
    x, y = layer()[0], CLASSES
    z = cost.layer(x)
    torch.testing.assert_close(cost(x, y), log_likelihood(z, y, temperature=0.5, weight=WEIGHTS))
    torch.testing.assert_close(cost.activation(x), torch.softmax(2 * z, -1))
    assert set(cost.state_dict()) == {"layer.weight", "layer.bias", "class_weight"}
    assert "temperature=0.5" in repr(cost)


MODULE_OPTIONS = [{}, {"softcap": 2.0}, {"z_loss": 0.1}, {"softcap": 2.0, "z_loss": 0.1, "temperature": TEMPERATURES}]


@pytest.mark.parametrize("options", MODULE_OPTIONS, ids=lambda options: "-".join(options) or "plain")
@pytest.mark.parametrize("more", [{}, {"label_smoothing": 0.1, "class_weight": WEIGHTS, "token_weight": TEMPERATURES}])
@pytest.mark.parametrize("y", [CLASSES, OUTPUTS], ids=["classes", "outputs"])
def test_delta_of_a_module_is_the_gradient_of_each_cost_by_z(y, more, options):
    x = layer()[0].detach()
    cost = LinearLogLikelihoodCost(5, 9, dtype=torch.float64, **options, **more)
    z = cost.layer(x).detach().requires_grad_()
    C = unfused(z, torch.eye(9, dtype=z.dtype), None, y, reduction="sum", **options, **more)
    torch.testing.assert_close(cost.delta(x, y), *torch.autograd.grad(C, z))


@pytest.mark.parametrize("options", MODULE_OPTIONS[1:], ids=lambda options: "-".join(options))
@pytest.mark.parametrize("y", [CLASSES, OUTPUTS], ids=["classes", "outputs"])
def test_delta_takes_options_of_one_call(y, options):
    options = options | {"label_smoothing": 0.1, "class_weight": WEIGHTS, "token_weight": TEMPERATURES}
    x, cost = layer()[0].detach(), LinearLogLikelihoodCost(5, 9, dtype=torch.float64)
    kept = LinearLogLikelihoodCost(5, 9, dtype=torch.float64, **options)
    kept.layer = cost.layer
    torch.testing.assert_close(cost.delta(x, y, **options), kept.delta(x, y), rtol=0, atol=0)
    assert cost.softcap is None
    assert cost.token_weight is None


def test_delta_takes_the_adapter_and_what_is_ignored_of_one_call():
    x, cost = layer()[0].detach(), LinearLogLikelihoodCost(5, 9, dtype=torch.float64)
    A, B = torch.ones(2, 5, dtype=torch.float64), torch.full((9, 2), 0.5, dtype=torch.float64)
    y = CLASSES.clamp(min=0)
    expected = cost.layer(x).add((x @ A.mT) @ B.mT).softmax(-1) - F.one_hot(y, 9)
    expected[y == 1] = 0
    torch.testing.assert_close(cost.delta(x, y, adapter=(A, B), ignore_index=1), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masc": None}, "unexpected keyword argument 'masc'; its options are temperature, class_weight"),
        ({"softcap": -1.0}, "softcap must be a finite number of at least 1e-38"),
        ({"token_weight": torch.ones(1)}, r"token_weight must have shape \(7,\)"),
        ({"class_weight": torch.ones(8)}, r"class_weight must have shape \(9,\)"),
        ({"temperature": torch.ones(9)}, r"temperature must be a number or a tensor of shape \(\), or \(7,\)"),
        ({"adapter": (torch.ones(2, 5), torch.ones(2, 9))}, r"adapter must be A of shape \(r, 5\)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_delta_refuses_what_does_not_go_together(options, message):
    cost = LinearLogLikelihoodCost(5, 9, dtype=torch.float64)
    with pytest.raises((TypeError, ValueError), match=message):
        cost.delta(layer()[0].detach(), CLASSES, **options)


def test_an_option_that_a_module_does_not_have_is_named():
    with pytest.raises(TypeError, match="unexpected keyword argument 'weight'"):
        LinearLogLikelihoodCost(5, 9, weight=WEIGHTS)


@pytest.mark.parametrize("y", [0, 2])
def test_a_single_example_needs_no_batch(y):
    x, *parameters = layer()
    found = compute_both(x[0], *parameters, y=torch.tensor(y))
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad(C, parameters) for C in found))


def test_what_hooks_do_with_saved_tensors_is_respected():
    inputs = layer()
    with torch.autograd.graph.save_on_cpu():
        C = fused(*inputs, CLASSES)
    torch.testing.assert_close(torch.autograd.grad(C, inputs), torch.autograd.grad(unfused(*inputs, CLASSES), inputs))


def test_a_backward_pass_under_autocast_keeps_its_precision():
    inputs = layer(dtype=torch.float32)
    for reduction in ("mean", "none"):
        C = fused(*inputs, CLASSES, reduction=reduction)
        (right,) = torch.autograd.grad(C.mean(), inputs[1], retain_graph=True)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(torch.autograd.grad(C.mean(), inputs[1])[0], right, rtol=0, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_class_that_is_ruled_out_has_no_part(reduction):
    x, weight, bias = layer()
    ruled_out = bias.detach().clone()
    ruled_out[5] = -torch.inf
    found = compute_both(x, weight, ruled_out, y=CLASSES, reduction=reduction)
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad(C.sum(), (x, weight)) for C in found))


def test_a_small_integer_that_wraps_to_ignore_index_is_a_class():
    cost, x = LinearLogLikelihoodCost(3, 200, z_loss=0.1), torch.randn(2, 3)
    y = torch.tensor([156, 3], dtype=torch.uint8)
    torch.testing.assert_close(cost.delta(x, y), cost.delta(x, y.long()))
