"""Draw on given axes the parts that the figures, the animation and the notebook share."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType
from torch import Tensor

from ce_torch.chapter.neuron import COURSES, Lesson

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
    """Draw a value's course faintly, and a line with a dot at its end up to `last_epoch`; return the line."""
    axes.plot(values, style, color=color, alpha=0.2)
    (line,) = axes.plot(values[: last_epoch + 1], style, color=color, label=label, marker="o", markevery=[-1])
    line.set_clip_on(False)  # the dot often ends at 0, where the axes end too
    count_epochs(axes)
    return line


def draw_lessons(axes: Axes, name: str, lessons: Sequence[tuple[str, Lesson]], last_epoch: int) -> list[Line2D]:
    """Draw one of the courses of each lesson, in the colour of its cost; return their lines up to `last_epoch`."""
    lines = []
    broken = styles([cost for cost, _ in lessons])
    for number, ((cost, lesson), style) in enumerate(zip(lessons, broken, strict=True)):
        lines.append(draw_course(axes, COURSES[name](lesson), COLORS[cost], cost, last_epoch, style))
        lines[-1].set_gid(f"moving-{number}")
    axes.set_ylabel(name)
    axes.set_ylim(bottom=0)
    return lines


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


def draw_slopes(axes: Axes, slopes: Tensor) -> None:
    """Draw each ∂aⱼ/∂zₖ as a square: blue if aⱼ rises with zₖ, red if it falls, stronger if it is steeper."""
    largest = float(slopes.abs().max())
    for j, row in enumerate(slopes.tolist(), 1):
        for k, slope in enumerate(row, 1):
            color = "tab:blue" if slope > 0 else "tab:red"
            axes.bar(k, 0.9, 0.9, j - 0.45, color=color, alpha=0.08 + 0.6 * abs(slope) / max(largest, 1e-12))
            axes.text(k, j, f"{slope:+.2f}".replace("-", "−"), ha="center", va="center", fontsize="small")
    ticks = range(1, len(slopes) + 1)
    axes.set(xlim=(0.4, len(ticks) + 0.6), ylim=(len(ticks) + 0.6, 0.4), aspect="equal")
    axes.set(xlabel="weighted input k", ylabel="output j")
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
