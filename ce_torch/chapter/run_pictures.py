"""The pictures of a run of train.py: its curves, the digits that surprise it, its weights, its saturated neurons."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ce_torch.chapter.curves import figure_of_grid, figure_of_run, measure_networks, png
from ce_torch.chapter.digits import Digits, Trained, most_wrong
from ce_torch.chapter.drawing import COLORS, add_legend_below, count_epochs, draw_digit, draw_outputs, styles
from ce_torch.training import distributed, run_files
from ce_torch.training.checkpoint import CheckpointError
from ce_torch.training.loop import Record, Training
from ce_torch.training.network import MLP
from ce_torch.training.report import COST_NAMES, best_point, describe, select_point
from ce_torch.training.settings import Settings, as_list, grid

SURPRISES = 20
WEIGHTS_SHOWN = 100  # hidden neurons at most
SIDE = 28  # pixels


class Picture(NamedTuple):
    """A picture: the ending of its file's name, what it shows, and the PNG."""

    ending: str
    shows: str
    png: bytes


class Run(NamedTuple):
    """A run to draw, without a grid: its settings and its history."""

    settings: Settings
    history: list[Record]


class Network(NamedTuple):
    """A network to draw, and the settings of a run that trains it alone."""

    network: MLP
    settings: Settings


def draw_all(training: Training, state: Mapping[str, Any], settings: Settings, others: Sequence[Run]) -> list[Picture]:
    """Draw a run; for a grid, its best point and the grid.

    Args:
        training: gives the cost and the test images.
        state: of all networks, by `Training.state_dict`.
        settings: those of the run.
        others: runs whose saturated neurons to draw beside those of this run.
    """
    history = state["history"]
    run = best_run(settings, history)
    curves = figure_of_run(run.history, describe(run.settings))
    drawn = [Picture(".curves.png", "costs and accuracies", png(curves))]
    if len(grid(settings)) > 1:
        drawn.append(Picture(".grid.png", "accuracies over the grid", png(figure_of_grid(history[-1], settings))))
    if counted := [each for each in (run, *others) if any(map(is_counted, each.history))]:
        drawn.append(Picture(".saturation.png", "saturated output neurons", png(figure_of_saturation(counted))))
    if (best := best_network(state["network"], settings, history)) is not None:
        x, y = (tensor.cpu() for tensor in training.monitor["test"])
        found = most_wrong(Trained(best.network, training.cost, history), x, y, SURPRISES)
        weights = next(best.network.parameters()).detach()
        drawn += [
            Picture(
                ".surprises.png", "the most surprising test digits", png(figure_of_surprises(found, best.settings))
            ),
            Picture(".weights.png", "weights of the hidden neurons", png(figure_of_weights(weights, best.settings))),
        ]
    return drawn


def read_run(path: Path) -> Run:
    """Return the run in a checkpoint, to draw its saturated neurons beside those of another.

    Raises:
        CheckpointError: there is none, it cannot be read, or its saturated neurons were not counted.
    """
    settings, state = distributed.share_from_first(lambda: run_files.read(path))
    if not any(map(is_counted, state["history"])):
        raise CheckpointError(f"{path} holds no number of saturated neurons; train it again, or leave it out of --plot")
    return best_run(settings, state["history"])


def best_run(settings: Settings, history: list[Record]) -> Run:
    """Return the run; for a grid, the runs at the point that is best on validation data."""
    best = best_point(history[-1], settings)
    records = [select_point(record, settings, best) for record in history]
    return Run(settings | grid(settings)[best]._asdict(), records)


def best_network(parameters: Mapping[str, Tensor], settings: Settings, history: list[Record]) -> Network | None:
    """Return the first network of the best point that has not diverged; None if all have."""
    costs, run = as_list(history[-1]["test"]["cost"]), best_run(settings, history)
    first = best_point(history[-1], settings) * settings["runs"]
    finite = [k for k in range(settings["runs"]) if math.isfinite(costs[first + k])]
    if not finite:
        return None
    k = finite[0]
    network = MLP([784, *settings["hidden"], 10])
    many = len(costs) > 1
    network.load_state_dict({name: tensor[first + k] if many else tensor for name, tensor in parameters.items()})
    return Network(network, run.settings | {"runs": 1, "seed": settings["seed"] + k})


def is_counted(record: Record) -> bool:
    """Return whether saturated neurons were counted after an epoch: older programs did not count them."""
    return "saturated" in record["training"]


def figure_of_saturation(runs: Sequence[Run]) -> Figure:
    """Draw how many output neurons are saturated after each epoch, of many networks mean and range."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    measures = (
        ("saturated", "Saturated: σ is flat", 1),
        ("saturated_wrong", "Saturated and wrong: δ has to mend it", 100),
    )
    broken = styles([run.settings["cost"] for run in runs])
    for axes, (measure, title, scale) in zip(figure.subplots(1, 2), measures, strict=True):
        for run, style in zip(runs, broken, strict=True):
            records = list(filter(is_counted, run.history))
            epochs = [record["epoch"] for record in records]
            values = scale * measure_networks(records, "training", measure)
            color = COLORS[COST_NAMES[run.settings["cost"]]]
            axes.plot(epochs, values.mean(1), f"o{style}", color=color, markersize=4, label=describe(run.settings))
            if values.shape[1] > 1:
                axes.fill_between(epochs, values.min(1), values.max(1), color=color, alpha=0.2, linewidth=2)
        count_epochs(axes)
        axes.set_title(title)
        axes.grid(alpha=0.3)
    left, right = figure.axes
    left.set(ylabel="of the 10 output neurons", ylim=(0, 10))
    right.set(ylabel="output neurons in 100 training examples", ylim=(0, None))
    add_legend_below(figure, columns=1)
    return figure


def figure_of_surprises(found: Digits, run: Settings) -> Figure:
    """Draw the digits with the highest costs; for each its number, the output a of its own neuron, C, and all a."""
    columns = 5
    rows = math.ceil(len(found.y) / columns)
    figure = Figure(figsize=(2.2 * columns, 2.7 * rows + 0.6), layout="constrained")
    cells = figure.subplots(2 * rows, columns, height_ratios=(2, 1) * rows, squeeze=False)
    for axes in cells.flat:
        axes.axis("off")
    pairs = zip(cells[::2].flat, cells[1::2].flat, strict=True)
    for (image, outputs), number, x, a, y, C in zip(pairs, *found, strict=False):
        draw_digit(image, x)
        image.set_title(f"no. {number}: {y}, taken for {a.argmax()}\na = {a[y]:.1g}, C = {C:.2f}", fontsize=9)
        outputs.axis("on")
        draw_outputs(outputs, a, int(y), COLORS[COST_NAMES[run["cost"]]])
        outputs.set(xlabel="", ylabel="", yticks=(0, 1))
        outputs.tick_params(labelsize=7)
    figure.suptitle(f"The test digits that surprise the network most\n{describe(run)}")
    add_legend_below(figure, columns=2)
    return figure


def figure_of_weights(weights: Tensor, run: Settings) -> Figure:
    """Draw the weights of each neuron of the first hidden layer as an image, all on one scale."""
    shown = weights[:WEIGHTS_SHOWN]
    rows, columns = shape_of_mosaic(len(shown))
    tiles = torch.full((rows * columns, SIDE + 1, SIDE + 1), torch.nan)
    tiles[: len(shown), :SIDE, :SIDE] = shown.view(-1, SIDE, SIDE)
    mosaic = tiles.view(rows, columns, SIDE + 1, SIDE + 1).transpose(1, 2).flatten(2).flatten(0, 1)
    largest = float(shown.abs().max())
    figure = Figure(figsize=(1.1 * columns + 1.5, 1.1 * rows + 0.8), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(mosaic.numpy(), cmap="PuOr", vmin=-largest, vmax=largest, interpolation="nearest")
    axes.axis("off")
    figure.colorbar(image, ax=axes, shrink=0.7, label="weight of a pixel")
    which = "all" if len(shown) == len(weights) else f"the first {len(shown)}"
    figure.suptitle(f"The weights of {which} hidden neurons\n{describe(run)}")
    return figure


def shape_of_mosaic(n: int) -> tuple[int, int]:
    """Return rows and columns for n images: wider than high, with few empty places."""
    root = math.ceil(math.sqrt(n))
    columns = min(range(root, 2 * root), key=lambda columns: -n % columns)
    return math.ceil(n / columns), columns
