"""Test the softmax layer that the notebook shows."""

import pytest
import torch

from ce_torch.chapter.softmax import layer

Z = torch.tensor([2.5, -1.0, 3.2, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.1, 1, 10])
def test_the_slopes_are_those_of_the_formula(temperature):
    a, slopes = layer(Z, temperature)
    torch.testing.assert_close(slopes, (a.diag() - a.outer(a)) / temperature)


def test_a_weighted_input_raises_its_own_output_and_lowers_the_others():
    slopes = layer(Z).slopes
    assert ((slopes > 0) == torch.eye(4, dtype=torch.bool)).all()
    assert (slopes != 0).all()
