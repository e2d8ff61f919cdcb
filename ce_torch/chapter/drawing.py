"""What the figures, the animation and the notebook draw alike, each on axes that it is given."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from torch import Tensor

from ce_torch.chapter.neuron import COURSES, Lesson

COLORS = {"quadratic": "tab:red", "cross-entropy": "tab:blue", "log-likelihood": "tab:green"}


def draw_course(axes: Axes, values: Tensor, color: str, label: str, until: int = 0, style: str = "-") -> Line2D:
    """Draw a value's whole course faintly and return the line of it up to an epoch, with a dot at its end."""
    axes.plot(values, style, color=color, alpha=0.2)
    epochs = range(until + 1)
    (line,) = axes.plot(epochs, values[: until + 1], style, color=color, label=label, marker="o", markevery=[-1])
    return line


def draw_lessons(axes: Axes, name: str, lessons: Sequence[tuple[str, Lesson]], until: int) -> None:
    """Draw one of the courses of some lessons up to an epoch, each lesson in the colour of its cost."""
    for number, ((cost, lesson), style) in enumerate(zip(lessons, styles(lessons), strict=True)):
        draw_course(axes, COURSES[name](lesson), COLORS[cost], cost, until, style).set_gid(f"moving-{number}")
    axes.set(xlabel="epoch", ylabel=name)
    axes.set_ylim(bottom=0)


def styles(lessons: Sequence[tuple[str, Lesson]]) -> list[str]:
    """Return a style of line for each lesson: broken where an earlier one has its cost, and colour."""
    costs = [cost for cost, _ in lessons]
    return ["--" if cost in costs[:number] else "-" for number, cost in enumerate(costs)]


def draw_outputs(axes: Axes, a: Tensor, y: int | None = None, color: str = "tab:blue", first: int = 0) -> None:
    """Draw the outputs of a layer as bars, and the one that is desired to be 1; its neurons count from `first`."""
    neurons = range(first, first + len(a))
    axes.bar(neurons, a.numpy(), color=color, label="output a")
    if y is not None:
        axes.plot(y, 1, "v", color="tab:red", label="desired: 1 here, 0 elsewhere")
    axes.set(ylim=(0, 1.15), xlabel="output neuron", ylabel="a")
    axes.set_xticks(neurons)


def draw_digit(axes: Axes, x: Tensor) -> None:
    """Draw the 784 pixels of an image of MNIST."""
    axes.imshow(x.view(28, 28).numpy(), cmap="gray_r")
    axes.axis("off")


def draw_slopes(axes: Axes, slopes: Tensor) -> None:
    """Draw each ∂aⱼ/∂zₖ as a square: its colour says which way aⱼ goes, its strength how much."""
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
