"""Test that gradient descent trains many networks at once as it trains each of them alone."""

import pytest
import torch
from networks import assert_equal, generator, new_training, new_training_of_many, train, weights

from ce_torch import CrossEntropyCost
from ce_torch.training.loop import Training
from ce_torch.training.network import MLPs


@pytest.mark.parametrize("lmbda", [0, 2])
def test_each_of_many_networks_is_trained_as_if_alone(lmbda):
    together = new_training_of_many(lmbda=lmbda)
    history = train(together, 2)
    for k in range(3):
        alone = new_training(seed=k, lmbda=lmbda)
        scores = [record["validation"] for record in train(alone, 2)]
        torch.testing.assert_close([parameter[k] for parameter in weights(together)], weights(alone))
        for measure in ("cost", "accuracy", "correct"):
            actual = [record["validation"][measure][k] for record in history]
            torch.testing.assert_close(actual, [score[measure] for score in scores])


def test_each_of_many_networks_stops_early_as_if_alone():
    together = new_training_of_many(networks=8)
    train(together, 20, early_stopping=2)
    alone = [new_training(seed=k) for k in range(8)]
    epochs = [len(train(training, 20, early_stopping=2)) for training in alone]
    assert len(together.history) == max(epochs) > min(epochs)
    for k, training in enumerate(alone):
        torch.testing.assert_close([parameter[k] for parameter in weights(together)], weights(training))


def test_each_of_many_networks_has_its_own_learning_rate_and_regularization():
    together = new_training_of_many(lr=[0.1, 0.5, 2.0], lmbda=[0, 3, 1])
    train(together, 2)
    for k, (lr, lmbda) in enumerate([(0.1, 0), (0.5, 3), (2.0, 1)]):
        alone = new_training(seed=k, lr=lr, lmbda=lmbda)
        train(alone, 2)
        torch.testing.assert_close([parameter[k] for parameter in weights(together)], weights(alone))


@pytest.mark.parametrize("lmbda", [pytest.param(0, marks=pytest.mark.slow), [0, 2, 4]])
def test_many_networks_train_the_same_compiled_and_eager(lmbda):
    eager, compiled = (new_training_of_many(lmbda=lmbda, compile=compile) for compile in (False, True))
    train(eager, 2)
    train(compiled, 2)
    torch.testing.assert_close(weights(compiled), weights(eager))


def test_many_networks_make_no_copies_of_the_data(peak_memory):
    x, y = torch.rand(5_000, 400), torch.zeros(5_000, dtype=torch.int64)
    generators = [generator(seed) for seed in range(8)]
    networks = MLPs([400, 3, 3], generators=generators)
    training = Training(networks, CrossEntropyCost(), x, y, lr=0.5, batch_size=25, generator=generators)
    assert peak_memory(training.train_one_epoch) < x.nbytes / 2


def test_a_network_that_diverges_disturbs_no_other():
    disturbed, undisturbed = new_training_of_many(), new_training_of_many()
    with torch.no_grad():
        for parameter in disturbed.parameters:
            parameter[1] = torch.nan
    train(disturbed, 2)
    train(undisturbed, 2)
    assert_equal([p[::2] for p in weights(disturbed)], [p[::2] for p in weights(undisturbed)])
    assert all(p[1].isnan().all() for p in weights(disturbed))
