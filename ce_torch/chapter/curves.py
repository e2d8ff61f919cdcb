"""The pictures of a run: costs and accuracies against the epoch, and accuracies over a grid of settings."""

import io

import numpy as np
from matplotlib.figure import Figure

from ce_torch.confidence import mean_and_margin
from ce_torch.report import chosen, finite, of_point
from ce_torch.settings import Settings, grid
from ce_torch.training import Record


def draw(history: list[Record]) -> bytes:
    """Return a picture (PNG) of every cost and accuracy in a run's history; of many networks their mean and range."""
    epochs = [record["epoch"] for record in history]
    names = [name for name in history[0] if name != "epoch"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("cost", "accuracy"), strict=True):
        for name in names:
            values = np.array([record[name][measure] for record in history]).reshape(len(history), -1)
            (line,) = axes.plot(epochs, values.mean(1), label=name)
            if values.shape[1] > 1:
                axes.fill_between(epochs, values.min(1), values.max(1), color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", ylabel=measure)
        axes.grid(alpha=0.3)
        axes.legend()
    return png(figure)


def draw_grid(record: Record, run: Settings) -> bytes:
    """Return a picture (PNG) of the accuracy on validation data over a run's grid, and of the point that is chosen."""
    points = grid(run)
    across, along = ("lr", "lmbda") if isinstance(run["lr"], list) else ("lmbda", "lr")
    of_points = [finite(of_point(record, run, i)["validation"])[0] for i in range(len(points))]
    means = np.array([mean_and_margin(accuracies) if accuracies else (np.nan, np.nan) for accuracies in of_points])
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for value in dict.fromkeys(getattr(point, along) for point in points):
        line = [i for i, point in enumerate(points) if getattr(point, along) == value]
        line.sort(key=lambda i: getattr(points[i], across))
        at = [getattr(points[i], across) for i in line]
        axes.errorbar(at, means[line, 0], np.nan_to_num(means[line, 1]), marker="o", label=f"{along} {value:g}")
    best = chosen(record, run)
    axes.plot(getattr(points[best], across), means[best, 0], "*k", markersize=14, zorder=3, label="chosen")
    positive = [value for point in points if (value := getattr(point, across)) > 0]
    axes.set_xscale("symlog", linthresh=min(positive))
    axes.set(xlabel=across, ylabel="accuracy on validation data")
    axes.grid(alpha=0.3)
    axes.legend()
    return png(figure)


def png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
