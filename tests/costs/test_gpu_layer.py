"""A GPU's kernels for a layer in half precision agree with float64. Without a GPU, Triton's interpreter runs them."""

import pytest
import torch
from switches import DEVICE, needs_gpu_kernels, pretend_gpu
from torch.nn import functional as F

from ce_torch.costs.kernels import gpu
from ce_torch.costs.linear import gpu_blocks, gpu_half_precision, gpu_passes, room, targets
from ce_torch.functional import linear_log_likelihood, linear_softmax_statistics

pytestmark = needs_gpu_kernels

N, D, K = 9, 8, 29


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take stripes and blocks so small that there are several; let tensors on the CPU pass for some on a GPU."""
    sizes = {
        gpu_passes: {"STRIPE_EXAMPLES": 5, "STRIPE_CLASSES": 16, "BLOCK_CLASSES": 8, "BLOCK_ELEMENTS": 80, "UNIT": 4}
        | {"FEWEST_CLASSES": 4, "FEWEST_MULTIPLICATIONS": 1},
        room: {"ALIGNMENT": 4, "SLACK": 32},
        gpu_half_precision: {"TILE": 8},
        gpu_blocks: {"ELEMENTS": 16 * N, "FEWEST_CLASSES": 1},
    }
    for module, values in sizes.items():
        for name, size in values.items():
            monkeypatch.setattr(module, name, size)
    tiles = {"tile": 4, "tile_classes": 4, "num_warps": 1}
    monkeypatch.setattr(gpu_half_precision, "STRIPE_TILE", {**tiles, "tile_classes": 8, "tile_inputs": 4})
    for module in (gpu_half_precision, gpu_blocks):
        monkeypatch.setattr(module, "BLOCK_TILE", tiles)
    if DEVICE == "cpu":  # where PyTorch has no product of half precision in float32
        pretend_gpu(monkeypatch)
        monkeypatch.setattr(gpu, "multiply", multiply)


def multiply(left, right, out, adds=False):
    product = left.float() @ right.float()
    out.add_(product) if adds else out.copy_(product)


@pytest.fixture
def launches(monkeypatch):
    names, run = [], gpu.run
    monkeypatch.setattr(gpu, "run", lambda name, *more, **options: names.append(name) or run(name, *more, **options))
    return names


def draw(dtype, *shapes):
    generator = torch.Generator().manual_seed(0)
    tensors = (torch.randn(shape, generator=generator) for shape in shapes)
    return [tensor.to(DEVICE, dtype).requires_grad_() for tensor in tensors]


def exact(inputs, y, class_weight=None, temperature=1.0, softcap=None, z_loss=0.0, upstream=1.0, **options):
    """Return C and its gradients in float64."""
    inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    weight = None if class_weight is None else class_weight.double()
    s = scores(inputs, temperature, softcap)
    C = F.cross_entropy(s, y.double() if y.is_floating_point() else y, weight=weight, **options)
    C = C + z_loss * s.logsumexp(-1).square().mean()
    return C, torch.autograd.grad(C, inputs, torch.full_like(C, upstream))


def scores(inputs, temperature, softcap):
    z = F.linear(*inputs)
    return (z if softcap is None else softcap * torch.tanh(z / softcap)) / temperature


FUSED = {"block_exponentials", "x_gradient", "block_delta"}
BY_BLOCKS = {"block_numbers", "block_gradient"}


WEIGHTED = {"ignore_index": 3, "class_weight": torch.linspace(0, 2, K, device=DEVICE)}
CASES = [
    (torch.bfloat16, False, {}),
    (torch.bfloat16, True, {"label_smoothing": 0.1}),
    (torch.bfloat16, False, WEIGHTED),
    (torch.bfloat16, True, {"reduction": "sum", "temperature": 0.5, "label_smoothing": 0.3}),
    (torch.bfloat16, True, {"reduction": "none"}),
    (torch.bfloat16, False, {"softcap": 2.0}),
    (torch.float16, True, {"softcap": 3.0, "z_loss": 0.1, "temperature": 0.5, "label_smoothing": 0.2}),
    (torch.float16, False, WEIGHTED),
]


@pytest.mark.parametrize(("dtype", "has_bias", "options"), CASES, ids=str)
def test_cost_and_gradients_are_float64s_but_for_two_roundings(dtype, has_bias, options, launches):
    shapes = ((N, D), (K, D), (K,))[: 2 + has_bias]
    inputs, y = draw(dtype, *shapes), (torch.arange(N, device=DEVICE) * 3) % K
    x, weight, *bias = inputs
    C = linear_log_likelihood(x, weight, y, *bias, out_dtype=torch.float32, **options)
    found = torch.autograd.grad(C, inputs, torch.full_like(C, 2.0))
    right, gradients = exact(inputs, y, upstream=2.0, **options)
    is_fused = dtype == torch.bfloat16 and not {"softcap", "z_loss"} & options.keys() and "none" not in options.values()
    assert (FUSED if is_fused else BY_BLOCKS) <= {*launches} <= {*FUSED, *BY_BLOCKS, "multiply_by"}
    torch.testing.assert_close(C.double(), right, rtol=1e-5, atol=1e-5)
    for gradient, expected in zip(found, gradients, strict=True):
        assert gradient.dtype == dtype
        assert (gradient - expected).norm() < torch.finfo(dtype).eps * expected.norm()


@pytest.mark.parametrize("examples", [3, D, 12, 24])
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.2, "temperature": 0.5}, {"softcap": 2.0, "z_loss": 0.1}], ids=str
)
def test_what_waits_in_the_gradient_of_the_weight_is_read_before_it_is_written(examples, options):
    classes = 83
    inputs = draw(torch.bfloat16, (examples, D), (classes, D), (classes,))
    y = torch.arange(examples, device=DEVICE) * 37 % classes
    C = linear_log_likelihood(inputs[0], inputs[1], y, inputs[2], out_dtype=torch.float32, **options)
    right, gradients = exact(inputs, y, **options)
    torch.testing.assert_close(C.double(), right, rtol=1e-5, atol=1e-5)
    for gradient, expected in zip(torch.autograd.grad(C, inputs), gradients, strict=True):
        assert (gradient - expected).norm() < torch.finfo(torch.bfloat16).eps * expected.norm()


def test_no_memory_is_taken_but_for_the_last_classes(monkeypatch):
    own, borrow = [], room.borrow

    def watched(gradient, first, *sizes):
        memory = [*borrow(gradient, first, *sizes)]
        if memory[0].untyped_storage().data_ptr() != gradient.untyped_storage().data_ptr():
            own.append(room.count_bytes(*sizes))
        return memory

    monkeypatch.setattr(gpu_passes, "borrow", watched)
    x, weight = draw(torch.bfloat16, (40, D), (203, D))
    linear_log_likelihood(x, weight, torch.arange(40, device=DEVICE)).backward()
    assert 0 < max(own) <= room.count_bytes(*gpu_passes.block_sizes(x, gpu_passes.FEWEST_CLASSES))


def test_gradients_in_float16_take_the_loss_scale_before_they_are_rounded():
    inputs, y = draw(torch.float16, (N, D), (K, D)), torch.arange(N, device=DEVICE)
    scale, options = 2.0**-20, {"reduction": "sum", "out_dtype": torch.float32}
    C = linear_log_likelihood(*inputs, y, token_weight=torch.full((N,), scale, device=DEVICE), **options)
    found = torch.autograd.grad(C, inputs, torch.tensor(1 / scale, device=DEVICE))
    _, gradients = exact(inputs, y, reduction="sum")
    for gradient, expected in zip(found, gradients, strict=True):
        assert (gradient - expected).norm() < torch.finfo(torch.float16).eps * expected.norm()


# The interpreter's NumPy warns of ∞ − ∞, which is computed and not used.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [torch.inf, -torch.inf], ids=str)
def test_an_infinite_bias_decides(value):
    x, weight, bias = draw(torch.bfloat16, (N, D), (K, D), (K,))
    with torch.no_grad():
        bias[5] = value
    y = torch.full((N,), 5 if value > 0 else 6, device=DEVICE)
    C = linear_log_likelihood(x, weight, y, bias, out_dtype=torch.float32)
    (by_bias,) = torch.autograd.grad(C, bias)
    kept = [i for i in range(K) if i != 5]
    expected = 0 if value > 0 else F.cross_entropy((x.double() @ weight.double().mT + bias)[:, kept], y - 1)
    torch.testing.assert_close(C.double(), torch.as_tensor(expected, device=DEVICE).double(), rtol=1e-5, atol=1e-6)
    assert by_bias.isfinite().all()
    assert by_bias[5] == 0


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_a_class_that_is_none_costs_nan(monkeypatch, reduction):
    x, weight = draw(torch.bfloat16, (N, D), (K, D))
    monkeypatch.setattr(targets, "check_classes", lambda *arguments: None)
    monkeypatch.setattr(targets, "values_can_be_read", lambda tensor: False)
    y = torch.arange(N, device=DEVICE)
    y[2], y[4] = K + 3, -1
    C = linear_log_likelihood(x, weight, y, reduction=reduction)
    assert C.isnan().nonzero().tolist() == ([[]] if reduction == "sum" else [[2], [4]])


def test_float64_keeps_its_digits():
    inputs, y = draw(torch.float64, (N, D), (K, D)), torch.arange(N, device=DEVICE)
    C = linear_log_likelihood(*inputs, y)
    right, _ = exact(inputs, y)
    torch.testing.assert_close(C, right, rtol=1e-14, atol=0)


def test_a_tile_of_few_examples_is_no_larger_than_others(monkeypatch):
    tiles, run = [], gpu.run
    monkeypatch.setattr(gpu_blocks, "MOST_CLASSES", 16)
    monkeypatch.setattr(gpu_blocks, "ELEMENTS", 1 << 20)
    monkeypatch.setattr(gpu, "run", lambda *words, tile, **more: tiles.append(tile) or run(*words, tile=tile, **more))
    x, weight = draw(torch.bfloat16, (1, D), (K, D))
    linear_softmax_statistics(x, weight).logsumexp.sum().backward()
    assert max(tiles) <= 16


def test_desired_outputs_are_supported(launches):
    inputs, y = draw(torch.bfloat16, (N, D), (K, D), (K,)), torch.rand(N, K).softmax(-1).to(DEVICE)
    x, weight, bias = inputs
    C = linear_log_likelihood(x, weight, y, bias, out_dtype=torch.float32)
    found = torch.autograd.grad(C, inputs)
    right, gradients = exact(inputs, y)
    assert {*launches} == BY_BLOCKS
    torch.testing.assert_close(C.double(), right, rtol=1e-5, atol=1e-5)
    for gradient, expected in zip(found, gradients, strict=True):
        assert (gradient - expected).norm() < torch.finfo(torch.bfloat16).eps * expected.norm()


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_statistics_and_their_gradients_are_float64s(softcap, launches):
    inputs, y = draw(torch.bfloat16, (N, D), (K, D), (K,)), (torch.arange(N, device=DEVICE) * 3) % K
    x, weight, bias = inputs
    numbers = linear_softmax_statistics(x, weight, y, bias, softcap=softcap, temperature=0.7, entropy=True)
    total = (numbers.log_prob + numbers.logsumexp.square() / 9 - 0.5 * numbers.entropy).sum()
    found = torch.autograd.grad(total, inputs)
    copies = [tensor.detach().double().requires_grad_() for tensor in inputs]
    s = scores(copies, 0.7, softcap)
    ln_a = s.log_softmax(-1)
    log_prob, entropy = ln_a.gather(-1, y.unsqueeze(-1)).squeeze(-1), -(ln_a.exp() * ln_a).sum(-1)
    expected = log_prob, s.logsumexp(-1), entropy
    right = torch.autograd.grad((log_prob + expected[1].square() / 9 - 0.5 * entropy).sum(), copies)
    assert {*launches} == BY_BLOCKS
    assert numbers.prediction.tolist() == s.argmax(-1).tolist()
    for number, value in zip(numbers[:3], expected, strict=True):
        torch.testing.assert_close(number.double(), value, rtol=1e-5, atol=1e-5)
    for gradient, value in zip(found, right, strict=True):
        assert (gradient - value).norm() < torch.finfo(torch.bfloat16).eps * value.norm()


@pytest.mark.parametrize("softcap", [None, 50.0])
def test_an_example_that_is_sure_and_right_keeps_the_digits_of_its_gradient(softcap):
    weight, bias = torch.zeros(K, D), torch.zeros(K)
    weight[0] = 2.5
    inputs = [t.to(DEVICE, torch.bfloat16).requires_grad_() for t in (torch.ones(1, D), weight, bias)]
    y = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    C = linear_log_likelihood(inputs[0], inputs[1], y, inputs[2], softcap=softcap, out_dtype=torch.float32)
    right, gradients = exact(inputs, y, softcap=softcap)
    torch.testing.assert_close(C.double(), right, rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.autograd.grad(C, inputs[2])[0].double(), gradients[2], rtol=2**-7, atol=0)
