"""Draw on given axes the parts that the figures, the animation and the notebook share."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType
from torch import Tensor

from ce_torch.chapter.neuron import COURSES, Lesson

ABOVE_AXES = 3  # zorder: the lines of the axes have 2.5
TRAIL = 0.7  # opacity: seen on a white and on a black ground

COLORS = {"quadratic": "tab:red", "cross-entropy": "tab:blue", "log-likelihood": "tab:green", "focal": "tab:olive"}


def add_legend_below(figure: Figure, columns: int) -> None:
    """Add a legend below all axes of a figure, where no curve can hide it, with each name once."""
    named = {}
    for axes in figure.axes:
        for drawn, name in zip(*axes.get_legend_handles_labels(), strict=True):
            # Names that several curves share, such as "a run", go behind those of single curves.
            named.pop(name, None)
            named[name] = drawn
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns)


def count_epochs(axes: Axes) -> None:
    """Make x the epoch, with whole numbers as ticks, even for a single epoch."""
    axes.set_xlabel("epoch")
    locator = cast(MaxNLocator, axes.xaxis.get_major_locator())
    locator.set_params(integer=True, min_n_ticks=1)


def mark_values(axes: Axes, places: Sequence[float], values: Sequence[float]) -> None:
    """Put a tick with its value at each place, and no others; rotate the values if they overlap."""
    axes.set_xticks(places, [f"{value:g}" for value in values])
    axes.minorticks_off()
    extents = [label.get_window_extent() for label in axes.get_xticklabels()]
    if any(extent.overlaps(following) for extent, following in pairwise(extents)):
        axes.tick_params(axis="x", rotation=90)


def mark_diverged(axes: Axes, places: Sequence[float], color: ColorType) -> None:
    """Mark the places where all runs have diverged, at the bottom, since there is no point to draw."""
    bottom = axes.get_xaxis_transform()
    axes.plot(places, [0.03] * len(places), "x", color=color, transform=bottom, label="all runs diverged")


def draw_course(axes: Axes, values: Tensor, color: str, label: str, last_epoch: int = 0, style: str = "-") -> Line2D:
    """Draw a value's course as a thin trail, and a line with a dot at its end up to `last_epoch`; return the line."""
    axes.plot(values, style, color=color, alpha=TRAIL, linewidth=0.8)
    (line,) = axes.plot(values[: last_epoch + 1], style, color=color, label=label)
    mark_end(line)
    count_epochs(axes)
    return line


def mark_end(line: Line2D) -> None:
    """Put a dot at the end of a line, whole and above the axes, which it often touches."""
    line.set(marker="o", markevery=[-1], clip_on=False, zorder=ABOVE_AXES)


def draw_lessons(axes: Axes, name: str, lessons: Sequence[tuple[str, Lesson]], last_epoch: int) -> list[Line2D]:
    """Draw one of the courses of each lesson, in the colour of its cost; return their lines up to `last_epoch`."""
    lines = []
    broken = styles([cost for cost, _ in lessons])
    for number, ((cost, lesson), style) in enumerate(zip(lessons, broken, strict=True)):
        lines.append(draw_course(axes, COURSES[name](lesson), COLORS[cost], cost, last_epoch, style))
        tell_apart(lines[-1], number)
    axes.set_ylabel(name)
    axes.set_ylim(bottom=0)
    return lines


def draw_on_sigmoid(axes: Axes, lessons: Sequence[tuple[str, Lesson]], last_epoch: int) -> None:
    """Draw σ, and the place of each neuron on it after `last_epoch` as a dot, in the colour of its cost."""
    farthest = max(6.0, *(float(lesson.z.abs().max()) for _, lesson in lessons))
    z = torch.linspace(-farthest, farthest, 121, dtype=torch.float64)
    axes.plot(z, z.sigmoid(), color=rcParams["text.color"], linewidth=1)
    for number, (cost, lesson) in enumerate(lessons):
        (line,) = axes.plot(lesson.z[: last_epoch + 1], lesson.a[: last_epoch + 1], color=COLORS[cost], linewidth=0)
        mark_end(line)
        tell_apart(line, number)
    axes.set(xlabel="z", ylabel="a = σ(z)", ylim=(0, 1.02))


def tell_apart(line: Line2D, number: int) -> None:
    """Let a line move by its name, and make the dot of the first larger, since the second may lie on it."""
    line.set(gid=f"moving-{number}", markersize=8 if number == 0 else 5)


def styles(costs: Sequence[str]) -> list[str]:
    """Return a line style for each cost: broken if an earlier line has the same cost, and so the same colour."""
    return ["--" if cost in costs[:number] else "-" for number, cost in enumerate(costs)]


def draw_outputs(axes: Axes, a: Tensor, y: int | None = None, color: str = "tab:blue", first: int = 0) -> None:
    """Draw the outputs of a layer as bars, and mark the desired one; number the neurons from `first`."""
    neurons = range(first, first + len(a))
    axes.bar(neurons, a.numpy(), color=color, label="output a")
    if y is not None:
        ink = rcParams["text.color"]  # the colours of the costs mean the costs
        axes.plot(y, 1, "v", color=ink, label="desired: 1 here, 0 elsewhere")
    axes.set(ylim=(0, 1.15), xlabel="output neuron", ylabel="a")
    axes.set_xticks(neurons)


def draw_digit(axes: Axes, x: Tensor) -> None:
    """Draw the 784 pixels of an image of MNIST."""
    axes.imshow(x.view(28, 28).numpy(), cmap="gray_r")
    axes.axis("off")


def draw_slopes(axes: Axes, slopes: Tensor, c: float = 1.0) -> None:
    """Draw each ∂aⱼ/∂zₖ as a square: purple if aⱼ rises with zₖ, orange if it falls, stronger if it is steeper.

    The strongest colour is that of 1/4, or of c/4 if softmax has a factor c > 1: no slope is steeper.
    """
    steepest = max(c, 1) / 4
    for j, row in enumerate(slopes.tolist(), 1):
        for k, slope in enumerate(row, 1):
            color = "tab:purple" if slope > 0 else "tab:orange"  # no cost has these colours
            axes.bar(k, 0.9, 0.9, j - 0.45, color=color, alpha=0.08 + 0.6 * abs(slope) / steepest)
            axes.text(k, j, format_slope(slope), ha="center", va="center", fontsize="small")
    ticks = range(1, len(slopes) + 1)
    axes.set(xlim=(0.4, len(ticks) + 0.6), ylim=(len(ticks) + 0.6, 0.4), aspect="equal")
    axes.set(xlabel="weighted input k", ylabel="output j")
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)


def format_slope(slope: float) -> str:
    """Return a slope with two digits after the point, or "≈ 0", since few of those that round to 0 are 0."""
    return f"{slope:+.2f}".replace("-", "−") if round(slope, 2) else "≈ 0"
