"""The CPU's kernels for all numbers of a layer agree with float64, in float32's digits."""

import math

import pytest
import torch
from heads import fused, layer, scores, unfused
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from ce_torch.costs.linear import blocks, cpu_blocks, cpu_tiles
from ce_torch.costs.linear.blocks import Plan
from ce_torch.costs.linear.layer import Layer
from ce_torch.functional import linear_softmax_statistics

pytestmark = pytest.mark.usefixtures("needs_kernels")

# No multiple of 16 examples, more classes than one sum takes, and room for z of some tiles in the weight's gradient.
SIZES = [(1, 3, 2), (37, 5, 9), (50, 70, 700)]

# The same desired outputs in other places, and in a dtype that is not x's.
OUTPUTS = {
    "outputs": lambda outputs: outputs,
    "transposed outputs": lambda outputs: outputs.mT.contiguous().mT,
    "every other output": lambda outputs: outputs.repeat_interleave(2, 1)[:, ::2],
    "outputs in float64": lambda outputs: outputs.double(),
    "transposed outputs in float64": lambda outputs: outputs.mT.double().contiguous().mT,
}


@pytest.fixture(autouse=True)
def backend(small_tiles):
    """Compute in several tiles."""


def examples(N, D, K, *, bias=True):
    # A large z and a softcap would make equal numbers of those that differ in float64.
    inputs = layer(N, D, K, torch.float32, bias=bias, scale=min(1.0, (8 / D) ** 0.25))
    generator = torch.Generator().manual_seed(1)
    return inputs, torch.randint(K, (N,), generator=generator), torch.rand(N, K, generator=generator)


def in_float64(inputs):
    return [tensor.detach().double().requires_grad_() for tensor in inputs]


def assert_close_to(found, expected):
    for value, right in zip(found, expected, strict=True):
        assert value.dtype == torch.float32
        assert (value - right).norm() <= 2e-6 * right.norm() + 1e-7


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("kind", ["classes", *OUTPUTS])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_statistics_and_their_gradients_are_float64s(sizes, kind, softcap, calls):
    inputs, classes, outputs = examples(*sizes)
    y = classes if kind == "classes" else OUTPUTS[kind](outputs)
    x, weight, bias = inputs
    numbers = linear_softmax_statistics(x, weight, y, bias, entropy=True, softcap=softcap, temperature=0.7)
    exact = in_float64(inputs)
    s = scores(F.linear(*exact), softcap, 0.7)
    ln_a, t = s.log_softmax(-1), outputs.double() if kind != "classes" else F.one_hot(classes, sizes[2])
    expected = (t * ln_a).sum(-1), s.logsumexp(-1), -(ln_a.exp() * ln_a).sum(-1)
    assert_close_to(numbers[:3], expected)
    assert torch.equal(numbers.prediction, s.argmax(-1))
    upstream = [torch.linspace(-1, 2, sizes[0]) * sign for sign in (1, -0.5, 0.3)]
    found = torch.autograd.grad(numbers[:3], inputs, upstream)
    assert_close_to(found, torch.autograd.grad(expected, exact, [g.double() for g in upstream]))
    assert calls.count("layer_numbers") == calls.count("layer_gradients") > 0


@pytest.mark.parametrize(
    "options",
    [
        {"softcap": 2.0, "z_loss": 0.1, "label_smoothing": 0.1},
        {"z_loss": 0.1, "reduction": "none", "token_weight": torch.linspace(0, 2, 50)},
    ],
    ids=lambda options: ", ".join(options),
)
def test_costs_that_are_not_fused_have_float64s_gradients(options, calls):
    inputs, y, _ = examples(*SIZES[-1])
    exact = in_float64(inputs)
    wide = {key: value.double() if isinstance(value, torch.Tensor) else value for key, value in options.items()}
    C, right = fused(*inputs, y, **options), unfused(*exact, y, **wide)
    assert_close_to([C], [right])
    g = torch.linspace(0.5, 1, C.numel()).view(C.shape)
    assert_close_to(torch.autograd.grad(C, inputs, g), torch.autograd.grad(right, exact, g.double()))
    assert "layer_gradients" in calls


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("has_classes", [True, False], ids=["classes", "outputs"])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype, has_classes, calls):
    inputs, classes, outputs = examples(*SIZES[-1])
    inputs, outputs = [t.detach().to(dtype).requires_grad_() for t in inputs], outputs.to(dtype)
    x, weight, bias = inputs
    numbers = linear_softmax_statistics(x, weight, classes if has_classes else outputs, bias, entropy=True)
    exact = in_float64(inputs)
    ln_a, t = F.linear(*exact).log_softmax(-1), F.one_hot(classes, 700) if has_classes else outputs.double()
    expected = (t * ln_a).sum(-1), -(ln_a.exp() * ln_a).sum(-1)
    assert_close_to((numbers.log_prob, numbers.entropy), expected)
    found = torch.autograd.grad([numbers.log_prob.sum(), numbers.entropy.sum()], inputs)
    for gradient, right in zip(found, torch.autograd.grad([number.sum() for number in expected], exact), strict=True):
        assert (gradient - right).norm() <= 0.6 * torch.finfo(dtype).eps * right.norm()
    assert "layer_gradients" in calls


def test_of_equal_outputs_the_first_is_predicted():
    x, weight = torch.ones(3, 2), torch.zeros(600, 2)
    weight[[300, 500]] = 1.0
    assert linear_softmax_statistics(x, weight).prediction.tolist() == [300] * 3


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_what_is_ruled_out_has_no_part_in_the_numbers(softcap):
    (x, weight, bias), y, _ = examples(20, 4, 6)
    with torch.no_grad():
        bias[2] = -torch.inf
    y = y.masked_fill(y == 2, 0)
    numbers = linear_softmax_statistics(x, weight, y, bias, entropy=True, softcap=softcap)
    s = scores(F.linear(*in_float64((x, weight, bias))), softcap)
    expected = F.log_softmax(s, -1)
    assert_close_to([numbers.log_prob, numbers.logsumexp], [expected.gather(1, y[:, None])[:, 0], s.logsumexp(-1)])
    (gradient,) = torch.autograd.grad(numbers.entropy.sum(), weight)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
def test_the_default_dtype_does_not_matter(default):
    (x, weight, bias), y, _ = examples(*SIZES[-1])
    expected = linear_softmax_statistics(x, weight, y, bias, entropy=True)
    gradients = torch.autograd.grad(expected.log_prob.sum(), (x, weight, bias))
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = linear_softmax_statistics(x, weight, y, bias, entropy=True)
        again = torch.autograd.grad(found.log_prob.sum(), (x, weight, bias))
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close((*found[:4], *again), (*expected[:4], *gradients), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nan_is_predicted_as_pytorch_does(dtype):
    x, weight = torch.ones(3, 2, dtype=dtype), torch.zeros(700, 2, dtype=dtype)
    weight[650, 0] = 1.0
    weight[[200, 500], 1] = torch.nan
    assert linear_softmax_statistics(x, weight).prediction.tolist() == [200] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_where_all_classes_are_ruled_out_only_an_example_that_counts_costs_nan(dtype):
    x, weight, bias = torch.ones(2, 4, dtype=dtype), torch.zeros(5, 4, dtype=dtype), torch.full((5,), -torch.inf)
    inputs = [tensor.to(dtype).requires_grad_() for tensor in (x, weight, bias)]
    y = torch.tensor([[0.0] * 5, [0.2] * 5], dtype=dtype)
    C = fused(*inputs, y, reduction="none")
    assert C.isnan().tolist() == [False, True]
    (gradient,) = torch.autograd.grad(C[0], inputs[0])
    assert not gradient[0].any()


def test_statistics_take_a_small_part_of_z(peak_memory):
    x, weight = torch.randn(2048, 16, requires_grad=True), torch.randn(20_000, 16, requires_grad=True)
    y = torch.arange(2048)

    def step():
        numbers = linear_softmax_statistics(x, weight, y, entropy=True)
        return torch.autograd.grad((numbers.log_prob + numbers.entropy).sum(), (x, weight))

    step()
    assert peak_memory(step) - x.nbytes - weight.nbytes < 0.06 * 2048 * 20_000 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_copies_that_threads_share_and_wait_for_are_no_more_with_more_classes(reduction, dtype):
    def shared_copies(K):
        x, weight = (torch.randn(rows, 256).to(dtype).requires_grad_() for rows in (256, K))
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True, acc_events=True) as recorded:
            fused(x, weight, None, torch.arange(256), reduction=reduction).sum().backward()
        copies = [event for event in recorded.events() or [] if event.name == "aten::copy_"]
        return sum(math.prod(event.input_shapes[0]) > blocks.SERIAL_ELEMENTS for event in copies)

    assert shared_copies(9000) == shared_copies(18_000) < 3


HELD_SIZE = (100, 70, 700)


def held_numbers():
    """Return inputs, and a number of theirs whose z waits in the memory of the weight's gradient."""
    inputs, y, _ = examples(*HELD_SIZE)
    numbers = linear_softmax_statistics(inputs[0], inputs[1], y, inputs[2])
    return inputs, (numbers.log_prob * numbers.logsumexp).sum()


def right_gradients(inputs):
    exact = in_float64(inputs)
    s = F.linear(*exact)
    y = examples(*HELD_SIZE)[1]
    ln_a = s.log_softmax(-1).gather(1, y[:, None])[:, 0]
    return torch.autograd.grad((ln_a * s.logsumexp(-1)).sum(), exact)


def test_a_second_backward_pass_finds_no_z_and_the_same_gradients():
    inputs, number = held_numbers()
    once = torch.autograd.grad(number, inputs, retain_graph=True)
    again = torch.autograd.grad(number, inputs)
    assert_close_to(once, right_gradients(inputs))
    torch.testing.assert_close(once, again, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.1},
        {"z_loss": 0.1, "class_weight": True},
        {"softcap": 2.0},
        {"softcap": 30.0, "label_smoothing": 0.1},
        {"softcap": 10.0, "temperature": 0.4, "z_loss": 0.1},
    ],
    ids=str,
)
def test_what_waits_in_16_bits_adds_no_error_to_bfloat16s(options):
    N, D, K = 300, 256, 1000
    inputs = [tensor.detach().bfloat16().requires_grad_() for tensor in layer(N, D, K, torch.float32, scale=0.5)]
    exact, y = in_float64(inputs), torch.arange(N) * 7 % K
    if "class_weight" in options:
        options = options | {"class_weight": torch.linspace(0.5, 2, K)}
    wide = {key: value.double() if isinstance(value, torch.Tensor) else value for key, value in options.items()}
    C, right = fused(*inputs, y, **options), unfused(*exact, y, **wide)
    right = torch.autograd.grad(right, exact)
    kept, again = (
        [
            (g - r).norm() / r.norm()
            for g, r in zip(torch.autograd.grad(C, inputs, retain_graph=True), right, strict=True)
        ]
        for _ in range(2)
    )
    assert kept != again
    assert all(one < 1.01 * other < 2**-8 for one, other in zip(kept, again, strict=True))


def test_bfloat16_keeps_as_many_examples_as_a_layer_has_inputs():
    x, weight = torch.ones(512, 128, dtype=torch.bfloat16), torch.ones(600, 128, dtype=torch.bfloat16)
    plain = Layer(x, weight, None, None, None, None, torch.zeros(512, dtype=torch.int64), x.new_ones(512), None)
    for own, plan, examples in (
        (plain, Plan(1.0), 128),
        (plain, Plan(1.0, entropy=True), 64),
        (plain, Plan(2.0, softcap=16.0), 128),
        (plain, Plan(2.0, softcap=16.1), 64),
        (plain._replace(y=torch.ones(512, 600)), Plan(1.0), 64),
    ):
        tiles = cpu_blocks.LayerTiles(own, plan)
        assert tiles.room * tiles.most_examples == examples


def test_a_score_in_16_bits_of_an_example_that_is_sure_and_right_keeps_the_digits_of_its_gradient():
    N, D, K = 16, 128, 200
    x, y = torch.eye(N, D).bfloat16().requires_grad_(), torch.arange(N)
    weight = torch.zeros(K, D)
    weight[y, y] = 20.0
    weight = weight.bfloat16().requires_grad_()
    exact = in_float64([x, weight])
    found = torch.autograd.grad(fused(x, weight, None, y, softcap=30.0), weight)[0]
    (right,) = torch.autograd.grad(unfused(*exact, None, y, softcap=30.0), exact[1])
    torch.testing.assert_close(found[y, y].double(), right[y, y], rtol=2**-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{"label_smoothing": 0.1}, {"softcap": 3.0, "z_loss": 0.1}, {"reduction": "none"}], ids=str
)
@pytest.mark.parametrize("target", ["classes", "outputs"])
def test_parts_of_the_examples_add_up(target, options, dtype, monkeypatch):
    monkeypatch.setattr(cpu_blocks, "PART_EXAMPLES", 128)
    N, D, K = 700, 40, 90
    inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in layer(N, D, K, torch.float32, scale=0.5)]
    exact = in_float64(inputs)
    y = torch.arange(N) * 7 % K if target == "classes" else F.one_hot(torch.arange(N) % K, K).to(dtype) / 2
    wide = y if target == "classes" else y.double()
    C, right = fused(*inputs, y, out_dtype=torch.float32, **options), unfused(*exact, wide, **options)
    torch.testing.assert_close(C.double(), right, rtol=1e-5, atol=1e-5)
    upstream = torch.linspace(0.5, 2, N) if C.ndim else torch.tensor(1.0)
    found = torch.autograd.grad(C, inputs, upstream, retain_graph=True)
    again = torch.autograd.grad(C, inputs, upstream)
    for gradients in found, again:
        for gradient, expected in zip(
            gradients, torch.autograd.grad(right, exact, upstream.double(), True), strict=True
        ):
            error = 5e-6 if dtype == torch.float32 else 2**-7
            assert (gradient - expected).norm() < error * expected.norm()


def test_of_many_examples_of_few_classes_x_and_its_gradient_are_columns_in_parts(peak_memory):
    x, weight = (torch.randn(rows, 256).bfloat16().requires_grad_() for rows in (8000, 500))
    y = torch.arange(8000) % 500

    def step():
        return torch.autograd.grad(fused(x, weight, None, y), (x, weight))

    step()
    assert peak_memory(step) - x.nbytes - weight.nbytes < 0.6 * 8000 * 500 * 2


@pytest.mark.parametrize("which", [0, 1, 2], ids=["x", "weight", "bias"])
def test_z_that_waits_serves_a_single_gradient(which):
    inputs, number = held_numbers()
    (found,) = torch.autograd.grad(number, inputs[which], retain_graph=True)
    assert_close_to([found], right_gradients(inputs)[which : which + 1])
    assert_close_to(torch.autograd.grad(number, inputs), right_gradients(inputs))


def test_z_that_waits_for_tiles_of_another_size_is_not_used(monkeypatch):
    inputs, number = held_numbers()
    monkeypatch.setattr(cpu_tiles, "tile_classes", lambda: 200)  # as with another number of threads
    assert_close_to(torch.autograd.grad(number, inputs), right_gradients(inputs))


def test_of_two_numbers_by_one_weight_one_has_its_z_wait(peak_memory):
    x, weight = torch.randn(64, 512, requires_grad=True), torch.randn(6000, 512, requires_grad=True)

    def step(count):
        numbers = [linear_softmax_statistics(x, weight).logsumexp.sum() for _ in range(count)]
        return torch.autograd.grad(sum(numbers), weight)

    step(1)
    # One gradient is there while another is added to it.
    assert peak_memory(lambda: step(4)) < 4.5 * weight.nbytes
    assert peak_memory(lambda: step(1)) < 2.5 * weight.nbytes
