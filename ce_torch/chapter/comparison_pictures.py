"""The pictures of the comparison of costs."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ce_torch.chapter.comparison_report import CHAPTER, NAMES
from ce_torch.chapter.curves import png
from ce_torch.confidence import mean_and_margin

COLORS = {"quadratic": "tab:red", "ce": "tab:blue", "ll": "tab:green"}

Results = dict[str, Any]


def draw(results: Results) -> dict[str, bytes]:
    """Return the pictures (PNG) by file name."""
    return {"accuracies.png": accuracies(results), "rates.png": rates(results), "speed.png": speed(results)}


def accuracies(results: Results) -> bytes:
    """The test accuracy of each run as a dot, beside their mean and its margin, and the chapter's figure."""
    sizes = results["plan"]["hidden"]
    figure = Figure(figsize=(4.5 * len(sizes), 4), layout="constrained")
    for axes, hidden in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        finals = [final for final in results["finals"] if final["hidden"] == hidden]
        for at, final in enumerate(finals):
            cost, last = final["cost"], 100 * np.array(final["test"][-1])
            aside = np.linspace(-0.2, 0.2, len(last))
            axes.plot(at + aside, np.sort(last), ".", color=COLORS[cost], alpha=0.5)
            average, margin = mean_and_margin(last.tolist())
            axes.errorbar(at, average, margin, fmt="o", color=COLORS[cost], capsize=6, label="mean, 95% confidence")
            if (hidden, cost) in CHAPTER:
                axes.plot(at, CHAPTER[hidden, cost], "*k", markersize=10, label="the chapter's run")
        axes.set_xticks(range(len(finals)), [f"{NAMES[final['cost']]}\nη = {final['rate']:g}" for final in finals])
        # Runs that stayed far below would flatten all others.
        middle = np.concatenate([np.sort(100 * np.array(final["test"][-1]))[1:-1] for final in finals])
        lowest = max(axes.get_ylim()[0], np.quantile(middle, 0.1) - 2)
        axes.set_ylim(lowest, None)
        for at, final in enumerate(finals):
            if below := sum(100 * accuracy < lowest for accuracy in final["test"][-1]):
                axes.annotate(f"↓ {below} below", (at + 0.05, lowest), (0, 4), textcoords="offset points")
        axes.set(title=f"{hidden} hidden neurons", ylabel="test accuracy, %")
        axes.grid(alpha=0.3)
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    return png(figure)


def rates(results: Results) -> bytes:
    """The accuracy on validation data against the learning rate."""
    plan = results["plan"]
    figure = Figure(figsize=(4.5 * len(plan["hidden"]), 4), layout="constrained")
    for axes, hidden in zip(figure.subplots(1, len(plan["hidden"]), squeeze=False)[0], plan["hidden"], strict=True):
        for choice in (choice for choice in results["choices"] if choice["hidden"] == hidden):
            of_rates = [100 * np.array(of_rate["accuracies"] or [np.nan]) for of_rate in choice["validation"]]
            means, color = [values.mean() for values in of_rates], COLORS[choice["cost"]]
            axes.plot(plan["rates"], means, "o-", color=color, label=NAMES[choice["cost"]])
            for rate, values in zip(plan["rates"], of_rates, strict=True):
                axes.plot(np.full(len(values), rate), values, ".", color=color, alpha=0.4)
        axes.set(
            xscale="log", xlabel="learning rate η", ylabel="validation accuracy, %", title=f"{hidden} hidden neurons"
        )
        axes.set_xticks(plan["rates"], [f"{rate:g}" for rate in plan["rates"]])
        axes.minorticks_off()
        axes.set_ylim(80, 100)
        axes.grid(alpha=0.3)
        axes.legend()
    return png(figure)


def speed(results: Results) -> bytes:
    """The accuracy on validation data in the first epochs, median and quartiles, at the rates that all costs have."""
    plan = results["plan"]
    figure = Figure(figsize=(4.5 * len(plan["same_rates"]), 4), layout="constrained")
    panels = figure.subplots(1, len(plan["same_rates"]), squeeze=False)[0]
    for axes, rate in zip(panels, plan["same_rates"], strict=True):
        for of_cost in (of_cost for of_cost in results["speeds"] if of_cost["rate"] == rate):
            looks = 100 * np.array(of_cost["validation"])[: 6 * plan["looks"]]
            epochs = np.arange(1, len(looks) + 1) / plan["looks"]
            axes.plot(epochs, np.median(looks, 1), color=COLORS[of_cost["cost"]], label=NAMES[of_cost["cost"]])
            low, high = np.quantile(looks, (0.25, 0.75), axis=1)
            axes.fill_between(epochs, low, high, color=COLORS[of_cost["cost"]], alpha=0.2, linewidth=0)
        axes.axhline(100 * plan["goal"], color="gray", linestyle=":")
        axes.set(xlabel="epoch", ylabel="validation accuracy, %", title=f"η = {rate:g} for every cost")
        axes.set_xlim(0, 6)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    return png(figure)
