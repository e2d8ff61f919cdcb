"""Test the chapter's network: its layers, its first weights, its errors."""

import pytest
import torch

from ce_torch.training.network import MLP, MLPs

SIZES = [400, 300, 200]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def weights_and_biases(network):
    parameters = list(network.parameters())
    return parameters[::2], parameters[1::2]


@pytest.mark.parametrize("sizes", [[4, 3], [4, 5, 3], [4, 6, 5, 3]])
@pytest.mark.parametrize("batch", [(), (7,), (0,), (2, 7)])
def test_x_becomes_one_output_for_each_neuron_of_the_last_layer(sizes, batch):
    assert MLP(sizes)(torch.zeros(*batch, 4)).shape == (*batch, 3)


def test_each_layer_weighs_the_outputs_of_the_one_before():
    weights, biases = weights_and_biases(MLP([4, 6, 5, 3]))
    assert [tuple(w.shape) for w in weights] == [(6, 4), (5, 6), (3, 5)]
    assert [tuple(b.shape) for b in biases] == [(6,), (5,), (3,)]


def test_hidden_layers_are_sigmoid_and_the_last_gives_weighted_inputs():
    network = MLP([4, 6, 5, 3], generator=generator())
    a = x = torch.randn(7, 4, generator=generator(1))
    for w, b in zip(*weights_and_biases(network), strict=True):
        z = a @ w.T + b
        a = 1 / (1 + torch.exp(-z))
    torch.testing.assert_close(network(x), z)


def test_a_slice_of_a_network_gives_the_outputs_of_a_hidden_layer():
    network, x = MLP([4, 6, 5, 3], generator=generator()), torch.randn(7, 4, generator=generator(1))
    torch.testing.assert_close(network[:2](x), torch.sigmoid(network[0](x)))


@pytest.mark.parametrize(("init", "spreads"), [("large", [1, 1]), ("scaled", [400**-0.5, 300**-0.5])])
def test_weights_are_normal_and_spread_as_init_says(init, spreads):
    weights, _ = weights_and_biases(MLP(SIZES, init=init, generator=generator()))
    for w, spread in zip(weights, spreads, strict=True):
        assert_normal(w / spread)


@pytest.mark.parametrize("init", ["large", "scaled"])
def test_biases_are_normal_whatever_init(init):
    _, biases = weights_and_biases(MLP([1, 20_000], init=init, generator=generator()))
    assert_normal(biases[0])


def assert_normal(sample):
    """Assert that a sample is from N(0, 1), by mean, spread and the part within ±1, which other distributions lack."""
    sample = sample.detach().flatten()
    assert sample.mean().item() == pytest.approx(0, abs=0.03)
    assert sample.std().item() == pytest.approx(1, abs=0.03)
    assert (sample.abs() < 1).float().mean().item() == pytest.approx(0.6827, abs=0.02)


def test_init_is_scaled_by_default():
    default, scaled = (MLP([4, 3], generator=generator(), **options) for options in ({}, {"init": "scaled"}))
    assert torch.equal(default[0].weight, scaled[0].weight)


def test_the_same_seed_gives_the_same_weights():
    one, other = (MLP([4, 5, 3], generator=generator(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_without_a_generator_the_numbers_come_from_pytorchs_own():
    one, other = (MLP([4, 5, 3], generator=torch.manual_seed(3)), torch.manual_seed(3) and MLP([4, 5, 3]))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_with_a_generator_pytorchs_own_is_left_alone():
    before = torch.get_rng_state()
    MLP([4, 5, 3], generator=generator())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sizes", [[], [4], [4, 0], [0, 3], [4, -1, 3]])
def test_sizes_that_make_no_network_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes must be two or more positive numbers"):
        MLP(sizes)


@pytest.mark.parametrize("init", ["small", "", None])
def test_an_unknown_init_is_refused(init):
    with pytest.raises(ValueError, match='init must be "large" or "scaled"'):
        MLP([4, 3], init=init)


def networks_alone_and_together(networks=3):
    alone = [MLP([4, 6, 5, 3], init="large", generator=generator(seed)) for seed in range(networks)]
    return alone, MLPs([4, 6, 5, 3], init="large", generators=[generator(seed) for seed in range(networks)])


def test_networks_computed_at_once_are_those_computed_alone_if_they_share_x():
    alone, together = networks_alone_and_together()
    x = torch.randn(7, 4, generator=generator(9))
    torch.testing.assert_close(together(x), torch.stack([network(x) for network in alone]))


def test_networks_computed_at_once_are_those_computed_alone_if_each_has_its_own_x():
    alone, together = networks_alone_and_together()
    x = torch.randn(3, 7, 4, generator=generator(9))
    torch.testing.assert_close(
        together(x), torch.stack([network(part) for network, part in zip(alone, x, strict=True)])
    )


def test_a_network_has_a_row_of_every_parameter():
    alone, together = networks_alone_and_together()
    for name, parameter in together.named_parameters():
        assert torch.equal(parameter[1], alone[1].get_parameter(name))


def test_without_a_generator_there_are_no_networks():
    with pytest.raises(ValueError, match="generators must hold one generator for each network, got none"):
        MLPs([4, 3], generators=[])
