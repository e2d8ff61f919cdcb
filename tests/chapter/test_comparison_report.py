"""Test the report of the comparison: its verdicts follow from the figures, whatever these are."""

import json
import re

import pytest

from ce_torch.chapter.comparison_report import markdown
from ce_torch.chapter.comparison_speeds import epochs_to_goal
from ce_torch.chapter.stuck_report import format_margin

RUNS = 20
PLAN = {
    "hidden": [30],
    "rates": [0.5, 3.0],
    "choices": 2,
    "runs": RUNS,
    "epochs": 3,
    "same_rates": [0.5],
    "goal": 0.9,
    "looks": 2,
    "stuck_epochs": 1,
    "stuck_steps": [10],
}
NEVER = 99


def results(quadratic=0.95, ce=0.96, ll=0.96, epochs=None, rates=(3.0, 0.5, 0.5)):
    """Return results from an accuracy and the epochs to the goal for each cost. Runs are up to 0.0019 more accurate."""
    epochs = {"quadratic": 3, "ce": 1, "ll": 1} | (epochs or {})
    means = {"quadratic": quadratic, "ce": ce, "ll": ll}
    pairs = list(zip(means, rates, strict=True))
    validation = [{"accuracies": [0.9, 0.95], "diverged": 0}, {"accuracies": [0.8], "diverged": 1}]
    return {
        "plan": PLAN,
        "examples": 50_000,
        "choices": [{"cost": cost, "hidden": 30, "rate": rate, "validation": validation} for cost, rate in pairs],
        "finals": [
            {"cost": cost, "hidden": 30, "rate": rate, "test": [accuracies(means[cost], cost)]} for cost, rate in pairs
        ],
        "stuck": [followed("large", [1, 2] * 10), followed("scaled", [0] * RUNS), *ALWAYS_FOLLOWED],
        "speeds": [
            {"cost": cost, "hidden": 30, "rate": rate, "validation": looks(epochs[cost])}
            for cost, own_rate in pairs
            for rate in dict.fromkeys((0.5, own_rate))
        ],
    }


def followed(weights, stuck, hidden=30, rate=3.0, cost="quadratic", rate_of="quadratic"):
    """Return a case in which as many neurons are stuck at the end. A stuck neuron costs 10% of the accuracy."""
    start = {
        "accuracy": [0.1] * RUNS,
        "saturated": [5.0] * RUNS,
        "saturated_wrong": [2.5] * RUNS,
        "stuck": [0] * RUNS,
        "delta": [0.003] * RUNS,
        "error": [0.99] * RUNS,
    }
    end = start | {
        "accuracy": [0.97 - number / 10 for number in stuck],
        "saturated_wrong": [number / 10 for number in stuck],
        "stuck": stuck,
        "delta": [0.0004 if number else None for number in stuck],
    }
    case = {"hidden": hidden, "cost": cost, "weights": weights, "rate_of": rate_of, "rate": rate}
    return case | {"steps": [start], "looks": [start, end]}


# The cases that the short answer compares the first case with.
ALWAYS_FOLLOWED = (
    followed("scaled", [0] * RUNS, rate=0.5, rate_of="ce"),
    followed("large", [0] * RUNS, rate=0.5, cost="ce", rate_of="ce"),
)


def accuracies(mean, cost):
    """Return the accuracies of the runs of a cost, in an order of its own, so that pairs of runs differ."""
    step = {"quadratic": 1, "ce": 3, "ll": 7}[cost]
    return mean if isinstance(mean, list) else [mean + 1e-4 * (step * k % RUNS) for k in range(RUNS)]


def looks(epochs):
    """Return the accuracies, at each look, of networks that reach the goal after `epochs`."""
    return [[0.95 if look / 2 >= epochs else 0.5] * RUNS for look in range(1, 7)]


def section(report, title):
    return re.search(rf"## {title}\n\n(.*?)(\n## |\Z)", report, re.DOTALL).group(1)


def verdicts(**figures):
    return section(markdown(results(**figures)), "What the data support").splitlines()


def test_a_better_cost_is_called_better():
    first, *_ = verdicts(quadratic=0.95, ce=0.96)
    assert re.fullmatch(
        r"- 30 hidden neurons: the cross-entropy cost is better than the quadratic cost, by 0\.9\d to 1\.\d\d points\.",
        first,
    )


def test_a_result_against_the_chapter_is_reported_like_any_other():
    first, *_ = verdicts(quadratic=0.97, ce=0.96)
    assert first.startswith("- 30 hidden neurons: the quadratic cost is better than the cross-entropy cost, by ")


def test_without_a_difference_the_verdict_says_how_large_one_may_be():
    *_, last = verdicts(ce=0.96, ll=0.96)
    assert re.fullmatch(
        r"- 30 hidden neurons: the data show no difference between the means of the log-likelihood and the "
        r"cross-entropy cost; one of more than 0\.\d\d points is unlikely\.",
        last,
    )


def test_outliers_that_hide_a_difference_are_reported():
    quadratic = [0.955 + 1e-4 * k for k in range(RUNS - 1)] + [0.999]
    first, *_ = verdicts(quadratic=quadratic, ce=[a + 0.002 + 1e-5 * k for k, a in enumerate(quadratic[:-1])] + [0.90])
    assert "no difference between the means" in first
    assert "Most runs do differ, by Wilcoxon's test" in first


def answers(**figures):
    """Return the three answers at the top, each on one line."""
    short = section(markdown(results(**figures)), "In short").replace("\n  ", " ").replace("\u00a0", " ")
    return [line for line in short.splitlines() if line.startswith("- ")]


def test_the_first_answer_is_how_much_slower_the_quadratic_cost_is():
    speed, *_ = answers(epochs={"quadratic": 3, "ce": 1})
    assert "At the same rate, η = 0.5, and with 30 hidden neurons, the quadratic cost takes 3.0 (3.0 to 3.0)" in speed
    assert speed.endswith("with each cost at its own rate, it takes 2.0 (2.0 to 2.0) epochs more.")
    speed, *_ = answers(epochs={"quadratic": NEVER, "ce": NEVER})
    assert "takes an unknown number of times as many epochs to 90%" in speed


def test_the_second_answer_is_how_many_neurons_are_stuck_and_what_they_get():
    _, stuck, _ = answers(quadratic=[0.95] * 17 + [0.85] * 3)
    assert "none of ten are stuck after 10 mini-batches and 1.50 ± 0.24 after 1 epochs" in stuck
    assert "an error |a − y| of 0.99 gives a |δ| of 0.0004 (medians). Of 20 runs, 3 end below 90%" in stuck
    assert stuck.endswith("With smaller first weights (all / √n) and η = 0.5, none are stuck after 1 epochs.")


def test_the_last_answer_is_the_difference_that_softmax_makes():
    *_, softmax = answers(ce=[0.96] * 20, ll=[0.95, 0.96] * 10)
    # Half of the differences are −1 and half are 0; the margin is t₁₉ s / √20 = 2.093 · 0.513 / 4.472.
    assert "of 20 runs, none end below 90%. The accuracy differs" in softmax
    assert softmax.endswith("by -0.50 (-0.74 to -0.26) points with 30 hidden neurons.")


def test_the_report_in_docs_is_what_its_results_say(root):
    folder = root / "docs" / "comparison"
    assert (folder / "README.md").read_text() == markdown(json.loads((folder / "results.json").read_text()))


def test_the_accuracies_stand_beside_the_chapters():
    rows = section(markdown(results()), "Accuracy").splitlines()
    assert next(row for row in rows if "cross-entropy" in row) == (
        "| 30 | cross-entropy | 0.5 | 96.09% ± 0.03 | 96.09% | 96.19% | 96.00% | 0 | 95.49% |"
    )


def test_runs_that_end_below_the_goal_are_counted():
    report = markdown(results(quadratic=[0.95] * 17 + [0.85] * 3))
    assert "| 3 | 95.42% |" in section(report, "Accuracy")


@pytest.mark.parametrize(
    ("quadratic", "sentence"),
    [(3, "3.0 (3.0 to 3.0) times, less than 6"), (NEVER, "∞ (∞ to ∞) times, more than 6")],
)
def test_the_rule_of_six_is_tested_at_the_same_rate(quadratic, sentence):
    report = section(markdown(results(epochs={"quadratic": quadratic, "ce": 1})), "The two rules of thumb")
    assert f"- η = 0.5: {sentence}." in report


def test_extra_epochs_are_counted_at_each_costs_own_rate():
    report = section(markdown(results()), "The two rules of thumb")
    assert "2.0 (2.0 to 2.0) epochs more than the cross-entropy. Its rate is 6 times" in report.replace("\n", " ")


def test_the_slowdown_is_unknown_if_no_run_arrived():
    report = section(markdown(results(epochs={"quadratic": NEVER, "ce": NEVER})), "The two rules of thumb")
    assert "- η = 0.5: unknown, as no run of the cross-entropy arrived." in report


def test_the_chosen_rate_is_marked_and_divergence_is_reported():
    report = section(markdown(results()), "Learning rates")
    assert "| 30 | cross-entropy | **92.50%** | 80.00% (1 diverged) |" in report


def test_a_chosen_rate_at_the_end_of_the_grid_is_reported():
    report = section(markdown(results(rates=(3.0, 0.5, 0.5))), "Learning rates")
    assert "η = 3 is the end of the grid: the quadratic cost with 30 hidden neurons" in report


def test_a_network_has_reached_the_goal_once_its_accuracy_is_there():
    speed = {"validation": [[0.5, 0.5, 0.95], [0.9, 0.5, 0.5], [0.8, 0.8, 0.8]]}
    assert epochs_to_goal(speed, {"looks": 2, "goal": 0.9}) == [1.0, float("inf"), 0.5]


def stuck_section(*cases):
    return section(markdown(results() | {"stuck": [*cases, *ALWAYS_FOLLOWED]}), "Why the quadratic cost gets stuck")


BASE = followed("large", [1, 2] * 10)


def test_stuck_neurons_are_counted_at_each_moment_with_a_margin():
    # The reach is 3 · 4/27 · 30/2; the margin is t₁₉ s / √20 = 2.093 · 0.513 / 4.472.
    row = "| 30 | quadratic | N(0, 1) | 3 | 6.7 | none | none | 1.50 ± 0.24 | 1.50 ± 0.24 |"
    assert row in stuck_section(BASE)


def test_outputs_that_are_saturated_wrong_are_given_in_percent_with_their_delta():
    row = "| 30 | quadratic | N(0, 1) | 3 | 25.00% in each | 1.50 ± 0.24% | 0.0004 | 0.99 | 82.00 ± 2.40% |"
    assert row in stuck_section(BASE)


def test_without_an_output_that_is_saturated_wrong_there_is_no_delta():
    row = "| 30 | quadratic | all / √n | 3 | 25.00% in each | none |  | 0.99 | 97.00% in each |"
    assert row in stuck_section(BASE, followed("scaled", [0] * RUNS))


def test_where_no_neuron_of_any_network_is_stuck_a_share_of_networks_is_not_excluded():
    assert "Where none of the 20 networks has any,\nfewer than 14% of all such networks" in stuck_section(BASE)
    chance = (1 - 0.14) ** RUNS  # of none in 20 networks, if 14% have some
    assert chance == pytest.approx(0.05, abs=0.002)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.004, 0.006] * 10, "0.0050 ± 0.0005%"),
        ([0.0] * 19 + [0.002], "0.0001 ± 0.0002%"),
        ([1.0, 2.0] * 10, "1.50 ± 0.24%"),
        ([2.5] * 20, "2.50% in each"),
        ([0] * 20, "none"),
    ],
)
def test_a_mean_and_a_margin_that_are_not_0_are_not_shown_as_0(values, text):
    assert format_margin(values, "%") == text


def test_each_number_of_stuck_neurons_has_its_accuracy():
    assert "| 1 | 10 | 87.0% |\n| 2 | 10 | 77.0% |" in stuck_section(BASE)


@pytest.mark.parametrize(
    ("stuck", "verdict"),
    [
        ([0] * RUNS, "no neuron of 20 networks is stuck; -1.50 (-1.74 to -1.26)."),
        ([0, 1] * 10, "fewer neurons are stuck; -1.00 (-1.00 to -1.00)."),
        ([2, 3] * 10, "more neurons are stuck; +1.00 (+1.00 to +1.00)."),
        ([2, 1] * 10, "no difference in the number of stuck neurons is seen; +0.00 (-0.48 to +0.48)."),
    ],
)
def test_a_change_is_compared_network_by_network(stuck, verdict):
    assert f"- first weights all / √n: {verdict}" in stuck_section(BASE, followed("scaled", stuck))
