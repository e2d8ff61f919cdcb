"""Test which output neurons count as saturated, and as saturated at the wrong end."""

import pytest
import torch
from torch import nn

from ce_torch import CrossEntropyCost, LogLikelihoodCost
from ce_torch.training.loop import evaluate
from ce_torch.training.network import MLPs
from ce_torch.training.saturation import is_saturated, is_saturated_wrong

# Two examples of the classes 0 and 2: weighted inputs of three neurons.
Z = torch.tensor([[-5.0, 5.0, -5.0], [0.0, -3.9, 4.1]])
Y = torch.tensor([0, 2])


@pytest.mark.parametrize(("z", "saturated"), [(-4.1, True), (-3.9, False), (0.0, False), (3.9, False), (4.1, True)])
def test_a_neuron_is_saturated_beyond_a_z_of_4(z, saturated):
    assert is_saturated(torch.tensor(z).sigmoid()) == saturated


def test_a_saturated_neuron_is_wrong_at_the_other_end():
    assert is_saturated_wrong(Z.sigmoid(), Y).tolist() == [[True, True, False], [False, False, False]]


@pytest.mark.parametrize("examples", [1, 3_000])  # at once, and in parts
def test_evaluate_gives_the_mean_number_of_neurons_over_examples(examples):
    scores = evaluate(nn.Identity(), CrossEntropyCost(), Z.repeat(examples, 1), Y.repeat(examples))
    assert (scores["saturated"], scores["saturated_wrong"]) == (2.0, 1.0)


def test_softmax_outputs_are_saturated_as_near_to_0_or_1():
    z = torch.tensor([[0.0, 3.9], [0.0, 4.1]])  # two outputs of softmax are σ(z₁ − z₂) and σ(z₂ − z₁)
    scores = evaluate(nn.Identity(), LogLikelihoodCost(), z, torch.tensor([0, 0]))
    assert (scores["saturated"], scores["saturated_wrong"]) == (1.0, 1.0)


def test_many_networks_are_counted_one_by_one():
    networks = MLPs([4, 3], init="large", generators=[torch.Generator().manual_seed(seed) for seed in range(5)])
    x, y = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(9)), torch.arange(50) % 3
    scores = evaluate(networks, CrossEntropyCost(), x, y)
    for number, z in enumerate(networks(x).detach()):
        alone = evaluate(nn.Identity(), CrossEntropyCost(), z, y)
        for measure in ("saturated", "saturated_wrong"):
            assert scores[measure][number] == pytest.approx(alone[measure])
    assert len(set(scores["saturated"])) > 1
