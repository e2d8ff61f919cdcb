"""The tables and the figure of benchmarks.costs."""

import math
from pathlib import Path
from typing import Any

from benchmarks import targets
from benchmarks.cases import PLAIN

Row = dict[str, Any]
FIRST = "size, layout"
LAST = ("control", "memory alone", "extra memory", "ours, µs", "PyTorch, µs", "spread")


def header(cells: list[Row]) -> str:
    """Return the title and the head of the table whose first line these cells are."""
    row = cells[0]
    threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
    beside = ["beside two busy processes"] if row["busy"] else []
    title = ", ".join((row["cost"], row["dtype"], row["mode"], row["device"], threads, *beside))
    columns = FIRST, *(cell["option"] for cell in cells), *LAST, *(["Liger"] if "liger" in row else [])
    return f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def line(cells: list[Row], earlier: list[Row]) -> str:
    """Return a line of a table: the cells of one size and layout, and what was measured of the plain one."""
    plain = cells[0]
    memory = max(cell["extra_memory"] for cell in cells)
    columns = [
        f"{tuple(plain['size'])}, {plain['layout']}",
        *(marked(f"{cell['ratio']:.2f}", cell["ratio"], targets.ratio(cell, earlier)) for cell in cells),
        f"{plain['control']:.2f}",
        f"{plain['memory_alone']:.2f}",
        marked(f"{memory:.1%}", memory, targets.extra_memory(plain)),
        f"{plain['microseconds']:.0f} (≤ {max(cell['microseconds'] for cell in cells):.0f})",
        f"{plain['peer_microseconds']:.0f} (≤ {max(cell['peer_microseconds'] for cell in cells):.0f})",
        f"± {max(cell['spread'] for cell in cells):.2f}",
        *([f"{plain['liger']:.2f}"] if "liger" in plain else []),
    ]
    return f"| {' | '.join(columns)} |"


def marked(text: str, value: float, wanted: float | None) -> str:
    return f"{text}*" if wanted is not None and value > wanted else text


def draw(rows: list[Row], path: Path) -> None:
    """Draw the ratio of each cost, plain and with its worst option, by size, under the first condition measured."""
    from matplotlib.figure import Figure

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
