"""Neurons in any dimension of z, as the classes of images in PyTorch: `dim`."""

import pytest
import torch
from evaluation import cost_and_delta
from torch.nn import functional as F

from ce_torch import LogLikelihoodCost, explain
from ce_torch.costs._registry import COSTS
from ce_torch.functional import cross_entropy, log_likelihood

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def images(request: pytest.FixtureRequest) -> torch.Tensor:
    """z of shape (N, K, H, W), the classes second."""
    z = torch.randn(2, 5, 7, 20, generator=torch.Generator().manual_seed(0))
    return z.contiguous(memory_format=request.param)


@pytest.fixture
def classes() -> torch.Tensor:
    return torch.randint(5, (2, 7, 20), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_images_cost_what_they_cost_in_pytorch(images, classes, reduction):
    ours = cost_and_delta(log_likelihood, images, classes, dim=1, reduction=reduction)
    torch.testing.assert_close(ours, cost_and_delta(F.cross_entropy, images, classes, reduction=reduction))


@pytest.mark.parametrize("dim", [0, 1, 2, -2])
@pytest.mark.parametrize("module", COSTS.values(), ids=COSTS)
def test_any_dimension_may_be_that_of_the_neurons(module, images, dim):
    y = torch.rand(images.shape, generator=torch.Generator().manual_seed(2))
    C, delta = cost_and_delta(module(dim=dim, reduction="none"), images, y)
    C_last, delta_last = cost_and_delta(module(reduction="none"), images.movedim(dim, -1), y.movedim(dim, -1))
    torch.testing.assert_close(C, C_last)
    torch.testing.assert_close(delta, delta_last.movedim(-1, dim))


def test_weights_broadcast_to_z_as_it_is(images):
    y, weight = images.sigmoid(), torch.arange(5.0).view(5, 1, 1)
    ours = cross_entropy(images, y, weight=weight, dim=1, reduction="sum")
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(images, y, weight, reduction="sum"))


@pytest.mark.every_backend
@pytest.mark.parametrize("module", COSTS.values(), ids=COSTS)
def test_gradients_lie_in_memory_as_z_does(module, images):
    z, y = images.requires_grad_(), torch.rand(images.shape)
    (delta,) = torch.autograd.grad(module(dim=1)(z, y), z, create_graph=True)
    (second,) = torch.autograd.grad(delta.square().sum(), z)
    assert delta.stride() == second.stride() == z.stride()


def test_the_gradient_of_a_compiled_cost_lies_in_memory_as_z_does(images, classes):
    z = images.requires_grad_()
    torch.compile(log_likelihood, fullgraph=True, backend="aot_eager")(z, classes, dim=1).backward()
    assert z.grad.stride() == z.stride()


@pytest.mark.parametrize("target", ["classes", "outputs"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_cost_of_images_takes_no_memory_beyond_its_gradient(layout, dtype, target, peak_memory, needs_kernels):
    z = torch.randn(2, 21, 40, 40, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    y = torch.randint(21, (2, 40, 40)) if target == "classes" else torch.rand_like(z)
    assert peak_memory(lambda: torch.autograd.grad(log_likelihood(z, y, dim=1), z)) < z.nbytes + 100


def test_a_compiled_cost_of_images_takes_no_memory_beyond_its_gradient(peak_memory, needs_kernels):
    z, y = torch.randn(2, 21, 40, 40, requires_grad=True), torch.randint(21, (2, 40, 40))
    cost = torch.compile(log_likelihood, fullgraph=True, backend="aot_eager")
    cost(z, y, dim=1).backward()
    z.grad = None
    assert peak_memory(lambda: torch.autograd.grad(cost(z, y, dim=1), z)) < z.nbytes + 100


@pytest.mark.every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("columns", [5, 80])
def test_the_gradient_of_a_void_pixel_is_zero_whatever_its_z_are(columns, value, dtype):
    z, y = torch.randn(2, columns, 6, 6, dtype=dtype), torch.randint(columns, (2, 6, 6))
    z[:, :, ::2, 1], y[:, ::2, 1] = value, 255
    _, delta = cost_and_delta(log_likelihood, z, y, dim=1, ignore_index=255)
    assert (delta[:, :, ::2, 1] == 0).all()
    assert delta.isfinite().all()


@pytest.mark.every_backend
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_a_segmentation_with_void_pixels_and_class_weights_is_pytorchs(images, classes, dtype):
    classes[:, :3] = 255
    options = {"ignore_index": 255, "weight": torch.tensor([0.5, 1.0, 2.0, 0.0, 1.5]), "label_smoothing": 0.1}
    ours = cost_and_delta(log_likelihood, images, classes.to(dtype), dim=1, **options)
    torch.testing.assert_close(ours, cost_and_delta(F.cross_entropy, images, classes, **options))


@pytest.mark.every_backend
def test_the_modules_outputs_and_delta_are_shaped_like_z(images, classes):
    cost = LogLikelihoodCost(dim=1)
    torch.testing.assert_close(cost.activation(images), images.softmax(1))
    y = F.one_hot(classes, 5).movedim(-1, 1)
    torch.testing.assert_close(cost.delta(images, classes), images.softmax(1) - y)


def test_the_kernels_run_on_images_as_they_are(images, classes, needs_kernels):
    assert explain(log_likelihood, images, classes, dim=1).name == "cpp"
    assert explain(log_likelihood, images, classes, dim=1, ignore_index=255, weight=torch.rand(5)).name == "cpp"
    assert explain(cross_entropy, images, images.sigmoid(), dim=1, mask=images > 0).name == "cpp"


def test_a_dimension_that_z_does_not_have_is_refused(images, classes):
    with pytest.raises(ValueError, match=r"dim must be a dimension of z, of shape \(2, 5, 7, 20\), got 4"):
        log_likelihood(images, classes, dim=4)


def test_who_passes_images_without_dim_is_told(images, classes):
    with pytest.raises(ValueError, match=r"as in F.cross_entropy, pass dim=1"):
        log_likelihood(images, classes)


@pytest.mark.parametrize("shape", [(2, 5, 5, 5), (2, 3, 3, 3, 3)])
@pytest.mark.parametrize("module", COSTS.values(), ids=COSTS)
def test_where_shapes_allow_both_readings_dim_must_say_which(module, shape):
    z, y = torch.randn(shape), torch.randint(shape[-1], shape[:-1])
    with pytest.raises(ValueError, match=r"dim must say which .* pass dim=1 if they come second, .*, or dim=-1"):
        module()(z, y)
    torch.testing.assert_close(module(dim=-1)(z, y), module(dim=1)(z.movedim(-1, 1), y))


def test_texts_as_long_as_the_vocabulary_is_large_have_their_classes_last():
    z, y = torch.randn(2, 5, 5), torch.randint(5, (2, 5))
    torch.testing.assert_close(log_likelihood(z, y), F.cross_entropy(z.mT, y))
