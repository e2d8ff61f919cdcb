"""Test the pictures of a run: the numbers behind them are the run's, and the network's own."""

import math

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from ce_torch.chapter.curves import figure_of_grid, figure_of_run
from ce_torch.chapter.digits import load_test_images, load_trained, most_wrong
from ce_torch.chapter.drawing import COLORS
from ce_torch.chapter.run_pictures import (
    Run,
    best_network,
    best_run,
    figure_of_saturation,
    figure_of_surprises,
    figure_of_weights,
    shape_of_mosaic,
)
from ce_torch.training import settings

SETTINGS = settings.DEFAULTS | {"lr": 0.5}


def scores(accuracy, saturated=9.0, wrong=0.1, cost=0.5):
    return {"cost": cost, "accuracy": accuracy, "saturated": saturated, "saturated_wrong": wrong}


def history(*scores_of_epochs):
    names = ("training", "validation", "test")
    return [{"epoch": epoch, **dict.fromkeys(names, score)} for epoch, score in enumerate(scores_of_epochs, 1)]


def texts(figure):
    return [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "cross-entropy, 30 hidden neurons, η = 0.5, seed 0"),
        ({"cost": "ll", "hidden": [40, 20], "seed": 3}, "log-likelihood, 40, 20 hidden neurons, η = 0.5, seed 3"),
        ({"runs": 20, "lmbda": 5.0}, "cross-entropy, 30 hidden neurons, η = 0.5, λ = 5, 20 runs from seed 0"),
        ({"init": "scaled"}, "cross-entropy, 30 hidden neurons, η = 0.5, init scaled, seed 0"),
    ],
)
def test_a_picture_says_which_run_it_shows(changes, expected):
    figure = figure_of_saturation([Run(SETTINGS | changes, history(scores(0.9)))])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [expected]


def test_accuracies_are_percents_and_every_panel_has_a_title():
    figure = figure_of_run(history(scores(0.9123), scores(0.95)), "a run")
    assert texts(figure) == ["a run", "Cost C", "Accuracy"]
    cost_axes, accuracy_axes = figure.axes
    assert accuracy_axes.get_ylabel() == "accuracy, %"
    np.testing.assert_allclose(accuracy_axes.lines[0].get_ydata(), [91.23, 95])
    np.testing.assert_allclose(cost_axes.lines[0].get_ydata(), [0.5, 0.5])


def test_the_accuracies_of_a_grid_are_percents():
    record = {"epoch": 7, "validation": {"cost": [1.0, 1.0], "accuracy": [0.8, 0.9]}}
    (axes,) = figure_of_grid(record, {"lr": [0.1, 0.5], "lmbda": 0.0, "runs": 1}).axes
    assert (axes.get_title(), axes.get_ylabel()) == ("After epoch 7", "accuracy on validation data, %")
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [80, 90])


def test_saturated_neurons_are_counted_over_the_epochs():
    left, right = figure_of_saturation([Run(SETTINGS, history(scores(0.9, 8.5, 0.12), scores(0.9, 9.25, 0.03)))]).axes
    for axes, expected in ((left, [8.5, 9.25]), (right, [12, 3])):  # the wrong ones in 100 examples
        np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, expected[0]], [2, expected[1]]])


def test_the_range_of_many_networks_is_drawn():
    many = {name: [value, 2 * value] for name, value in scores(0.4, 2.0, 0.1).items()}
    axes = figure_of_saturation([Run(SETTINGS, history(many, many))]).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [3, 3])
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == (2, 4)


def test_each_cost_has_its_colour_and_a_second_run_of_it_a_broken_line():
    runs = [Run(SETTINGS | {"cost": cost}, history(scores(0.9))) for cost in ("quadratic", "ce", "ce", "ll", "focal")]
    lines = figure_of_saturation(runs).axes[0].lines
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--", "-", "-"]
    assert [line.get_color() for line in lines[:3]] == [
        COLORS[cost] for cost in ("quadratic", "cross-entropy", "cross-entropy")
    ]
    assert len({to_hex(line.get_color()) for line in lines}) == 4


def test_epochs_of_an_older_program_which_counted_none_are_left_out():
    old = {"cost": 0.5, "accuracy": 0.9}
    axes = figure_of_saturation([Run(SETTINGS, history(old, scores(0.9, 8.0), scores(0.9, 9.0)))]).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[2, 8], [3, 9]])


@pytest.fixture(scope="module")
def surprises():
    """The network of the cross-entropy, and the axes of images and of outputs of its surprises."""
    trained = load_trained("ce")
    figure = figure_of_surprises(most_wrong(trained, *load_test_images(), 20), SETTINGS)
    return trained, [axes for axes in figure.axes if axes.images], [axes for axes in figure.axes if axes.patches]


def test_the_twenty_most_surprising_digits_have_their_a_and_c(surprises):
    trained, images, _ = surprises
    x, y = load_test_images()
    with torch.no_grad():
        a = 1 / (1 + torch.exp(-trained.network(x).double()))
    desired = torch.eye(10)[y]
    C = -(desired * a.log() + (1 - desired) * (1 - a).log()).sum(1)
    expected = [
        f"no. {number}: {y[number]}, taken for {a[number].argmax()}\n"
        f"a = {a[number, y[number]]:.1g}, C = {C[number]:.2f}"
        for number in C.argsort(descending=True)[:20].tolist()
    ]
    assert [axes.get_title() for axes in images] == expected


def test_a_surprising_digit_is_shown_with_its_outputs(surprises):
    trained, images, outputs = surprises
    number = int(images[3].get_title().split()[1].rstrip(":"))
    x = load_test_images().x[number]
    np.testing.assert_array_equal(images[3].images[0].get_array(), x.view(28, 28).numpy())
    with torch.no_grad():
        a = trained.network(x).sigmoid()
    np.testing.assert_allclose([bar.get_height() for bar in outputs[3].patches], a, atol=1e-6)


@pytest.mark.parametrize(("neurons", "shown"), [(1, 1), (30, 30), (101, 100)])
def test_the_weights_of_each_hidden_neuron_are_an_image(neurons, shown):
    weights = torch.randn(neurons, 784, generator=torch.Generator().manual_seed(0))
    figure = figure_of_weights(weights, SETTINGS)
    mosaic = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    _, columns = shape_of_mosaic(shown)
    for neuron in range(shown):
        row, column = divmod(neuron, columns)
        tile = mosaic[29 * row : 29 * row + 28, 29 * column : 29 * column + 28]
        np.testing.assert_array_equal(tile, weights[neuron].view(28, 28).numpy())
    assert np.isfinite(mosaic).sum() == 784 * shown
    assert ("first 100" in figure.get_suptitle()) == (shown < neurons)


def test_weights_of_opposite_sign_have_opposite_colours():
    image = figure_of_weights(torch.tensor([[0.5, -2.0] * 392]), SETTINGS).axes[0].images[0]
    assert image.get_clim() == (-2, 2)


@pytest.mark.parametrize("n", range(1, 101))
def test_a_mosaic_has_room_for_all_and_no_empty_row(n):
    rows, columns = shape_of_mosaic(n)
    assert rows <= columns or n < 3
    assert (rows - 1) * columns < n <= rows * columns


GRID = SETTINGS | {"lr": [0.1, 0.5], "runs": 2}


def grid_history(validation, costs):
    measures = {"cost": costs, "accuracy": validation, "saturated": [1.0] * 4, "saturated_wrong": [0.0] * 4}
    return history(measures)


def grid_parameters():
    shapes = {"0.weight": (30, 784), "0.bias": (30,), "2.weight": (10, 30), "2.bias": (10,)}
    return {name: torch.arange(4.0).view(4, *[1] * len(shape)).expand(4, *shape) for name, shape in shapes.items()}


def test_of_a_grid_the_best_point_is_drawn():
    run = best_run(GRID, grid_history([0.1, 0.2, 0.7, 0.9], [1.0] * 4))
    assert (run.settings["lr"], run.history[0]["validation"]["accuracy"]) == (0.5, [0.7, 0.9])


@pytest.mark.parametrize(
    ("validation", "costs", "number"),
    [
        ([0.1, 0.2, 0.7, 0.9], [1.0, 1.0, 1.0, 1.0], 2),
        ([0.9, 0.9, 0.1, 0.1], [1.0, 1.0, 1.0, 1.0], 0),
        ([0.1, 0.1, 0.9, 0.9], [math.nan, math.inf, math.nan, 1.0], 3),
    ],
)
def test_the_network_drawn_is_the_first_of_the_best_point_that_has_not_diverged(validation, costs, number):
    network, run = best_network(grid_parameters(), GRID | {"seed": 7}, grid_history(validation, costs))
    assert (run["lr"], run["runs"], run["seed"]) == ([0.1, 0.5][number // 2], 1, 7 + number % 2)
    assert {value for parameter in network.parameters() for value in parameter.unique().tolist()} == {number}


def test_a_run_that_diverged_has_no_network_to_draw():
    assert best_network(grid_parameters(), GRID, grid_history([0.1] * 4, [math.nan] * 4)) is None
