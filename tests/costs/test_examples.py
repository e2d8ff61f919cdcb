"""The examples in the docstrings say what happens."""

import doctest

import pytest
import torch

import ce_torch
from ce_torch import network
from ce_torch.costs import cross_entropy, log_likelihood, quadratic


@pytest.mark.parametrize(
    "module", [cross_entropy, log_likelihood, quadratic, network], ids=lambda module: module.__name__
)
def test_examples_in_docstrings(module):
    result = doctest.testmod(module, extraglobs=vars(ce_torch) | {"torch": torch})
    assert result.attempted > 0
    assert result.failed == 0
