"""The figure of benchmarks.costs."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.cases import PLAIN
from benchmarks.results import Row


def draw(rows: list[Row], path: Path) -> None:
    """Draw the ratio of each cost, plain and with its worst option, by size, under the first condition measured."""
    keys = "layout", "dtype", "mode", "threads", "busy"
    rows = [row for row in rows if all(row[key] == rows[0][key] for key in keys)]
    sizes = sorted({tuple(row["size"]) for row in rows}, key=math.prod)
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for number, cost in enumerate(dict.fromkeys(row["cost"] for row in rows)):
        of_cost = [[row for row in rows if (row["cost"], tuple(row["size"])) == (cost, size)] for size in sizes]
        plain = [next((row["ratio"] for row in cells if row["option"] == PLAIN), float("nan")) for cells in of_cost]
        worst = [max((row["ratio"] for row in cells), default=float("nan")) for cells in of_cost]
        axes.plot(range(len(sizes)), plain, marker="o", color=f"C{number}", label=cost.replace("_", " "))
        axes.plot(range(len(sizes)), worst, marker="o", color=f"C{number}", linestyle=":", markerfacecolor="white")
    axes.plot([], [], color="grey", linestyle=":", marker="o", markerfacecolor="white", label="its worst option")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(yscale="log", ylabel="time / PyTorch's own", xlabel="examples × classes")
    axes.set_xticks(range(len(sizes)), ["×".join(map(str, size)) for size in sizes])
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.5), max(high, 2))
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if low <= tick <= high or 0.5 <= tick <= 2]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=200)
