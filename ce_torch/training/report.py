"""The results of a run as text: a line for each epoch, a table of the grid, a last line with the test accuracy."""

from collections.abc import Sequence
from math import isfinite
from statistics import fmean
from typing import Any

from ce_torch.costs import _registry
from ce_torch.training.confidence import mean_and_margin
from ce_torch.training.loop import Record, best
from ce_torch.training.settings import DEFAULTS, SHORT_NAMES, Settings, as_list, format_flag, grid

Scores = dict[str, Any]  # the result of `evaluate`
COST_NAMES = {SHORT_NAMES.get(name, name): name.replace("_", "-") for name in _registry.COSTS}


def describe(run: Settings) -> str:
    """Name a run without a grid in words: its cost, and the settings that matter to a reader of its pictures."""
    layers = ", ".join(map(str, run["hidden"]))
    words = [COST_NAMES[run["cost"]], f"{layers} hidden neurons", f"η = {run['lr']:g}"]
    words += [f"λ = {run['lmbda']:g}"] if run["lmbda"] else []
    words += [format_flag(name, run[name])[2:] for name in ("init", "batch_size") if run[name] != DEFAULTS[name]]
    runs = run["runs"]
    return ", ".join([*words, f"seed {run['seed']}" if runs == 1 else f"{runs} runs from seed {run['seed']}"])


def select_point(record: Record, run: Settings, point: int) -> Record:
    """Return the record of one point of the grid. The networks of a point follow one another."""
    if len(grid(run)) == 1:
        return record
    networks = slice(point * run["runs"], (point + 1) * run["runs"])
    return {
        name: {measure: value[networks] if isinstance(value, list) else value for measure, value in scores.items()}
        if isinstance(scores, dict)
        else scores
        for name, scores in record.items()
    }


def best_point(record: Record, run: Settings) -> int:
    """Return the number of the best point on validation data: fewest diverged runs, then highest mean accuracy."""

    def merit(point: int) -> tuple[int, float]:
        accuracies, diverged = finite_accuracies(select_point(record, run, point)["validation"])
        return -diverged, fmean(accuracies or [0.0])

    return max(range(len(grid(run))), key=merit)


def point_name(run: Settings, point: int) -> str:
    """Name a point of the grid by the flags that have several values."""
    values = grid(run)[point]._asdict().items()
    return " ".join(format_flag(name, value) for name, value in values if isinstance(run[name], list))


def finite_accuracies(scores: Scores) -> tuple[list[float], int]:
    """Return the accuracies of the networks that have not diverged, and the number of those that have."""
    costs, accuracies = as_list(scores["cost"]), as_list(scores["accuracy"])
    kept = [accuracy for accuracy, cost in zip(accuracies, costs, strict=True) if isfinite(cost)]
    return kept, len(costs) - len(kept)


def epoch_line(record: Record, run: Settings) -> str:
    """Return the mean cost and accuracies after an epoch; for a grid, those of the best point so far."""
    leader = best_point(record, run)
    leading = select_point(record, run, leader)
    names = "training", "validation", "test"
    accuracies = ", ".join(f"{mean(leading[name]['accuracy']):.2%} {name}" for name in names)
    lead = f" with {point_name(run, leader)}" if len(grid(run)) > 1 else ""
    cost = mean(leading["training"]["cost"])
    return f"epoch {record['epoch']}/{run['epochs']}: cost {cost:.4f}, accuracy {accuracies}{lead}"


def bar_text(history: Sequence[Record], run: Settings) -> str:
    """Return the number of epochs done, and the most important scores of the last."""
    done = f"epoch {len(history)}/{run['epochs']}"
    if not history:
        return done
    leading = select_point(history[-1], run, best_point(history[-1], run))
    cost, accuracy = mean(leading["training"]["cost"]), mean(leading["validation"]["accuracy"])
    return f"{done}: validation accuracy {accuracy:.2%}, cost {cost:.4f}"


def mean(values: float | list[float]) -> float:
    return fmean(as_list(values))


def grid_table(record: Record, run: Settings) -> list[str]:
    """Return the lines of a table with the validation accuracy at each point of a grid; none for a single point."""
    if len(grid(run)) == 1:
        return []
    rows = [("lr", "lmbda", "validation accuracy")]
    for i, point in enumerate(grid(run)):
        accuracies, diverged = finite_accuracies(select_point(record, run, i)["validation"])
        cells = [format_margin(accuracies)] if accuracies else []
        cells += [f"{diverged} diverged"] if diverged else []
        rows.append((f"{point.lr:g}", f"{point.lmbda:g}", ", ".join(cells)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def format_margin(accuracies: Sequence[float]) -> str:
    average, margin = mean_and_margin(accuracies)
    if len(set(accuracies)) == 1:
        return f"{average:.2%}" + (" in each run" if len(accuracies) > 1 else "")
    digits = digits_shown(margin := 100 * margin)
    return f"{average:.{digits}%} ± {margin:.{digits}f}"


def digits_shown(*numbers: float) -> int:
    """Return how many digits after the point show each of the numbers that is not 0 as such: two or more."""
    return next(digits for digits in range(2, 20) if all(round(number, digits) for number in numbers if number))


def summary(scores: Record, run: Settings, history: Sequence[Record]) -> str:
    """Return the accuracy on test data; for a grid, at the point that is best on validation data."""
    point = best_point(scores, run)
    test = select_point(scores, run, point)["test"]
    accuracies, diverged = finite_accuracies(test)
    if not accuracies:
        return "all runs diverged; choose a smaller --lr" if diverged > 1 else "the run diverged; choose a smaller --lr"
    chose = f", with {point_name(run, point)} chosen on validation data" if len(grid(run)) > 1 else ""
    if run["runs"] == 1:
        text = f"test accuracy {accuracies[0]:.2%} ({mean(test['correct']):.0f}/{test['examples']}){chose}"
        return text if chose or not history else f"{text} after epoch {len(history)}; {best_epoch(history)}"
    note = f", {diverged} more diverged" if diverged else ""
    runs = f"95% confidence, {len(accuracies)} runs from {min(accuracies):.2%} to {max(accuracies):.2%}{note}"
    return f"test accuracy {format_margin(accuracies)} ({runs}){chose}"


def best_epoch(history: Sequence[Record]) -> str:
    """Return the best epoch by validation accuracy, and its test accuracy."""
    epoch, validation, test = (best(history, "validation")[name] for name in ("epoch", "validation", "test"))
    return (
        f"best validation accuracy {validation['accuracy']:.2%} after epoch {epoch}, "
        f"where test is {test['accuracy']:.2%}"
    )


def has_diverged(record: Record, run: Settings) -> bool:
    """Return True if every network has diverged; for a grid, every network of the best point."""
    accuracies, _ = finite_accuracies(select_point(record, run, best_point(record, run))["training"])
    return not accuracies


def early_end(history: Sequence[Record], run: Settings) -> str:
    """Return the reason why a run ended before its last epoch."""
    not_risen = f"validation accuracy has not risen for {run['early_stopping']} epochs"
    why = "the cost is no longer finite" if has_diverged(history[-1], run) else not_risen
    return f"stopped after epoch {len(history)} of {run['epochs']}: {why}"
