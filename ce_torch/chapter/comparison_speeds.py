"""The epochs that each cost takes to the goal: how much slower the quadratic cost is."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ce_torch.chapter.markdown import table
from ce_torch.training.confidence import median_and_interval
from ce_torch.training.report import COST_NAMES

# The chapter argues that the quadratic cost learns this many times slower: 1 / ∫ σ(1 − σ) dσ, for σ from 0 to 1.
SLOWDOWN = 6

Results = dict[str, Any]


def table_of_speeds(results: Results) -> str:
    rows = []
    for speed in results["speeds"]:
        epochs = epochs_to_goal(speed, results["plan"])
        arrived = sum(map(math.isfinite, epochs))
        rows.append(
            (COST_NAMES[speed["cost"]], f"{speed['rate']:g}", format_interval(epochs), f"{arrived} of {len(epochs)}")
        )
    return table(("cost", "η", "epochs", "runs that arrived"), rows)


def epochs_to_goal(speed: dict[str, Any], plan: dict[str, Any]) -> list[float]:
    """Return the number of epochs after which each network was first seen at the goal; inf for never."""
    return [
        next((look / plan["looks"] for look, a in enumerate(looks, start=1) if a >= plan["goal"]), math.inf)
        for looks in zip(*speed["validation"], strict=True)
    ]


def epochs_by_rate(results: Results, cost: str, rate: float) -> list[float]:
    (speed,) = (speed for speed in results["speeds"] if (speed["cost"], speed["rate"]) == (cost, rate))
    return epochs_to_goal(speed, results["plan"])


def slowdown(results: Results, rate: float) -> str:
    """Return the ratio of the epochs of the quadratic cost to those of the cross-entropy, compared with 6, as text."""
    ratios = slowdowns(results, rate)
    if not ratios:
        return f"η = {rate:g}: unknown, as no run of the cross-entropy arrived."
    _, low, high = median_and_interval(ratios)
    relation = "more than" if low > SLOWDOWN else "less than" if high < SLOWDOWN else "which does not exclude"
    return f"η = {rate:g}: {format_interval(ratios)} times, {relation} {SLOWDOWN}."


def slowdowns(results: Results, rate: float) -> list[float]:
    """Return, by seed, the epochs of the quadratic cost divided by those of the cross-entropy at the same rate."""
    return [quadratic / ce for quadratic, ce in arrived_pairs(results, rate, rate)]


def extra_epochs(results: Results) -> str:
    rates = (chosen_rate(results, cost) for cost in ("quadratic", "ce"))
    more = [quadratic - ce for quadratic, ce in arrived_pairs(results, *rates)]
    return f"{format_interval(more)} epochs" if more else "an unknown number of epochs"


def arrived_pairs(results: Results, rate: float, ce_rate: float) -> Iterator[tuple[float, float]]:
    """Yield the epochs of the quadratic cost and of the cross-entropy for the same seed, where the latter arrived."""
    epochs = epochs_by_rate(results, "quadratic", rate), epochs_by_rate(results, "ce", ce_rate)
    return ((quadratic, ce) for quadratic, ce in zip(*epochs, strict=True) if math.isfinite(ce))


def chosen_rate(results: Results, cost: str) -> float:
    key = cost, results["plan"]["hidden"][0]
    (rate,) = (choice["rate"] for choice in results["choices"] if (choice["cost"], choice["hidden"]) == key)
    return rate


def format_interval(values: Sequence[float]) -> str:
    middle, low, high = map(number, median_and_interval(values))
    return f"{middle} ({low} to {high})"


def number(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "∞" if value > 0 else "−∞"
