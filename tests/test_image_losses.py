"""The calls in `docs/segmentation.md` are the losses of timm and torchvision, with their gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from ce_torch import cross_entropy, focal, log_likelihood

timm_loss = pytest.importorskip("timm.loss", reason="timm is not installed")

K, S = 10, 0.1
torch.manual_seed(0)
y, weight, pos_weight = torch.randint(K, (16,)), torch.rand(K), 3 * torch.rand(K)
hot = F.one_hot(y, K).float()
t = 0.7 * hot + 0.3 * hot.roll(1, 0)  # as mixup makes them
images, pixels = torch.randn(2, K, 6, 5), torch.randint(K, (2, 6, 5))
pixels[:, :2] = 255
binary = timm_loss.BinaryCrossEntropy

LOSSES = {
    "label smoothing": (
        lambda z: log_likelihood(z, y, label_smoothing=S),
        lambda z: timm_loss.LabelSmoothingCrossEntropy(S)(z, y),
    ),
    "soft targets": (lambda z: log_likelihood(z, t), lambda z: timm_loss.SoftTargetCrossEntropy()(z, t)),
    "binary, classes": (
        lambda z: cross_entropy(z, y, reduction="element_mean"),
        lambda z: binary(0.0)(z, y),
    ),
    "binary, smoothed classes": (
        lambda z: cross_entropy(z, (1 - S) * hot + S / K, reduction="element_mean"),
        lambda z: binary(S)(z, y),
    ),
    "binary, mixed": (lambda z: cross_entropy(z, t, reduction="element_mean"), lambda z: binary()(z, t)),
    "binary, sum of classes": (lambda z: cross_entropy(z, t), lambda z: binary(sum_classes=True)(z, t)),
    "binary, weights": (
        lambda z: cross_entropy(z, t, weight=weight, pos_weight=pos_weight, reduction="element_mean"),
        lambda z: binary(weight=weight, pos_weight=pos_weight)(z, t),
    ),
    "binary, threshold": (
        lambda z: cross_entropy(z, (t > 0.5).float(), reduction="element_mean"),
        lambda z: binary(target_threshold=0.5)(z, t),
    ),
    "binary, smoothed desired outputs": (
        lambda z: cross_entropy(z, (1 - S) * t + S / 2, reduction="element_mean"),
        lambda z: binary(S, smooth_dense=True)(z, t),
    ),
    "cross-entropy, mixed": (
        lambda z: log_likelihood(z, t, label_smoothing=S),
        lambda z: nn.CrossEntropyLoss(label_smoothing=S)(z, t),
    ),
    "focal, mean": (
        lambda z: focal(z, t, reduction="element_mean"),
        lambda z: sigmoid_focal_loss(z, t, reduction="mean"),
    ),
    "focal, sum": (lambda z: focal(z, t, reduction="sum"), lambda z: sigmoid_focal_loss(z, t, reduction="sum")),
}


def cost_and_gradient(loss, z):
    z = z.clone().requires_grad_()
    C = loss(z)
    return C.detach(), torch.autograd.grad(C, z)[0]


@pytest.mark.parametrize(("ours", "theirs"), LOSSES.values(), ids=LOSSES)
def test_a_call_is_the_loss_that_the_page_maps_to_it(ours, theirs):
    z = torch.randn(16, K)
    torch.testing.assert_close(cost_and_gradient(ours, z), cost_and_gradient(theirs, z))


def test_a_segmentation_is_the_loss_of_torchvisions_script():
    ours = cost_and_gradient(lambda z: log_likelihood(z, pixels, ignore_index=255, dim=1), images)
    torch.testing.assert_close(ours, cost_and_gradient(lambda z: F.cross_entropy(z, pixels, ignore_index=255), images))
