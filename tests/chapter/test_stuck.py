"""Test what is measured of output neurons that get stuck, by examples that are counted by hand."""

import pytest
import torch

from ce_torch import CrossEntropyCost, QuadraticCost
from ce_torch.chapter.stuck import cases, look_at_wrong, scale_output_layer
from ce_torch.training import settings
from ce_torch.training.runs import new_training

# Two neurons, ten examples of class 0 and ten of class 1; two networks. In the first, neuron 0 is saturated at 0 for
# nine of its ten examples; in the second, for eight.
Y = torch.tensor([0] * 10 + [1] * 10)
Z = torch.zeros(2, 20, 2, dtype=torch.float64)
Z[0, :9, 0] = Z[1, :8, 0] = -6.0
SIGMA = 1 / (1 + torch.exp(torch.tensor(6.0, dtype=torch.float64)))


def test_a_neuron_is_stuck_if_it_is_saturated_at_0_for_nine_tenths_of_its_own_digit():
    assert look_at_wrong(Z, QuadraticCost(), Y)["stuck"] == [1, 0]


def test_a_neuron_that_is_saturated_at_0_for_other_digits_is_not_stuck():
    z = torch.full((2, 20, 2), -6.0)
    z[:, :10, 0] = z[:, 10:, 1] = 6.0
    found = look_at_wrong(z, QuadraticCost(), Y)
    assert found == {"stuck": [0, 0], "delta": [None, None], "error": [None, None]}


@pytest.mark.parametrize(
    ("cost", "delta"), [(QuadraticCost(), (1 - SIGMA) * SIGMA * (1 - SIGMA)), (CrossEntropyCost(), 1 - SIGMA)]
)
def test_delta_and_error_are_means_over_the_outputs_that_are_saturated_wrong(cost, delta):
    found = look_at_wrong(Z, cost, Y)
    assert found["delta"] == pytest.approx([delta.item()] * 2, rel=1e-5)
    assert found["error"] == pytest.approx([1 - SIGMA.item()] * 2, rel=1e-5)


def test_only_the_weights_of_the_output_layer_are_scaled(slice_of_mnist):
    run = settings.DEFAULTS | {"lr": 1.0, "runs": 2, "hidden": [16]}
    before, after = (new_training(run, slice_of_mnist, ()) for _ in range(2))
    scale_output_layer(after)
    for name, parameter in after.network.named_parameters():
        factor = 1 / 4 if name == "2.weight" else 1
        torch.testing.assert_close(parameter, factor * before.network.get_parameter(name))


def test_cases_of_one_size_are_not_repeated():
    assert len(set(cases(30, 30))) == len(cases(30, 30)) == 7
    assert len(cases(30, 100)) == 8
