"""The tables of benchmarks: a line of a table of the costs has a size, one of any other table a contender."""

from collections.abc import Iterator
from itertools import groupby

from benchmarks import targets
from benchmarks.results import MEASURED, Row

FIRST = "size, layout"
LAST = ("control", "memory alone", "extra memory", "ours, µs", "PyTorch, µs", "spread")


# Of a table of contenders, what each column shows and how.
COLUMNS = {
    "(N, D, K)": ("size", "{}"),
    "contender": ("contender", "{}"),
    "time, s": ("seconds", "{:.3g}"),
    "time / peer": ("ratio", "{:.2f}"),
    "spread": ("spread", "± {:.2f}"),
    "extra memory / z": ("extra_memory", "{:.1%}"),
    "memory, MB": ("megabytes", "{:.0f}"),
    "error": ("error", "{:.1e}"),
}


def tables(rows: list[Row]) -> Iterator[str]:
    """Yield the tables of rows, line by line."""
    of_costs = [row for row in rows if row["benchmark"] == "costs"]
    for _, table in groupby(of_costs, condition):
        lines = [[*cells] for _, cells in groupby(table, lambda row: (row["size"], row["layout"]))]
        yield header(lines[0])
        yield from (line(cells, of_costs) for cells in lines)
    others = [row for row in rows if row["benchmark"] != "costs"]
    for _, table in groupby(others, condition):
        contenders = [*table]
        yield contender_header(contenders[0])
        yield from map(contender_line, contenders)


def condition(row: Row) -> Row:
    """Return what is the same in all of a table."""
    return {
        name: value for name, value in row.items() if name not in MEASURED | {"size", "layout", "option", "contender"}
    }


def header(cells: list[Row]) -> str:
    """Return the title and the head of the table whose first line these cells are."""
    row = cells[0]
    columns = FIRST, *(cell["option"] for cell in cells), *LAST, *(["Liger"] if "liger" in row else [])
    return f"\n{title(row)}\n\n{head(columns)}"


def title(row: Row) -> str:
    """Return what is the same in a table, in words."""
    found = condition(row)
    threads, is_busy = found.pop("threads", None), found.pop("busy", False)
    words = [str(value) for value in found.values()]
    words += [] if threads is None else ["1 thread" if threads == 1 else f"{threads} threads"]
    return ", ".join([*words, *(["beside two busy processes"] if is_busy else [])])


def head(columns: tuple[str, ...]) -> str:
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


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
        microseconds("seconds", cells),
        microseconds("peer_seconds", cells),
        f"± {max(cell['spread'] for cell in cells):.2f}",
        *([f"{plain['liger']:.2f}"] if "liger" in plain else []),
    ]
    return f"| {' | '.join(columns)} |"


def microseconds(name: str, cells: list[Row]) -> str:
    """Return the time of the plain cost, and the longest of a line."""
    return f"{cells[0][name] * 1e6:.0f} (≤ {max(cell[name] for cell in cells) * 1e6:.0f})"


def contender_header(row: Row) -> str:
    """Return the title and the head of a table of contenders, with the columns that this row fills."""
    return f"\n{title(row)}\n\n{head(tuple(column for column, (name, _) in COLUMNS.items() if name in row))}"


def contender_line(row: Row) -> str:
    cells = [form.format(row[name]) for name, form in COLUMNS.values() if name in row]
    return f"| {' | '.join(cells)} |"


def marked(text: str, value: float, wanted: float | None) -> str:
    return f"{text}*" if wanted is not None and value > wanted else text
