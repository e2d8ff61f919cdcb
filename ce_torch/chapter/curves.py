"""Draw a run: its costs and accuracies against the epoch, and the accuracies over a grid of settings."""

import io

import numpy as np
from matplotlib.figure import Figure

from ce_torch.chapter.drawing import add_legend_below, count_epochs, mark_diverged, mark_values
from ce_torch.training.confidence import mean_and_margin
from ce_torch.training.loop import Record
from ce_torch.training.report import best_point, finite_accuracies, select_point
from ce_torch.training.settings import Settings, as_list, grid


def figure_of_run(history: list[Record], title: str = "") -> Figure:
    """Draw every cost and accuracy in a run's history; for many networks, mean and range."""
    epochs = [record["epoch"] for record in history]
    names = [name for name in history[0] if name != "epoch"]
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    measures = ("cost", "Cost C", 1), ("accuracy", "Accuracy", 100)
    for axes, (measure, measure_title, scale) in zip(figure.subplots(1, 2), measures, strict=True):
        for name in names:
            values = scale * measure_networks(history, name, measure)
            (line,) = axes.plot(epochs, values.mean(1), "o-", markersize=4, label=name)
            if values.shape[1] > 1:
                # After one epoch the range has no width, and only its edge is visible.
                axes.fill_between(epochs, values.min(1), values.max(1), color=line.get_color(), alpha=0.2, linewidth=2)
        diverged = np.ma.getmaskarray(measure_networks(history, names[0], "cost"))
        if diverged.any():
            networks = diverged.shape[1]
            label = f"{diverged[-1].sum()} of {networks} diverged" if networks > 1 else "diverged"
            axes.axvline(epochs[diverged.any(1).argmax()], color="black", linestyle=":", label=label)
        axes.set(ylabel=f"{measure}, %" if scale == 100 else measure, xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
        axes.set_title(measure_title)
        count_epochs(axes)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    add_legend_below(figure, columns=len(names) + 1)
    return figure


def measure_networks(history: list[Record], name: str, measure: str) -> np.ma.MaskedArray:
    """Return a measure after each epoch (rows) of each network (columns), masked where the network has diverged."""
    costs, values = (np.array([as_list(record[name][key]) for record in history]) for key in ("cost", measure))
    return np.ma.array(values, mask=~np.isfinite(costs))


def figure_of_grid(record: Record, run: Settings) -> Figure:
    """Draw the accuracy on validation data over a run's grid, with the best point."""
    points = grid(run)
    x_name, line_name = ("lr", "lmbda") if isinstance(run["lr"], list) else ("lmbda", "lr")
    point_accuracies = [finite_accuracies(select_point(record, run, i)["validation"])[0] for i in range(len(points))]
    means = 100 * np.array(
        [mean_and_margin(accuracies) if accuracies else (np.nan, np.nan) for accuracies in point_accuracies]
    )
    values = sorted({getattr(point, x_name) for point in points})
    lines = dict.fromkeys(getattr(point, line_name) for point in points)
    # Leave room for an upright label of each value, and for the names of the lines.
    figure = Figure(figsize=(max(6, 0.2 * len(values)), 4.3 + 0.06 * len(lines)), layout="constrained")
    axes = figure.subplots()
    # The places are evenly spaced, since a grid may have 0 and powers of ten.
    places = [values.index(getattr(point, x_name)) for point in points]
    for value in lines:
        line = [i for i, point in enumerate(points) if getattr(point, line_name) == value]
        line.sort(key=lambda i: places[i])
        drawn = axes.errorbar(
            [places[i] for i in line],
            means[line, 0],
            np.nan_to_num(means[line, 1]),
            marker="o",
            label=f"{line_name} {value:g}",
        )
        if diverged := [places[i] for i in line if not point_accuracies[i]]:
            mark_diverged(axes, diverged, drawn.lines[0].get_color())
    best = best_point(record, run)
    axes.plot(places[best], means[best, 0], "*k", markersize=14, zorder=3, label="chosen")
    mark_values(axes, range(len(values)), values)
    axes.set(xlabel=x_name, ylabel="accuracy on validation data, %", title=f"After epoch {record['epoch']}")
    axes.grid(alpha=0.3)
    add_legend_below(figure, columns=4)
    return figure


def png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
