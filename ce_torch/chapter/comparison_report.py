"""The report of the comparison of costs: tables, and what the results do and do not show."""

from collections.abc import Iterable, Iterator
from itertools import combinations
from statistics import median
from typing import Any

from ce_torch.chapter import comparison_answer, stuck_report
from ce_torch.chapter.comparison_speeds import chosen_rate, extra_epochs, slowdown, table_of_speeds
from ce_torch.chapter.markdown import bullets, table
from ce_torch.training.confidence import Difference, mean_and_margin, paired_difference
from ce_torch.training.report import format_margin

NAMES = {"quadratic": "quadratic", "ce": "cross-entropy", "ll": "log-likelihood"}
# Accuracies in percent, by hidden neurons and cost: Nielsen, section 3.1, and chapter 1 for the quadratic cost.
CHAPTER = {(30, "quadratic"): 95.42, (30, "ce"): 95.49, (100, "quadratic"): 96.59, (100, "ce"): 96.82}
LEVEL = 0.05
EPOCHS_SHOWN = 6  # in the picture of the first epochs

REPORT = """\
# Which cost is better?

Nielsen's section 3.1 compares its costs by one run of each, and warns that this is not convincing. This page compares
{runs} runs of each, with error bars. The networks are the chapter's: 784 inputs, {sizes} hidden neurons, 10 outputs,
weights and biases from N(0, 1). They are trained for {epochs} epochs on the {examples:,} training examples of {data},
in mini-batches of 10.

Written by `python -m ce_torch.chapter.compare`; every figure is in [results.json](results.json).

## In short

{answer}

Intervals, and margins after ±, are for 95% confidence.

## Accuracy

The table gives the accuracy on test data after the last epoch: the mean and its margin (95% confidence), the median,
the best and the worst run. It also gives the number of runs that end below {goal:.0%}, and the one run that the chapter
reports. η is the rate chosen on validation data.

{accuracies}

![The test accuracy of every run, and their means](accuracies.png)

## Differences

Each network is compared with the network of the same seed, which started from the same weights and saw the same
mini-batches. The table gives the mean difference in percentage points, its 95% interval, and the p-values of Student's
and of Wilcoxon's test for pairs. A difference counts only if p < {level:.4f}: with {comparisons} comparisons, the
chance that any of them is wrong then stays below {level_of_all:.0%} (Bonferroni).

{differences}

## Learning rates

The table gives the mean accuracy on validation data of {choices} runs at each rate, with seeds used for nothing else.
Of the rates at which the fewest runs diverge, the one with the highest mean is chosen.

{rates}

{edge_notes}![The validation accuracy at each learning rate](rates.png)

## The two rules of thumb

The table gives the number of epochs that each cost takes to reach an accuracy of {goal:.0%} on validation data: the
median over {runs} runs with {smallest} hidden neurons, and its 95% interval. The accuracy is measured {looks} times an
epoch. A run that has not arrived after {epochs} epochs counts as one that never does.

{speeds}

![The validation accuracy in the first epochs](speed.png)

The picture shows the median and the quartiles of the runs in the first {epochs_shown} epochs. A curve ends at a dot
when all of its runs have reached {goal:.0%}; the training stops there.

**How much slower does the quadratic cost learn at the same rate?** About 6 times, the chapter argues: its δ has the
additional factor σ′, and the mean of σ′ over all outputs is 1/6. Divide the epochs of the quadratic cost by those of
the cross-entropy with the same seed. The quotients have this median and interval:

{slowdowns}

**How many more epochs does it need, with each cost at its own rate?** With the same seed, the quadratic cost takes
{extra_epochs} more than the cross-entropy. Its rate is {ratio:.2g} times the cross-entropy's; the rule says 6.

{stuck}
## What the data support

{verdicts}

## What they do not

- The margins cover the choice of the seeds. The 10,000 test images are a sample too: this adds ± 0.43 points to an
  accuracy of 95%, and less to a difference between networks on the same images.
- The rates are from a coarse grid, and {choices} runs choose them: a cost may be better at a rate that was not tried.
- Student's interval assumes that means are normally distributed. Trust Wilcoxon's test where some runs end far below
  the others (see the column *below {goal:.0%}*).
- The data say nothing about other sizes, data, mini-batches and regularization. Other first weights are tried with the
  quadratic cost alone, at two rates that were chosen for N(0, 1).
"""

Results = dict[str, Any]


def markdown(results: Results) -> str:
    """Return the report as Markdown, which shows the pictures of `comparison_pictures`."""
    plan, differences = results["plan"], list(compare_costs(results))
    level = LEVEL / len(differences)
    return REPORT.format(
        **{name: plan[name] for name in ("runs", "epochs", "goal", "choices", "looks")},
        examples=results["examples"],
        data=results.get("data", "MNIST"),  # the first results do not name their data
        sizes=" or ".join(map(str, plan["hidden"])),
        smallest=plan["hidden"][0],
        answer=comparison_answer.markdown(results),
        accuracies=table_of_accuracies(results),
        comparisons=len(differences),
        level=level,
        epochs_shown=EPOCHS_SHOWN,
        level_of_all=LEVEL,
        differences=table_of_differences(differences),
        rates=table_of_rates(results),
        edge_notes="".join(f"{sentence}\n\n" for sentence in grid_edge_notes(results)),
        speeds=table_of_speeds(results),
        slowdowns=bullets(slowdown(results, rate) for rate in plan["same_rates"]),
        extra_epochs=extra_epochs(results),
        ratio=chosen_rate(results, "quadratic") / chosen_rate(results, "ce"),
        stuck=stuck_report.markdown(results),
        verdicts=bullets(
            f"{hidden} hidden neurons: {verdict(first, second, found, level)}"
            for hidden, first, second, found in differences
        ),
    )


def table_of_accuracies(results: Results) -> str:
    goal = results["plan"]["goal"]
    rows = []
    for final in results["finals"]:
        hidden, cost, last = final["hidden"], final["cost"], final["test"][-1]
        runs_below = sum(accuracy < goal for accuracy in last)
        accuracies = (
            format_margin(last),
            *(f"{summarise(last):.2%}" for summarise in (median, max, min)),
        )
        chapter = f"{CHAPTER[hidden, cost]}%" if (hidden, cost) in CHAPTER else ""
        rows.append((hidden, NAMES[cost], f"{final['rate']:g}", *accuracies, runs_below, chapter))
    names = "hidden", "cost", "η", "test accuracy", "median", "best", "worst", f"below {goal:.0%}", "the chapter's run"
    return table(names, rows)


def compare_costs(results: Results) -> Iterator[tuple[int, str, str, Difference]]:
    """Yield the hidden neurons, the names of two costs, and the difference of their networks."""
    for hidden in results["plan"]["hidden"]:
        last = {final["cost"]: final["test"][-1] for final in results["finals"] if final["hidden"] == hidden}
        for second, first in combinations(last, 2):
            yield hidden, first, second, paired_difference(last[first], last[second])


def table_of_differences(differences: Iterable[tuple[int, str, str, Difference]]) -> str:
    rows = [
        (
            hidden,
            f"{NAMES[first]} − {NAMES[second]}",
            f"{100 * found.mean:+.2f}",
            "{:+.2f} to {:+.2f}".format(*interval(found)),
            f"{found.p_student:.2g}",
            f"{found.p_wilcoxon:.2g}",
        )
        for hidden, first, second, found in differences
    ]
    return table(("hidden", "costs", "difference", "95% interval", "p, Student", "p, Wilcoxon"), rows)


def interval(found: Difference) -> tuple[float, float]:
    """Return the ends of the interval of a difference, in percentage points."""
    return 100 * (found.mean - found.margin), 100 * (found.mean + found.margin)


def verdict(first: str, second: str, found: Difference, level: float) -> str:
    low, high = interval(found)
    if found.p_student < level:
        better, worse = (first, second) if found.mean > 0 else (second, first)
        least, most = sorted((abs(low), abs(high)))
        text = f"the {NAMES[better]} cost is better than the {NAMES[worse]} cost, by {least:.2f} to {most:.2f} points."
        return text + (" Wilcoxon's test does not confirm it." if found.p_wilcoxon >= level else "")
    text = (
        f"the data show no difference between the means of the {NAMES[first]} and the {NAMES[second]} cost; "
        f"one of more than {max(abs(low), abs(high)):.2f} points is unlikely."
    )
    if found.p_wilcoxon < level:
        text += f" Most runs do differ, by Wilcoxon's test (p = {found.p_wilcoxon:.2g}): a few outliers hide it."
    return text


def table_of_rates(results: Results) -> str:
    rates = results["plan"]["rates"]
    rows = []
    for choice in results["choices"]:
        cells = []
        for rate, scores in zip(rates, choice["validation"], strict=True):
            accuracies, diverged = scores["accuracies"], scores["diverged"]
            cell = f"{mean_and_margin(accuracies)[0]:.2%}" if accuracies else ""
            cell += f" ({diverged} diverged)" if diverged else ""
            cells.append(f"**{cell}**" if rate == choice["rate"] else cell)
        rows.append((choice["hidden"], NAMES[choice["cost"]], *cells))
    return table(("hidden", "cost", *(f"η = {rate:g}" for rate in rates)), rows)


def grid_edge_notes(results: Results) -> Iterator[str]:
    """Yield a sentence for each choice that a wider grid might have changed."""
    rates = results["plan"]["rates"]
    for choice in results["choices"]:
        if choice["rate"] in (min(rates), max(rates)):
            cost = f"the {NAMES[choice['cost']]} cost with {choice['hidden']} hidden neurons"
            yield f"η = {choice['rate']:g} is the end of the grid: {cost} may be better at a rate beyond it."
