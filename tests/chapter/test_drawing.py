"""Test every picture: nothing overlaps, epochs are whole numbers, and a label explains a curve that stops."""

import json
from functools import partial
from io import BytesIO
from itertools import pairwise
from math import inf, nan

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from ce_torch.chapter.comparison_pictures import accuracies, rates, speed, stuck
from ce_torch.chapter.curves import figure_of_grid, figure_of_run, png
from ce_torch.chapter.digits import FOLDER, PROJECT, load_trained
from ce_torch.chapter.drawing import draw_lessons
from ce_torch.chapter.figures import DRAWINGS
from ce_torch.chapter.neuron import COURSES, SIGMOID_COSTS, learn
from ce_torch.chapter.run_pictures import figure_of_saturation, read_run

RESULTS = json.loads((PROJECT / "docs" / "comparison" / "results.json").read_text())
# The other pictures in docs/, besides the section's figures, and how they are drawn.
OTHER_PICTURES = {
    **{f"comparison/{draw.__name__}": partial(draw, RESULTS) for draw in (accuracies, rates, speed, stuck)},
    "curves": lambda: figure_of_run(
        load_trained("ce").history, "cross-entropy, 30 hidden neurons, η = 0.5, seed 0"
    ),  # as train.py --evaluate checkpoints/chapter-ce.pt --plot draws it
    "saturation": lambda: figure_of_saturation(
        [read_run(FOLDER / f"chapter-{cost}.pt") for cost in ("quadratic", "ce", "ll")]
    ),  # as docs/program.md says
}
PICTURES_IN_DOCS = [*(f"figures/{name}" for name in DRAWINGS), *OTHER_PICTURES]


def history(*epochs, names=("training", "test")):
    """Return a history with the costs of each network after each epoch. The accuracies are 1 − cost / 10."""
    scores = [{"cost": list(costs), "accuracy": [1 - min(cost, 9) / 10 for cost in costs]} for costs in epochs]
    return [{"epoch": epoch, **dict.fromkeys(names, score)} for epoch, score in enumerate(scores, 1)]


def grid(lr, lmbda, means):
    """Draw a grid with two runs at each point from the mean accuracies; a mean is nan if both runs diverged."""
    runs = [accuracy + offset for accuracy in means for offset in (-0.01, 0.01)]
    scores = {"cost": [nan if np.isnan(accuracy) else 1.0 for accuracy in runs], "accuracy": runs}
    return figure_of_grid({"epoch": 1, "validation": scores}, {"lr": lr, "lmbda": lmbda, "runs": 2})


def lessons():
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    both = [(name, learn(cost, 2, 2, eta=0.15, epochs=3)) for name, cost in SIGMOID_COSTS.items()]
    draw_lessons(axes, next(iter(COURSES)), both, last_epoch=3)
    return figure


FALLING = [(1 / epoch, 2 / epoch) for epoch in range(1, 31)]
MADE_UP = {
    **{f"a run of {n} epochs": lambda n=n: figure_of_run(history(*FALLING[:n])) for n in (1, 2, 12)},
    "a run that rises": lambda: figure_of_run(history(*reversed(FALLING))),
    "a run that diverges": lambda: figure_of_run(history((1,), (2,), (nan,), (nan,))),
    "a run that diverges at once": lambda: figure_of_run(history((inf,))),
    "a grid of rates": lambda: grid([0.1, 0.5, 0.55, 0.6, 12.0], 0.0, [0.8, 0.9, 0.91, 0.92, 0.7]),
    "a grid of both": lambda: grid([0.1, 1e9], [0.0, 1e-4, 1.0], [0.8, 0.9, 0.7, nan, nan, 0.1]),
    "a grid of 60 rates": lambda: grid([0.0123 * 1.1**i for i in range(60)], 0.0, [0.9] * 60),
    "a grid of 6 rates and 60 strengths": lambda: grid(
        [0.0123 * 1.1**i for i in range(6)], list(range(60)), [0.9] * 360
    ),
    "lessons": lessons,
}


@pytest.fixture(scope="session")
def draw(section_figure, root):
    """Draw a picture by its name. The section's figures are drawn once for all tests."""

    def draw(name):
        if name.startswith("figures/"):
            return section_figure(name.removeprefix("figures/"))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            return (OTHER_PICTURES | MADE_UP)[name]()

    return draw


@pytest.fixture(scope="module", params=[*PICTURES_IN_DOCS, *MADE_UP])
def figure(request, draw):
    figure = draw(request.param)
    figure.draw_without_rendering()  # lays it out
    return figure


def legends(figure):
    return figure.legends + [axes.get_legend() for axes in figure.axes if axes.get_legend()]


def test_legends_overlap_neither_axes_nor_their_labels(figure):
    for legend in legends(figure):
        assert not [axes for axes in figure.axes if legend.get_window_extent().overlaps(axes.get_tightbbox())]


def test_axes_and_legends_are_within_the_picture(figure):
    outside = figure.bbox.padded(1)  # a pixel
    for artist in (*figure.axes, *legends(figure)):
        box = artist.get_tightbbox()
        assert outside.contains(box.x0, box.y0)
        assert outside.contains(box.x1, box.y1)


def test_epochs_are_whole_numbers(figure):
    for axes in figure.axes:
        if axes.get_xlabel() == "epoch":
            low, high = axes.get_xlim()
            ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
            assert ticks
            assert all(tick == round(tick) for tick in ticks)


def test_no_tick_label_overlaps_its_neighbour(figure):
    for axes in figure.axes:
        labels = [label for label in axes.get_xticklabels() if label.get_text()]
        for label, following in pairwise(labels):
            assert not label.get_window_extent().overlaps(following.get_window_extent())


def axes_pixels(axes):
    """Return the colours of the pixels within axes."""
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    x0, y0, x1, y1 = axes.bbox.extents.round().astype(int)
    pixels = np.flipud(canvas.buffer_rgba())[y0:y1, x0:x1, :3]
    return pixels.reshape(-1, 3) / 255


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_short_run_is_visible(epochs):
    for axes in figure_of_run(history(*[(1,), (0.5,)][:epochs])).axes:
        assert np.isclose(axes_pixels(axes), to_rgb("tab:orange"), atol=0.02).all(1).sum() > 10


def test_the_range_of_many_networks_is_visible_after_one_epoch():
    shade = 1 - 0.2 * (1 - np.array(to_rgb("tab:blue")))
    for axes in figure_of_run(history((1, 3), names=["training"])).axes:
        assert np.isclose(axes_pixels(axes), shade, atol=0.02).all(1).sum() > 100


def test_networks_that_diverge_are_counted_and_the_others_still_drawn():
    figure = figure_of_run(history((1, 1), (0.5, 0.7), (0.4, inf), (0.2, nan)))
    cost_axes, accuracy_axes = figure.axes
    np.testing.assert_allclose(cost_axes.lines[0].get_ydata(), [1, 0.6, 0.4, 0.2])
    np.testing.assert_allclose(accuracy_axes.lines[0].get_ydata(), [90, 94, 96, 98])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training", "test", "1 of 2 diverged"]
    assert cost_axes.lines[-1].get_xdata()[0] == 3


def test_a_run_that_diverges_is_labelled_so():
    figure = figure_of_run(history((1,), (2,), (nan,)))
    cost_axes, accuracy_axes = figure.axes
    for axes in (cost_axes, accuracy_axes):
        assert axes.lines[0].get_ydata().count() == 2
    assert "diverged" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_grid_has_a_tick_at_each_value_and_a_mark_where_all_runs_diverged():
    figure = grid([0.1, 0.5, 1e9], 0.0, [0.8, 0.9, nan])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.1", "0.5", "1e+09"]
    (crosses,) = (line for line in axes.lines if line.get_label() == "all runs diverged")
    assert crosses.get_xdata() == [axes.get_xticks()[2]]


def test_a_grid_of_zeros_is_drawn():
    (axes,) = grid(0.5, [0.0], [0.9]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0"]


@pytest.mark.parametrize("y", [0.1, 0.3, 0.5])
def test_the_cross_entropy_leaves_the_picture_at_both_ends(section_figure, y):
    (axes,) = section_figure("entropy").axes
    (curve,) = (line for line in axes.lines if line.get_label() == f"C for y = {y}")
    left, right = curve.get_ydata()[[0, -1]]
    assert min(left, right) > axes.get_ylim()[1]


def test_a_curve_of_the_first_epochs_ends_at_the_edge_or_at_a_labelled_dot():
    figure = speed(RESULTS)
    for axes in figure.axes:
        (dots,) = (line for line in axes.lines if line.get_label() == "here all runs have reached 90%")
        for curve in (line for line in axes.lines if line.get_linestyle() == "-"):
            end = curve.get_xydata()[-1].tolist()
            assert end[0] > axes.get_xlim()[1] or end in dots.get_xydata().tolist()
    assert "here all runs have reached 90%" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_picture_of_the_rates_shows_every_rate_and_every_run():
    for axes, hidden in zip(rates(RESULTS).axes, RESULTS["plan"]["hidden"], strict=True):
        assert axes.get_xticks().tolist() == RESULTS["plan"]["rates"]
        low, high = axes.get_ylim()
        run_accuracies = [v["accuracies"] for c in RESULTS["choices"] if c["hidden"] == hidden for v in c["validation"]]
        assert low < 100 * np.min(run_accuracies)
        assert 100 * np.max(run_accuracies) < high


def test_the_picture_of_stuck_neurons_shows_the_mean_of_each_case():
    panels = stuck(RESULTS).axes
    for axes, measure, scale in zip(panels, ("stuck", "saturated_wrong"), (1, 10), strict=False):
        for line, case in zip(axes.lines, RESULTS["stuck"], strict=True):
            start, *epochs = case["looks"]
            means = [scale * np.mean(look[measure]) for look in (start, *case["steps"], *epochs)]
            np.testing.assert_allclose(line.get_ydata(), means)
    medians = [np.median([value for value in look["delta"] if value]) for look in RESULTS["stuck"][0]["looks"]]
    np.testing.assert_allclose(panels[2].lines[0].get_ydata()[[0, *range(3, 13)]], medians)


def test_a_rate_at_which_all_runs_diverged_is_marked():
    choices = [
        {**choice, "validation": [*choice["validation"][:-1], {"accuracies": []}]} for choice in RESULTS["choices"]
    ]
    for axes in rates({**RESULTS, "choices": choices}).axes:
        crosses = [line for line in axes.lines if line.get_label() == "all runs diverged"]
        assert [line.get_xdata() for line in crosses] == [[12]] * 3


@pytest.mark.parametrize("name", PICTURES_IN_DOCS)
def test_a_picture_in_docs_is_the_one_that_is_drawn(name, root, draw):
    with Image.open(root / "docs" / f"{name}.png") as expected, Image.open(BytesIO(png(draw(name)))) as actual:
        assert expected.size == actual.size
        differ = (np.asarray(expected.convert("RGB")) != np.asarray(actual.convert("RGB"))).any(-1)
    assert differ.mean() < 1e-3  # another processor may round a pixel differently
