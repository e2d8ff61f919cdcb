"""The pictures of the comparison of costs."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ce_torch.chapter import stuck_report
from ce_torch.chapter.comparison_report import CHAPTER, EPOCHS_SHOWN, NAMES
from ce_torch.chapter.comparison_speeds import epochs_to_goal
from ce_torch.chapter.curves import png
from ce_torch.chapter.drawing import COLORS, add_legend_below, count_epochs, mark_diverged, mark_values
from ce_torch.training.confidence import mean_and_margin

Results = dict[str, Any]

STUCK_STYLES = {
    ("quadratic", "large"): {"color": COLORS["quadratic"]},
    ("quadratic", "output"): {"color": "tab:orange"},
    ("quadratic", "scaled"): {"color": "tab:purple"},
    ("ce", "large"): {"color": COLORS["cross-entropy"]},
}


def draw_all(results: Results) -> dict[str, bytes]:
    """Return the pictures (PNG) by file name."""
    return {f"{draw.__name__}.png": png(draw(results)) for draw in (accuracies, rates, speed, stuck)}


def accuracies(results: Results) -> Figure:
    """Draw the test accuracy of each run as a dot, with the chapter's to the left and mean and margin to the right."""
    sizes = results["plan"]["hidden"]
    figure = Figure(figsize=(4.5 * len(sizes), 4.4), layout="constrained")
    for axes, hidden in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        finals = [final for final in results["finals"] if final["hidden"] == hidden]
        percents = [100 * np.sort(final["test"][-1]) for final in finals]
        for place, (final, last) in enumerate(zip(finals, percents, strict=True)):
            cost, color = final["cost"], COLORS[NAMES[final["cost"]]]
            axes.plot(place + np.linspace(-0.2, 0.2, len(last)), last, ".", color=color, alpha=0.5, label="a run")
            average, margin = mean_and_margin(last.tolist())
            axes.errorbar(place + 0.35, average, margin, fmt="o", color=color, capsize=6, label="mean, 95% confidence")
            if (hidden, cost) in CHAPTER:
                axes.plot(place - 0.35, CHAPTER[hidden, cost], "*k", markersize=10, label="the chapter's run")
        # Leave out runs far below the others, which would flatten them all.
        middle = np.concatenate([last[1:-1] for last in percents])
        lowest = max(axes.get_ylim()[0], np.quantile(middle, 0.1) - 2)
        axes.set_ylim(lowest, None)
        names = [f"{NAMES[final['cost']]}\nη = {final['rate']:g}" for final in finals]
        runs_below = [int((last < lowest).sum()) for last in percents]
        names = [f"{name}\n↓ {runs} below" if runs else name for name, runs in zip(names, runs_below, strict=True)]
        axes.set_xticks(range(len(finals)), names)
        axes.set(title=f"{hidden} hidden neurons", ylabel="test accuracy, %")
        axes.grid(alpha=0.3)
    add_legend_below(figure, columns=3)
    return figure


def rates(results: Results) -> Figure:
    """Draw the accuracy on validation data against the learning rate."""
    plan = results["plan"]
    figure = Figure(figsize=(4.5 * len(plan["hidden"]), 4.4), layout="constrained")
    for axes, hidden in zip(figure.subplots(1, len(plan["hidden"]), squeeze=False)[0], plan["hidden"], strict=True):
        for choice in (choice for choice in results["choices"] if choice["hidden"] == hidden):
            percents = [100 * np.array(validation["accuracies"] or [np.nan]) for validation in choice["validation"]]
            means, name = [values.mean() for values in percents], NAMES[choice["cost"]]
            axes.plot(plan["rates"], means, "o-", color=COLORS[name], label=name)
            for rate, values in zip(plan["rates"], percents, strict=True):
                axes.plot(np.full(len(values), rate), values, ".", color=COLORS[name], alpha=0.4, label="a run")
            if diverged := [rate for rate, mean in zip(plan["rates"], means, strict=True) if np.isnan(mean)]:
                mark_diverged(axes, diverged, COLORS[name])
        axes.set_xscale("log")
        axes.set(xlabel="learning rate η", ylabel="validation accuracy, %", title=f"{hidden} hidden neurons")
        mark_values(axes, plan["rates"], plan["rates"])
        axes.grid(alpha=0.3)
    add_legend_below(figure, columns=4)
    return figure


def speed(results: Results) -> Figure:
    """Draw the validation accuracy in the first epochs, median and quartiles, at the rates that all costs share."""
    plan = results["plan"]
    figure = Figure(figsize=(4.5 * len(plan["same_rates"]), 4.4), layout="constrained")
    panels = figure.subplots(1, len(plan["same_rates"]), squeeze=False)[0]
    for axes, rate in zip(panels, plan["same_rates"], strict=True):
        ends = []
        for curve in (curve for curve in results["speeds"] if curve["rate"] == rate):
            looks, name = 100 * np.array(curve["validation"]), NAMES[curve["cost"]]
            epochs, middle = np.arange(1, len(looks) + 1) / plan["looks"], np.median(looks, 1)
            axes.plot(epochs, middle, color=COLORS[name], label=name)
            axes.fill_between(epochs, *np.quantile(looks, (0.25, 0.75), axis=1), color=COLORS[name], alpha=0.2, lw=0)
            if np.isfinite(epochs_to_goal(curve, plan)).all():
                ends.append((epochs[-1], middle[-1]))
        if ends:
            axes.plot(*zip(*ends, strict=True), "ok", label=f"here all runs have reached {plan['goal']:.0%}")
        axes.axhline(100 * plan["goal"], color="gray", linestyle=":")
        axes.set(ylabel="validation accuracy, %", title=f"η = {rate:g} for every cost", xlim=(0, EPOCHS_SHOWN))
        count_epochs(axes)
        axes.grid(alpha=0.3)
    add_legend_below(figure, columns=4)
    return figure


def stuck(results: Results) -> Figure:
    """Draw the stuck output neurons, the outputs that are saturated wrong, and their δ, over the epochs, by case."""
    figure = Figure(figsize=(13.5, 5.6), layout="constrained")
    stuck_axes, wrong_axes, delta_axes = figure.subplots(1, 3)
    for case in results["stuck"]:
        style = STUCK_STYLES[case["cost"], case["weights"]] | {"ls": "-" if case["rate_of"] == "quadratic" else "--"}
        style |= {"color": "gray"} if case["hidden"] != results["plan"]["hidden"][-1] else {}
        start, *epochs = case["looks"]
        looks = [start, *case["steps"], *epochs]
        label = " | ".join(map(str, stuck_report.names_and_cells(case).values()))
        for axes, measure, scale in ((stuck_axes, "stuck", 1), (wrong_axes, "saturated_wrong", 10)):
            values = scale * np.array([look[measure] for look in looks])
            means, margins = np.transpose([mean_and_margin(row) for row in values.tolist()])
            draw_band(axes, means - margins, means, means + margins, style | {"label": label})
        known = [[value for value in look["delta"] if value is not None] or [np.nan] for look in looks]
        low, middle, high = np.transpose([np.quantile(row, (0.25, 0.5, 0.75)) for row in known])
        draw_band(delta_axes, low, middle, high, style)
    steps = [f"{number}\nsteps" for number in results["plan"]["stuck_steps"]]
    ticks = ["0", *steps, *map(str, range(1, results["plan"]["stuck_epochs"] + 1))]
    stuck_axes.set(title="Stuck output neurons", ylabel="of 10, mean and 95% confidence", ylim=(0, 10))
    wrong_axes.set(title="Outputs that are saturated wrong", ylabel="%, mean and 95% confidence", ylim=(0, None))
    delta_axes.set(title="|δ| of these outputs", ylabel="median and quartiles of the runs", yscale="log")
    for axes in figure.axes:
        axes.set(xlabel="steps of the first epoch, then epochs", xlim=(0, None))
        axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
        axes.grid(alpha=0.3)
    add_legend_below(figure, columns=2)
    return figure


def draw_band(axes: Axes, low: np.ndarray, middle: np.ndarray, high: np.ndarray, style: dict[str, Any]) -> None:
    axes.plot(middle, **style)
    axes.fill_between(range(len(middle)), low, high, color=style["color"], alpha=0.15, lw=0)
