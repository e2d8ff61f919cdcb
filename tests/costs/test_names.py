"""Each cost has the chapter's name and the field's, and its docstring names PyTorch's own loss."""

import pytest
import torch
from torch.nn import functional as F

import ce_torch
from ce_torch import functional
from ce_torch.functional import cross_entropy, focal, linear_log_likelihood, log_likelihood, quadratic

FIELDS_NAMES = {
    "sigmoid_cross_entropy": cross_entropy,
    "softmax_cross_entropy": log_likelihood,
    "linear_softmax_cross_entropy": linear_log_likelihood,
    "sigmoid_focal_loss": focal,
}


@pytest.mark.parametrize("name", FIELDS_NAMES)
def test_the_fields_name_is_the_same_function(name):
    assert getattr(functional, name) is FIELDS_NAMES[name]


@pytest.mark.parametrize("name", functional.__all__)
def test_a_function_can_be_imported_from_the_package_too(name):
    assert getattr(ce_torch, name) is getattr(functional, name)
    assert name in ce_torch.__all__


@pytest.mark.parametrize(
    ("cost", "loss"),
    [
        (quadratic, "F.mse_loss"),
        (cross_entropy, "F.binary_cross_entropy_with_logits"),
        (log_likelihood, "F.cross_entropy"),
        (linear_log_likelihood, "F.cross_entropy(F.linear("),
    ],
)
def test_the_first_line_of_a_docstring_names_pytorchs_loss(cost, loss):
    assert loss in cost.__doc__.splitlines()[0]


def test_pytorchs_cross_entropy_is_not_the_chapters():
    z, y = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0])
    assert log_likelihood(z, y) == pytest.approx(F.cross_entropy(z, y).item())
    assert cross_entropy(z, y) == pytest.approx(
        3 * F.binary_cross_entropy_with_logits(z, F.one_hot(y, 3).float()).item()
    )
    assert "not `F.cross_entropy`" in cross_entropy.__doc__
