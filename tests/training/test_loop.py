"""Test mini-batch stochastic gradient descent: the step, the epoch, the break, the record."""

from itertools import chain

import pytest
import torch
from networks import assert_equal, examples, generator, new_training, new_training_of_many, train, weights
from torch import nn

from ce_torch import CrossEntropyCost, LogLikelihoodCost, QuadraticCost
from ce_torch.training.loop import Training, evaluate

COSTS = [QuadraticCost, CrossEntropyCost, LogLikelihoodCost]


def step_by_autograd(training, x, y, *, shrink):
    """Return the weights and biases after a step by the formula, with the gradients that autograd derives."""
    parameters = list(training.network.parameters())
    y = nn.functional.one_hot(y, 3).to(x.dtype)
    gradients = torch.autograd.grad(training.cost(training.network(x), y), parameters)
    factors = [shrink if parameter.ndim == 2 else 1 for parameter in parameters]
    return [
        f * parameter.detach() - training.lr * g for f, parameter, g in zip(factors, parameters, gradients, strict=True)
    ]


@pytest.mark.parametrize("lmbda", [0, 2])
@pytest.mark.parametrize("cost", COSTS)
def test_a_step_shrinks_the_weights_and_moves_all_against_the_gradient(cost, lmbda):
    training = new_training(cost(), n=8, batch_size=8, lmbda=lmbda)
    expected = step_by_autograd(training, training.x, training.y.argmax(-1), shrink=1 - 0.5 * lmbda / 8)
    train(training, 1)
    torch.testing.assert_close(weights(training), expected)


def test_each_mini_batch_is_a_step_of_its_own_mean_gradient():
    training = new_training(n=7, batch_size=3, lmbda=2)
    x, y = examples(1)
    # All examples are the same, so each of the three mini-batches, of 3, 3 and 1, has the mean gradient of one example.
    training = Training(
        training.network, training.cost, x.expand(7, 4), y.expand(7), lr=0.5, lmbda=2, batch_size=3, monitor={}
    )
    twin = new_training()
    for _ in range(3):
        for parameter, new in zip(twin.parameters, step_by_autograd(twin, x, y, shrink=1 - 0.5 * 2 / 7), strict=True):
            parameter.data = new
    train(training, 1)
    torch.testing.assert_close(weights(training), weights(twin))


class Witness(nn.Linear):
    """A layer that notes the first input of each example that it sees in training."""

    def __init__(self):
        super().__init__(1, 3)
        self.batches = []

    def forward(self, x):
        if torch.is_grad_enabled():
            self.batches.append(x[:, 0].int().tolist())
        return super().forward(x)


def batches_of_epochs(n, batch_size, epochs=1):
    """Return for each epoch the numbers of the examples in each mini-batch."""
    witness = Witness()
    x = torch.arange(float(n)).unsqueeze(1)
    training = Training(witness, CrossEntropyCost(), x, torch.zeros(n, dtype=torch.int64), lr=0, batch_size=batch_size)
    seen = []
    for _ in range(epochs):
        witness.batches.clear()
        train(training, len(training.history) + 1)
        seen.append(list(witness.batches))
    return seen


@pytest.mark.parametrize(("n", "batch_size"), [(40, 10), (47, 10), (103, 10), (101, 10), (5, 10), (47, 1)])
def test_every_example_is_used_once_an_epoch(n, batch_size):
    (batches,) = batches_of_epochs(n, batch_size)
    assert sorted(chain.from_iterable(batches)) == list(range(n))


@pytest.mark.parametrize(("n", "batch_size"), [(40, 10), (47, 10), (103, 10), (101, 10), (5, 10), (47, 1)])
def test_only_the_last_mini_batch_may_be_smaller(n, batch_size):
    (batches,) = batches_of_epochs(n, batch_size)
    rest = [n % batch_size] if n % batch_size else []
    assert [len(batch) for batch in batches] == [batch_size] * (n // batch_size) + rest


def test_every_epoch_has_a_shuffle_of_its_own():
    orders = {tuple(chain.from_iterable(batches)) for batches in batches_of_epochs(100, 10, epochs=3)}
    assert len(orders | {tuple(range(100))}) == 4


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    one, other = new_training(), new_training()
    train(one, 3)
    train(other, 3)
    assert_equal(weights(one), weights(other))


def test_another_seed_gives_another_shuffle():
    one, other = new_training(), new_training()
    other.generators[0].manual_seed(1)
    train(one, 1)
    train(other, 1)
    assert not torch.equal(weights(one)[0], weights(other)[0])


def test_pytorchs_global_generator_is_left_alone():
    before = torch.get_rng_state()
    train(new_training(), 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("new", [new_training, new_training_of_many])
def test_a_break_changes_nothing(new):
    unbroken, before, after = new(), new(), new(seed=7)
    train(unbroken, 4)
    train(before, 2)
    after.load_state_dict(before.state_dict())
    train(after, 4)
    assert_equal(weights(after), weights(unbroken))
    assert after.history == unbroken.history


def test_a_state_stays_as_it_was_when_training_goes_on():
    training = new_training()
    train(training, 1)
    state, expected = training.state_dict(), weights(training)
    train(training, 2)
    assert_equal(state["network"].values(), expected)
    assert len(state["history"]) == 1


def test_run_counts_the_epochs_done_before():
    training = new_training()
    assert [record["epoch"] for record in train(training, 2)] == [1, 2]
    assert [record["epoch"] for record in train(training, 5)] == [3, 4, 5]


@pytest.mark.parametrize("monitor", [[], ["test"], ["training", "validation", "test"]])
def test_the_history_has_what_monitor_names_and_only_that(monitor):
    training = new_training(monitor=monitor)
    train(training, 2)
    assert [set(record) for record in training.history] == [{"epoch", *monitor}] * 2


def test_a_record_is_what_evaluate_gives_after_its_epoch():
    training = new_training()
    for record in training.run(2):
        assert record["validation"] == evaluate(training.network, training.cost, *examples(50, seed=9))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_the_costs_reduction_does_not_matter_to_the_weights(reduction):
    training, mean = new_training(CrossEntropyCost(reduction=reduction), monitor=()), new_training(monitor=())
    train(training, 2)
    train(mean, 2)
    assert_equal(weights(training), weights(mean))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_the_costs_reduction_does_not_matter_to_the_history(reduction):
    training, mean = new_training(CrossEntropyCost(reduction=reduction)), new_training()
    train(training, 1)
    train(mean, 1)
    assert training.history[0]["validation"]["cost"] == pytest.approx(mean.history[0]["validation"]["cost"])


# More examples than are evaluated at once, with a last part of 7.
MANY = 20_007


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("n", [5, 10_000, MANY])
def test_evaluate_gives_the_mean_cost_of_all_examples(cost, n):
    z = torch.randn(n, 3, generator=generator(), dtype=torch.float64)
    z[10_000:] *= 9
    y = torch.arange(n) % 3
    assert evaluate(nn.Identity(), cost(), z, y)["cost"] == pytest.approx(cost()(z, y).item())


@pytest.mark.parametrize(("n", "correct"), [(4, 0), (4, 3), (4, 4), (MANY, 15_000)])
def test_evaluate_counts_the_examples_whose_largest_output_is_right(n, correct):
    y = torch.arange(n) % 3
    guesses = torch.where(torch.arange(n) < correct, y, (y + 1) % 3)
    record = evaluate(nn.Identity(), CrossEntropyCost(), nn.functional.one_hot(guesses, 3).float(), y)
    assert (record["correct"], record["examples"], record["accuracy"]) == (correct, n, correct / n)


@pytest.mark.parametrize(
    ("accuracies", "patience", "stops"),
    [
        ([0.1], 1, False),
        ([0.1, 0.2], 1, False),
        ([0.2, 0.1], 1, True),
        ([0.2, 0.2], 1, True),
        ([0.1, 0.2, 0.15, 0.2], 2, True),
        ([0.1, 0.2, 0.15, 0.2], 3, False),
        ([0.3, 0.1, 0.2], 2, True),
        ([0.3, 0.1, 0.2], None, False),
    ],
)
def test_early_stopping_waits_for_the_accuracy_to_rise(accuracies, patience, stops):
    training = new_training()
    history = [{"epoch": epoch, "validation": {"accuracy": a}} for epoch, a in enumerate(accuracies, start=1)]
    training.load_state_dict({**training.state_dict(), "history": history})
    assert (next(training.run(99, early_stopping=patience), None) is None) == stops


def test_a_chunk_of_an_epoch_holds_ten_mini_batches_at_most():
    training = new_training(n=23, batch_size=1)
    assert [len(examples) for examples in training.chunks()] == [10, 10, 3]


def test_one_network_has_one_learning_rate():
    with pytest.raises(ValueError, match=r"^lr must be a number for one network, got \[0\.1, 0\.5\]"):
        new_training(lr=[0.1, 0.5])


def test_early_stopping_does_not_outlast_the_epochs():
    assert len(train(new_training(lr=0), 2, early_stopping=5)) == 2


def test_early_stopping_ends_the_run():
    assert len(train(new_training(lr=0), 99, early_stopping=3)) == 4
