"""Half precision: a cost and its δ are computed in float32, and rounded once. PyTorch gives the values in float64."""

import pytest
import torch
from evaluation import cost_and_delta
from torch import Tensor
from torch.nn import functional as F

from ce_torch.functional import cross_entropy, log_likelihood, quadratic

pytestmark = pytest.mark.every_backend


def pytorch_cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(z, y, reduction="none").sum(-1)


def pytorch_quadratic(z: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(z.sigmoid(), y, reduction="none").sum(-1) / 2


def pytorch_log_likelihood(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y, reduction="none")


COSTS = {
    "cross-entropy": (cross_entropy, pytorch_cross_entropy),
    "quadratic": (quadratic, pytorch_quadratic),
    "log-likelihood of a class": (log_likelihood, pytorch_log_likelihood),
    "log-likelihood of desired outputs": (log_likelihood, pytorch_log_likelihood),
}


def examples(name: str, dtype: torch.dtype, largest: float) -> tuple[Tensor, Tensor]:
    """Return z and y with so few outputs that no cost exceeds float16's largest number, 65504."""
    generator = torch.Generator().manual_seed(0)
    z = (torch.rand(256, 6, generator=generator) * 2 - 1) * largest
    if name == "log-likelihood of a class":
        return z.to(dtype), torch.randint(6, (256,), generator=generator)
    y = torch.rand(256, 6, generator=generator)
    return z.to(dtype), (y / y.sum(-1, keepdim=True)).to(dtype)


@pytest.mark.parametrize("largest", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", COSTS)
def test_cost_and_delta_in_half_precision_are_those_in_float64_rounded_once(name, dtype, largest) -> None:
    ours, theirs = COSTS[name]
    z, y = examples(name, dtype, largest)
    exact = cost_and_delta(theirs, z.double(), y.double() if y.is_floating_point() else y, upstream=1)
    found = cost_and_delta(lambda z, y: ours(z, y, reduction="none"), z, y, upstream=1)
    for tensor, right in zip(found, exact, strict=True):
        # Half of a unit in the last place, and a little more for the arithmetic in float32.
        torch.testing.assert_close(tensor.double(), right, rtol=0.51 * torch.finfo(dtype).eps, atol=1e-6)
