"""What a run comes to, in words: a line for each epoch, a table of the grid, a last line with the test accuracy."""

from collections.abc import Sequence
from math import isfinite
from statistics import fmean
from typing import Any

from ce_torch.training.confidence import mean_and_margin
from ce_torch.training.loop import Record, best
from ce_torch.training.settings import Settings, as_list, as_typed, grid

Scores = dict[str, Any]  # what `evaluate` returns


def of_point(record: Record, run: Settings, point: int) -> Record:
    """Return a record with the scores of the networks of one point of the grid, which follow one another."""
    if len(grid(run)) == 1:
        return record
    networks = slice(point * run["runs"], (point + 1) * run["runs"])
    return {
        name: {measure: value[networks] if isinstance(value, list) else value for measure, value in scores.items()}
        if isinstance(scores, dict)
        else scores
        for name, scores in record.items()
    }


def chosen(record: Record, run: Settings) -> int:
    """Return which point of the grid is best on validation data: fewest diverged, then the highest mean accuracy."""

    def merit(point: int) -> tuple[int, float]:
        accuracies, diverged = finite(of_point(record, run, point)["validation"])
        return -diverged, fmean(accuracies or [0.0])

    return max(range(len(grid(run))), key=merit)


def choice(run: Settings, point: int) -> str:
    """Name a point of the grid by those flags that leave a choice."""
    values = grid(run)[point]._asdict().items()
    return " ".join(as_typed(name, value) for name, value in values if isinstance(run[name], list))


def finite(scores: Scores) -> tuple[list[float], int]:
    """Return the accuracies of the networks whose weights are numbers still, and how many there are of the others."""
    costs, accuracies = as_list(scores["cost"]), as_list(scores["accuracy"])
    kept = [accuracy for accuracy, cost in zip(accuracies, costs, strict=True) if isfinite(cost)]
    return kept, len(costs) - len(kept)


def line(record: Record, run: Settings) -> str:
    """Tell the cost and the accuracies after an epoch, means over the networks; of a grid at the point that leads."""
    leader = chosen(record, run)
    leading = of_point(record, run, leader)
    names = "training", "validation", "test"
    accuracies = ", ".join(f"{mean(leading[name]['accuracy']):.2%} {name}" for name in names)
    lead = f" with {choice(run, leader)}" if len(grid(run)) > 1 else ""
    cost = mean(leading["training"]["cost"])
    return f"epoch {record['epoch']}/{run['epochs']}: cost {cost:.4f}, accuracy {accuracies}{lead}"


def short_line(history: Sequence[Record], run: Settings) -> str:
    """Tell of the epochs that are done how many they are, and what matters most of the last."""
    done = f"epoch {len(history)}/{run['epochs']}"
    if not history:
        return done
    leading = of_point(history[-1], run, chosen(history[-1], run))
    cost, accuracy = mean(leading["training"]["cost"]), mean(leading["validation"]["accuracy"])
    return f"{done}: validation accuracy {accuracy:.2%}, cost {cost:.4f}"


def mean(values: float | list[float]) -> float:
    return fmean(as_list(values))


def table(record: Record, run: Settings) -> list[str]:
    """Return the lines of a table of the grid, with the accuracy on validation data at each point; none for one."""
    if len(grid(run)) == 1:
        return []
    rows = [("lr", "lmbda", "validation accuracy")]
    for i, point in enumerate(grid(run)):
        accuracies, diverged = finite(of_point(record, run, i)["validation"])
        cells = [with_margin(accuracies)] if accuracies else []
        cells += [f"{diverged} diverged"] if diverged else []
        rows.append((f"{point.lr:g}", f"{point.lmbda:g}", ", ".join(cells)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def with_margin(accuracies: Sequence[float]) -> str:
    average, margin = mean_and_margin(accuracies)
    return f"{average:.2%} ± {100 * margin:.2f}" if len(accuracies) > 1 else f"{average:.2%}"


def summary(scores: Record, run: Settings, history: Sequence[Record]) -> str:
    """Tell the accuracy on test data; of a grid at the point that is chosen on validation data."""
    point = chosen(scores, run)
    test = of_point(scores, run, point)["test"]
    accuracies, diverged = finite(test)
    if not accuracies:
        return "all runs diverged; choose a smaller --lr" if diverged > 1 else "the run diverged; choose a smaller --lr"
    chose = f", with {choice(run, point)} chosen on validation data" if len(grid(run)) > 1 else ""
    if run["runs"] == 1:
        text = f"test accuracy {accuracies[0]:.2%} ({mean(test['correct']):.0f}/{test['examples']}){chose}"
        return text if chose or not history else f"{text} after epoch {len(history)}; {best_epoch(history)}"
    note = f", {diverged} more diverged" if diverged else ""
    runs = f"95% confidence, {len(accuracies)} runs from {min(accuracies):.2%} to {max(accuracies):.2%}{note}"
    return f"test accuracy {with_margin(accuracies)} ({runs}){chose}"


def best_epoch(history: Sequence[Record]) -> str:
    """Tell the epoch to choose, by validation data, and what it is worth on test data."""
    epoch, validation, test = (best(history, "validation")[name] for name in ("epoch", "validation", "test"))
    return (
        f"best validation accuracy {validation['accuracy']:.2%} after epoch {epoch}, "
        f"where test is {test['accuracy']:.2%}"
    )


def has_diverged(record: Record, run: Settings) -> bool:
    """Return whether no network has weights that are numbers still."""
    accuracies, _ = finite(of_point(record, run, chosen(record, run))["training"])
    return not accuracies


def early_end(history: Sequence[Record], run: Settings) -> str:
    """Tell why a run ended before its last epoch."""
    not_risen = f"validation accuracy has not risen for {run['early_stopping']} epochs"
    why = "no weights are numbers any more" if has_diverged(history[-1], run) else not_risen
    return f"stopped after epoch {len(history)} of {run['epochs']}: {why}"
