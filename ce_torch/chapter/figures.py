"""Draw every figure of the section, from this library's costs and networks.

    python -m ce_torch.chapter.figures [--write docs/figures]

writes the pictures, and a page that shows them with their captions.
"""

import argparse
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from ce_torch import CrossEntropyCost, LogLikelihoodCost
from ce_torch.chapter.animation import animate
from ce_torch.chapter.comparison_report import NAMES
from ce_torch.chapter.curves import png
from ce_torch.chapter.digits import load_trained, most_wrong
from ce_torch.chapter.drawing import COLORS, add_legend_below, count_epochs, draw_digit, draw_outputs
from ce_torch.chapter.neuron import SIGMOID_COSTS, epochs_to_output, learn, slopes
from ce_torch.training import files, mnist
from ce_torch.training.saturation import SATURATED_Z

STARTS = {"(w, b) = (0.6, 0.9)": (0.6, 0.9), "(w, b) = (2.0, 2.0)": (2.0, 2.0)}


class Drawing(NamedTuple):
    """A figure of the section: a function that draws it, its title and its caption."""

    draw: Callable[[], Figure]
    title: str
    caption: str


def panels(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.grid(alpha=0.3)
    return figure, axes


def sigmoid() -> Figure:
    figure, ((value_axes, slope_axes),) = panels(1, 2)
    z = torch.linspace(-8, 8, 401, dtype=torch.float64)
    a = SIGMOID_COSTS["quadratic"].activation(z)
    value_axes.plot(z, a, color="black")
    slope_axes.plot(z, a * (1 - a), color="black")
    for axes in (value_axes, slope_axes):
        axes.axvspan(-8, -SATURATED_Z, color="tab:red", alpha=0.1, label="saturated: σ′ < 0.02")
        axes.axvspan(SATURATED_Z, 8, color="tab:red", alpha=0.1)
        axes.set(xlabel="z", xlim=(-8, 8))
    value_axes.set_ylabel("σ(z)")
    slope_axes.set_ylabel("σ′(z) = σ(z) (1 − σ(z))")
    add_legend_below(figure, columns=1)
    return figure


def neuron() -> Figure:
    figure, grid = panels(2, 2)
    for (name, start), (output_axes, cost_axes) in zip(STARTS.items(), grid, strict=True):
        for cost, eta, style in (
            ("quadratic", 0.15, "-"),
            ("cross-entropy", 0.15, "-"),
            ("cross-entropy", 0.005, "--"),
        ):
            lesson = learn(SIGMOID_COSTS[cost], *start, eta=eta)
            label = f"{cost}, η = {eta:g}"
            output_axes.plot(lesson.a, style, color=COLORS[cost], label=label)
            cost_axes.plot(lesson.C, style, color=COLORS[cost], label=label)
        output_axes.set(title=name, ylabel="output a", ylim=(0, 1))
        cost_axes.set(title=name, ylabel="cost C")
        count_epochs(output_axes)
        count_epochs(cost_axes)
    add_legend_below(figure, columns=3)
    return figure


def slowdown() -> Figure:
    figure, ((axes,),) = panels(1, 1)
    a = torch.linspace(1e-6, 1 - 1e-6, 401, dtype=torch.float64)
    for name, cost in SIGMOID_COSTS.items():
        axes.plot(a, slopes(cost, a.logit()).abs(), color=COLORS[name], label=name)
    axes.set(xlabel="output a, where 0 is desired: how wrong the neuron is", ylabel="|∂C/∂b|: how fast it learns")
    add_legend_below(figure, columns=2)
    return figure


def starts() -> Figure:
    figure, (row,) = panels(1, 2)
    places = torch.linspace(-3, 6, 91)
    longest, images = 1000, []
    for axes, (name, cost) in zip(row, SIGMOID_COSTS.items(), strict=True):
        lesson = learn(cost, places[None, :], places[:, None], eta=0.15, epochs=longest)
        epochs = epochs_to_output(lesson, 0.1)
        colors = epochs.clamp(max=longest).numpy()
        images.append(axes.pcolormesh(places.numpy(), places.numpy(), colors, vmin=0, vmax=longest, rasterized=True))
        stars = axes.plot(*zip(*STARTS.values(), strict=True), "w*", markersize=11, label="the starts above")
        stars[0].set_markeredgecolor("black")
        axes.set(title=name, xlabel="w at the start", ylabel="b at the start")
    add_legend_below(figure, columns=1)
    figure.colorbar(images[0], ax=row, extend="max", label="epochs until a < 0.1")
    return figure


def softmax() -> Figure:
    figure, ((input_axes, scale_axes),) = panels(1, 2)
    others = torch.tensor([2.5, -1.0, 3.2], dtype=torch.float64)
    z4 = torch.linspace(-5, 10, 301, dtype=torch.float64)
    z = torch.cat([others.expand(len(z4), 3), z4[:, None]], 1)
    a = LogLikelihoodCost().activation(z)
    labels = "z₁ = 2.5", "z₂ = −1", "z₃ = 3.2", "z₄: varies on the left, 0.5 on the right"
    input_axes.stackplot(z4, a.T.numpy(), labels=labels, alpha=0.8)
    input_axes.set(xlabel="z₄", ylabel="outputs a, one on the other", xlim=(-5, 10), ylim=(0, 1))
    c = torch.logspace(-2, 1, 301, dtype=torch.float64)
    fixed = torch.cat([others, torch.tensor([0.5], dtype=torch.float64)])
    outputs = torch.stack([LogLikelihoodCost(temperature=1 / value).activation(fixed) for value in c.tolist()])
    scale_axes.plot(c, outputs)
    scale_axes.set(xscale="log", xlabel="c", ylabel="outputs a")
    add_legend_below(figure, columns=4)
    return figure


def entropy() -> Figure:
    figure, ((axes,),) = panels(1, 1)
    # C goes to infinity as a goes to 0 or 1; these z take each curve beyond the top of the picture.
    z = torch.linspace(-25, 25, 2001, dtype=torch.float64).unsqueeze(-1)
    cost = CrossEntropyCost(reduction="none")
    a = cost.activation(z)
    for y in (0.1, 0.3, 0.5):
        axes.plot(a, cost(z, torch.full_like(z, y)), label=f"C for y = {y:g}")
    axes.plot(a, cost(z, a), "k--", label="at a = y: the binary entropy")
    axes.set(xlabel="output a", ylabel="cross-entropy C", ylim=(0, 2))
    add_legend_below(figure, columns=2)
    return figure


def training() -> Figure:
    figure, (row,) = panels(1, 2)
    for axes, measure in zip(row, ("accuracy", "cost"), strict=True):
        for (name, label), (data, style) in product(NAMES.items(), (("training", "-"), ("test", "--"))):
            history = load_trained(name).history
            epochs, values = zip(*((record["epoch"], record[data][measure]) for record in history), strict=True)
            scale = 100 if measure == "accuracy" else 1
            axes.plot(epochs, scale * np.array(values), style, color=COLORS[label], label=f"{label}, {data}")
        axes.set_ylabel("accuracy, %" if measure == "accuracy" else measure)
        count_epochs(axes)
    row[1].set_yscale("log")
    add_legend_below(figure, columns=3)
    return figure


def digits() -> Figure:
    network = load_trained("ce")
    found = most_wrong(network, *mnist.load().test, n=8)
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    grid = figure.subplots(4, 4, height_ratios=(2, 1, 2, 1))
    image_axes, output_axes = grid[::2].ravel(), grid[1::2].ravel()
    for image, outputs, number, x, a, y, _ in zip(image_axes, output_axes, *found, strict=True):
        draw_digit(image, x)
        image.set_title(f"test image {number}: {y}, taken for {a.argmax()}", fontsize="medium")
        draw_outputs(outputs, a, int(y))
    add_legend_below(figure, columns=2)
    return figure


DRAWINGS = {
    "sigmoid": Drawing(
        sigmoid,
        "The sigmoid function and its slope",
        "Where a neuron is saturated, right or wrong, σ is flat. There σ′ is nearly 0, and so are the slopes of the "
        "quadratic cost, equations (55) and (56).",
    ),
    "neuron": Drawing(
        neuron,
        "A single neuron learns to turn 1 into 0",
        "Equations (54) and (57). With the quadratic cost and η = 0.15, the output is 0.09 and 0.20 after 300 epochs. "
        "The badly wrong neuron hardly learns for half of them; with the cross-entropy it learns at once. The text "
        "gives η = 0.005 for the cross-entropy, the broken line. At this rate the output is near 0.42 and 0.78 after "
        "300 epochs. The course that the text describes is the one at η = 0.15.",
    ),
    "slowdown": Drawing(
        slowdown,
        "The learning slowdown",
        "How fast the neuron learns against how wrong it is, for x = 1 and y = 0. By equation (62) the slope of the "
        "cross-entropy is the error itself. By (56) the slope of the quadratic cost has a factor σ′, and vanishes "
        "where the neuron is most wrong.",
    ),
    "starts": Drawing(
        starts,
        "From every start",
        "The number of epochs until the output is below 0.1, for each start, with η = 0.15; yellow is 1000 or more. "
        "With the quadratic cost it explodes where w + b is large and σ′ small, equations (55) and (56). With the "
        "cross-entropy it grows in proportion to w + b, (61) and (62).",
    ),
    "softmax": Drawing(
        softmax,
        "Softmax",
        "Left: four neurons; the weighted input of one varies. As its output grows the others fall, and the sum stays "
        "1, equations (78) and (79). Right: the outputs for z = 2.5, −1, 3.2 and 0.5 and a factor c, equation (83). "
        "For large c the largest takes all; this is where the name comes from.",
    ),
    "entropy": Drawing(
        entropy,
        "Where the cross-entropy is smallest",
        "For every y the cross-entropy is smallest where a = y. There it is the binary entropy, equation (64), which "
        "is 0 only for y = 0 or 1.",
    ),
    "training": Drawing(
        training,
        "The costs on MNIST",
        "One run of each cost, with 30 hidden neurons, seed 0 and the chapter's rates: η = 3 for the quadratic cost "
        "(54), 0.5 for the cross-entropy (63) and the log-likelihood (80). The values of different costs do not "
        "compare. For 20 runs and error bars see [the comparison](../comparison/README.md).",
    ),
    "digits": Drawing(
        digits,
        "The digits that the network gets most wrong",
        "The test images on which the network trained with the cross-entropy (63) has the highest cost, its ten "
        "outputs, and the desired one.",
    ),
}


def page() -> str:
    parts = (f"## {title}\n\n![{title}]({name}.png)\n\n{caption}" for name, (_, title, caption) in DRAWINGS.items())
    start = "# The figures of the section\n\nDrawn by `python -m ce_torch.chapter.figures`."
    return "\n\n".join([start, *parts]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, default=Path("docs/figures"), metavar="FOLDER", help="where to write")
    folder = parser.parse_args().write
    try:
        for name, drawing in DRAWINGS.items():
            files.write_atomically(folder / f"{name}.png", png(drawing.draw()))
        moving = animate(SIGMOID_COSTS, *STARTS["(w, b) = (2.0, 2.0)"], eta=0.15)
        files.write_atomically(folder / "neuron.gif", moving)
        files.write_atomically(folder / "README.md", page().encode())
    except (mnist.DataError, files.FileError) as error:
        print(f"figures: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
