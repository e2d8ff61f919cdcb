"""The part of the comparison's report that says why the quadratic cost gets stuck."""

from collections.abc import Iterator
from statistics import fmean, median
from typing import Any

from ce_torch.chapter.markdown import bullets, table
from ce_torch.chapter.stuck import EXAMPLES, STUCK
from ce_torch.training.confidence import mean_and_margin
from ce_torch.training.report import COST_NAMES, digits_shown
from ce_torch.training.saturation import NEAR, SATURATED_Z

WEIGHTS = {"large": "N(0, 1)", "output": "output layer / √n", "scaled": "all / √n"}
# The largest |δ| of a sigmoid neuron for any a and for y = 0 or 1: of (a − y) a (1 − a), and of a − y.
LARGEST_DELTA = {"quadratic": 4 / 27, "ce": 1.0}
# Σ a² over n hidden neurons, in parts of n: with large weights a is near 0 or 1, with scaled ones near ½.
SQUARES = {"large": 1 / 2, "output": 1 / 2, "scaled": 1 / 4}

SECTION = """\
## Why the quadratic cost gets stuck

Here the output neurons are followed for {epochs} epochs: those of {runs} networks in each row, with the seeds of above.
An output neuron is *saturated* if it is nearer to 0 or 1 than σ(−{z}) = {near:.3f}; then σ′ < 0.02. It is saturated
*wrong* if 1 is desired where it is near 0, or 0 where it is near 1. It is *stuck* if it is saturated at 0 for
{share:.0%} of its own digit: the network hardly ever says that digit, and loses nearly a tenth of its accuracy. All
this is measured on the first {examples:,} training examples.

The first weights are from N(0, 1); or the same, with those of the output layer divided by √n, where n is the number of
a neuron's inputs; or with all of them divided so, which is Nielsen's better way to begin. The rates are those that are
chosen above for the quadratic cost and for the cross-entropy, with N(0, 1).

The table counts the stuck output neurons of ten: means, with 95% confidence. Where none of the {runs} networks has any,
fewer than {unseen:.0%} of all such networks have some, with the same confidence.

{stuck}

A step for one example moves an output neuron's z by η |δ| (Σ a² + 1), where Σ a² is over the hidden outputs. The
*reach* of a step is about the most that this can be: η max|δ| n/2, or n/4 where all weights are scaled, since the
hidden outputs then start near ½. Compare it with {z}, beyond which a neuron is saturated. Nine examples of ten desire
0, so the first steps throw the neurons there.

The next table tells what becomes of the outputs that are saturated wrong: their share before the first epoch and after
the last, and the |δ| that they get then, beside their error |a − y| (medians of the runs that have any).

{wrong}

![Stuck output neurons, outputs that are saturated wrong, and their δ, over the epochs](stuck.png)

Each stuck neuron costs its digit. The runs with {hidden} hidden neurons, the quadratic cost, N(0, 1) and
η = {rate:g}, by the number of their stuck neurons after epoch {epochs}:

{by_number}

Compared with these runs, network by network of the same seed, after epoch {epochs}:

{verdicts}
"""

Results = dict[str, Any]


def markdown(results: Results) -> str:
    """Return the section as Markdown, which shows the picture `stuck` of `comparison_pictures`."""
    plan, base = results["plan"], base_case(results)
    return SECTION.format(
        epochs=plan["stuck_epochs"],
        runs=plan["runs"],
        z=SATURATED_Z,
        near=NEAR,
        share=STUCK,
        examples=EXAMPLES,
        hidden=base["hidden"],
        rate=base["rate"],
        unseen=1 - 0.05 ** (1 / plan["runs"]),
        stuck=table_of_stuck(results),
        wrong=table_of_wrong(results),
        by_number=table_by_number(base),
        verdicts=bullets(verdicts(results)),
    )


def base_case(results: Results) -> dict[str, Any]:
    """Return the case that the others change: the largest network, quadratic, large weights, and its own rate."""
    return next(case for case in results["stuck"] if not change(case, {"hidden": results["plan"]["hidden"][-1]}))


def change(case: dict[str, Any], base: dict[str, Any]) -> str:
    """Return what a case changes, as text; "" if it changes nothing."""
    changes = [
        f"{case['hidden']} hidden neurons" if case["hidden"] != base["hidden"] else "",
        f"{COST_NAMES[case['cost']]}" if case["cost"] != "quadratic" else "",
        f"first weights {WEIGHTS[case['weights']]}" if case["weights"] != "large" else "",
        f"η = {case['rate']:g}" if case["rate_of"] != "quadratic" else "",
    ]
    return ", ".join(filter(None, changes))


def names_and_cells(case: dict[str, Any]) -> dict[str, object]:
    """Return what a case is, by the names of columns."""
    return {
        "hidden": case["hidden"],
        "cost": COST_NAMES[case["cost"]],
        "first weights": WEIGHTS[case["weights"]],
        "η": f"{case['rate']:g}",
    }


def reach(case: dict[str, Any]) -> float:
    """Return how far a step can move z of an output neuron, about."""
    return case["rate"] * LARGEST_DELTA[case["cost"]] * SQUARES[case["weights"]] * case["hidden"]


def table_of_stuck(results: Results) -> str:
    rows = []
    for case in results["stuck"]:
        moments = {"at the start": case["looks"][0]}
        moments |= {
            f"{number} mini-batches": look
            for number, look in zip(results["plan"]["stuck_steps"], case["steps"], strict=False)
        }
        moments |= {"1 epoch": case["looks"][1], f"{len(case['looks']) - 1} epochs": case["looks"][-1]}
        cells = {name: format_margin(look["stuck"]) for name, look in moments.items()}
        rows.append(names_and_cells(case) | {"reach": f"{reach(case):.2g}"} | cells)
    return table(list(rows[0]), [list(row.values()) for row in rows])


def table_of_wrong(results: Results) -> str:
    rows = []
    for case in results["stuck"]:
        first, last = case["looks"][0], case["looks"][-1]
        shares = [format_margin([10 * number for number in look["saturated_wrong"]], "%") for look in (first, last)]
        cells = dict(zip(("wrong at the start", "wrong at the end"), shares, strict=True))
        cells |= {name: format_median(last[key]) for name, key in LAST_COLUMNS.items()}
        accuracy = format_margin([100 * accuracy for accuracy in last["accuracy"]], "%")
        rows.append(names_and_cells(case) | cells | {"test accuracy": accuracy})
    return table(list(rows[0]), [list(row.values()) for row in rows])


LAST_COLUMNS = {"median \\|δ\\|": "delta", "median \\|a − y\\|": "error"}


def table_by_number(case: dict[str, Any]) -> str:
    """Return a table of the mean test accuracy of the runs with each number of stuck neurons."""
    last = case["looks"][-1]
    pairs = list(zip(last["stuck"], last["accuracy"], strict=True))
    rows = []
    for number in sorted(set(last["stuck"])):
        accuracies = [accuracy for stuck, accuracy in pairs if stuck == number]
        rows.append((number, len(accuracies), f"{fmean(accuracies):.1%}"))
    return table(("stuck neurons", "runs", "mean test accuracy"), rows)


def verdicts(results: Results) -> Iterator[str]:
    """Yield a sentence on each change of the base case: whether fewer neurons are stuck then, and how many are."""
    base = base_case(results)
    for case in results["stuck"]:
        if not (changed := change(case, base)):
            continue
        stuck, before = case["looks"][-1]["stuck"], base["looks"][-1]["stuck"]
        average, margin = mean_and_margin([a - b for a, b in zip(stuck, before, strict=True)])
        low, high = average - margin, average + margin
        sizes = f"{average:+.2f} ({low:+.2f} to {high:+.2f})"
        if not any(stuck):
            yield f"{changed}: no neuron of {len(stuck)} networks is stuck; {sizes}."
        elif low <= 0 <= high:
            yield f"{changed}: no difference in the number of stuck neurons is seen; {sizes}."
        else:
            yield f"{changed}: {'fewer' if high < 0 else 'more'} neurons are stuck; {sizes}."


def format_median(values: list[float | None]) -> str:
    """Return the median of the runs that have a value, as text; "" if none has."""
    known = [value for value in values if value is not None]
    return f"{median(known):.2g}" if known else ""


def format_margin(values: list[float], unit: str = "") -> str:
    """Return the mean and its margin as text. Values that are all alike have no margin, since Student's would be 0."""
    average, margin = mean_and_margin(values)
    if len(set(values)) == 1:
        return f"{average:.2f}{unit} in each" if average else "none"
    digits = digits_shown(average, margin)
    return f"{average:.{digits}f} ± {margin:.{digits}f}{unit}"
