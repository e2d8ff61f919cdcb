"""Test means and medians of runs, and their margins."""

import math
import statistics

import pytest

from ce_torch.training.confidence import mean_and_margin, median_and_interval, paired_difference


def test_the_margin_is_that_of_students_distribution():
    # For 2 values the quantile is tan(π/2 · 0.95), in closed form.
    mean, margin = mean_and_margin([1.0, 3.0])
    assert mean == 2
    assert margin == pytest.approx(math.tan(math.pi / 2 * 0.95) * statistics.stdev([1.0, 3.0]) / math.sqrt(2))


def test_more_confidence_takes_a_wider_margin():
    values = [0.1, 0.4, 0.2]
    assert mean_and_margin(values, 0.99)[1] > mean_and_margin(values, 0.95)[1] > mean_and_margin(values, 0.5)[1]


def test_the_margin_of_one_value_is_unknown():
    mean, margin = mean_and_margin([0.5])
    assert mean == 0.5
    assert math.isnan(margin)


def test_a_difference_is_the_mean_over_pairs():
    # The values are far apart, but each second one is 0.1 to 0.3 smaller than its first.
    found = paired_difference([1.1, 5.2, 9.3, 20.2, 30.1], [1.0, 5.0, 9.0, 20.0, 30.0])
    assert found.mean == pytest.approx(0.18)
    assert found.margin == pytest.approx(mean_and_margin([0.1, 0.2, 0.3, 0.2, 0.1])[1])
    assert found.p_student < 0.05


def test_the_p_value_is_5_percent_where_the_95_percent_margin_ends_at_0():
    differences = [0.1, 0.4, 0.2, 0.5]
    _, margin = mean_and_margin(differences)
    shifted = [d - statistics.fmean(differences) + margin for d in differences]
    assert paired_difference(shifted, [0.0] * 4).p_student == pytest.approx(0.05)


def test_wilcoxons_p_value_of_equal_signs_is_their_probability():
    assert paired_difference([1.1, 5.2, 9.3, 20.4, 30.5], [1, 5, 9, 20, 30]).p_wilcoxon == pytest.approx(2 / 2**5)


def test_equal_pairs_do_not_differ():
    assert paired_difference([0.9, 0.8], [0.9, 0.8]) == (0, 0, 1, 1)


@pytest.mark.parametrize(("n", "k"), [(6, 1), (8, 1), (9, 2), (20, 6)])
def test_the_interval_of_a_median_is_between_the_kth_values_of_the_tables(n, k):
    median, low, high = median_and_interval(list(range(n, 0, -1)))
    assert (median, low, high) == ((n + 1) / 2, k, n + 1 - k)


def test_a_median_of_few_values_may_be_anything():
    assert median_and_interval([3.0, 1.0, 2.0]) == (2, -math.inf, math.inf)


def test_values_that_are_only_known_to_be_large_may_be_infinite():
    assert median_and_interval([1.0, 2.0, 3.0, 4.0, 5.0, math.inf]) == (3.5, 1, math.inf)
