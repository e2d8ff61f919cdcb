"""Half precision: against float64, no error of a cost or of its δ is larger than that of PyTorch's own loss."""

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
    """Few enough outputs that no cost is beyond float16's largest number, 65504."""
    generator = torch.Generator().manual_seed(0)
    z = (torch.rand(256, 6, generator=generator) * 2 - 1) * largest
    if name == "log-likelihood of a class":
        return z.to(dtype), torch.randint(6, (256,), generator=generator)
    y = torch.rand(256, 6, generator=generator)
    return z.to(dtype), (y / y.sum(-1, keepdim=True)).to(dtype)


@pytest.mark.parametrize("largest", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", COSTS)
def test_no_error_is_larger_than_pytorchs_own(name: str, dtype: torch.dtype, largest: float) -> None:
    ours, theirs = COSTS[name]
    z, y = examples(name, dtype, largest)
    exact = cost_and_delta(theirs, z.double(), y.double() if y.is_floating_point() else y, upstream=1)
    our_errors = errors(cost_and_delta(lambda z, y: ours(z, y, reduction="none"), z, y, upstream=1), exact)
    their_errors = errors(cost_and_delta(theirs, z, y, upstream=1), exact)
    assert all(our <= their for our, their in zip(our_errors, their_errors, strict=True)), (our_errors, their_errors)


def errors(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> list[float]:
    return [(a.double() - b).abs().max().item() for a, b in zip(found, exact, strict=True)]
