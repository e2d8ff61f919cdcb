"""The short answer of the comparison: which cost learns faster, what the quadratic one gets stuck on, softmax."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from ce_torch.chapter.comparison_speeds import extra_epochs, format_interval, slowdowns
from ce_torch.chapter.markdown import bullets
from ce_torch.chapter.stuck_report import WEIGHTS, base_case, format_margin, format_median
from ce_torch.training.confidence import mean_and_margin
from ce_torch.training.report import format_margin as format_accuracy

Results = dict[str, Any]


def markdown(results: Results) -> str:
    """Return the answer as Markdown."""
    answers = answer_speed(results), answer_stuck(results), answer_softmax(results)
    lines = bullets(answers).splitlines()
    return "\n".join(fill(line, 120, subsequent_indent="  ", break_on_hyphens=False) for line in lines)


def answer_speed(results: Results) -> str:
    plan = results["plan"]
    rate = plan["same_rates"][0]
    ratios = slowdowns(results, rate)
    return (
        f"**Which cost learns faster?** At the same rate, η = {rate:g}, and with {plan['hidden'][0]} hidden neurons, "
        f"the quadratic cost takes {format_interval(ratios) if ratios else 'an unknown number of'} times as many "
        f"epochs to {plan['goal']:.0%} as the cross-entropy; with each cost at its own rate, it takes "
        f"{extra_epochs(results)} more."
    )


def answer_stuck(results: Results) -> str:
    plan, largest = results["plan"], results["plan"]["hidden"][-1]
    quadratic, ce = (accuracies(results, cost, largest) for cost in ("quadratic", "ce"))
    base, followed_ce = base_case(results), find(results["stuck"], cost="ce")
    mended = find(results["stuck"], cost="quadratic", weights="scaled", rate_of="ce")
    return (
        "**What does the quadratic cost get stuck on, and why?** On output neurons that answer 0 to their own digit, "
        f"where σ is flat. With {largest} hidden neurons, {stuck_early(base)} of ten are stuck after "
        f"{plan['stuck_steps'][0]} mini-batches and {stuck_late(base)} after {plan['stuck_epochs']} epochs; with the "
        f"cross-entropy, {stuck_early(followed_ce)} and {stuck_late(followed_ce)}. Steps that are too large throw them "
        f"there, and then {feedback(base['looks'][-1])}. Of {plan['runs']} runs, {below_goal(results, quadratic)}, and "
        f"the mean is {format_accuracy(quadratic)} (cross-entropy: {format_accuracy(ce)}). With smaller first weights "
        f"({WEIGHTS['scaled']}) and η = {mended['rate']:g}, {stuck_late(mended)} are stuck after "
        f"{plan['stuck_epochs']} epochs."
    )


def answer_softmax(results: Results) -> str:
    plan = results["plan"]
    pairs = {hidden: [accuracies(results, cost, hidden) for cost in ("ll", "ce")] for hidden in plan["hidden"]}
    differences = (f"{difference(*pair)} points with {hidden}" for hidden, pair in pairs.items())
    last, _ = pairs[plan["hidden"][-1]]
    return (
        "**What does softmax change?** With the log-likelihood its δ is a − y, as with the cross-entropy: of "
        f"{plan['runs']} runs, {below_goal(results, last)}. The accuracy differs from the cross-entropy's by "
        f"{' and by '.join(differences)} hidden neurons."
    )


def find(cases: Sequence[dict[str, Any]], **wanted: object) -> dict[str, Any]:
    return next(case for case in cases if wanted.items() <= case.items())


def accuracies(results: Results, cost: str, hidden: int) -> list[float]:
    """Return the test accuracy of each run after the last epoch."""
    return find(results["finals"], cost=cost, hidden=hidden)["test"][-1]


def below_goal(results: Results, last: Sequence[float]) -> str:
    goal = results["plan"]["goal"]
    return f"{sum(accuracy < goal for accuracy in last) or 'none'} end below {goal:.0%}"


def stuck_early(case: dict[str, Any]) -> str:
    return format_margin(case["steps"][0]["stuck"])


def stuck_late(case: dict[str, Any]) -> str:
    return format_margin(case["looks"][-1]["stuck"])


def feedback(look: dict[str, Any]) -> str:
    """Return what the outputs get that are saturated wrong, as text."""
    if not (delta := format_median(look["delta"])):
        return "no output stays wrong"
    # No-break spaces: a line that ends within |a − y| is hard to read.
    return f"an error |a\u00a0−\u00a0y| of {format_median(look['error'])} gives a |δ| of {delta} (medians)"


def difference(first: Sequence[float], second: Sequence[float]) -> str:
    """Return the mean difference of pairs in percentage points, and its interval, as text."""
    average, margin = mean_and_margin([100 * (a - b) for a, b in zip(first, second, strict=True)])
    return f"{average:+.2f} ({average - margin:+.2f} to {average + margin:+.2f})"
