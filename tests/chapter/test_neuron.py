"""Test the section's single neuron."""

import pytest
import torch

from ce_torch import CrossEntropyCost, QuadraticCost
from ce_torch.chapter.neuron import Lesson, epochs_to_output, learn, slopes

COSTS = [QuadraticCost(), CrossEntropyCost()]


@pytest.mark.parametrize(
    ("cost", "eta", "start", "end"),
    [
        (QuadraticCost(), 0.15, (0.6, 0.9), 0.09),
        (QuadraticCost(), 0.15, (2.0, 2.0), 0.20),
        (CrossEntropyCost(), 0.005, (0.6, 0.9), 0.42),
        (CrossEntropyCost(), 0.005, (2.0, 2.0), 0.78),
    ],
)
def test_the_neuron_ends_where_the_page_of_figures_says(cost, eta, start, end):
    assert learn(cost, *start, eta=eta).a[-1].item() == pytest.approx(end, abs=0.005)


@pytest.mark.parametrize("cost", COSTS)
def test_the_neuron_descends_the_gradient_that_autograd_derives(cost):
    lesson = learn(cost, 0.6, 0.9, eta=0.3, epochs=3, x=1.5, y=0.2)
    w, b = (torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (0.6, 0.9))
    y = torch.tensor([0.2], dtype=torch.float64)
    for epoch in range(4):
        C = cost(w * 1.5 + b, y)
        torch.testing.assert_close((lesson.w[epoch], lesson.b[epoch], lesson.C[epoch]), (w[0], b[0], C))
        slopes_of_both = torch.autograd.grad(C, (w, b))
        w, b = (p - 0.3 * slope for p, slope in zip((w, b), slopes_of_both, strict=True))


@pytest.mark.parametrize("cost", COSTS)
def test_many_neurons_learn_as_each_does_alone(cost):
    w, b = torch.tensor([0.6, 2.0, -1.0]), torch.tensor([[0.9], [2.0]])
    together = learn(cost, w, b, eta=0.15, epochs=20)
    assert together.a.shape == (21, 2, 3)
    alone = learn(cost, w[2], b[1, 0], eta=0.15, epochs=20)
    torch.testing.assert_close(Lesson(*(values[:, 1, 2] for values in together)), alone)


def test_epochs_until_an_output_are_counted_from_the_start():
    a = torch.tensor([[0.05, 0.9, 0.9], [0.04, 0.5, 0.9], [0.03, 0.09, 0.9]])
    assert epochs_to_output(Lesson(a, a, a, a, a, a), 0.1).tolist() == [0, 2, torch.inf]


def test_slopes_are_the_error_or_the_error_times_sigma_prime():
    z = torch.linspace(-5, 5, 11, dtype=torch.float64)
    a = torch.sigmoid(z)
    torch.testing.assert_close(slopes(CrossEntropyCost(), z), a)
    torch.testing.assert_close(slopes(QuadraticCost(), z), a * a * (1 - a))
