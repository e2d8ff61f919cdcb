"""Means of runs, and their margins."""

import math
import statistics

import pytest

from ce_torch.confidence import mean_and_margin


def test_the_margin_is_that_of_students_distribution():
    # Of 2 values the quantile is tan(π/2 · 0.95), in closed form.
    mean, margin = mean_and_margin([1.0, 3.0])
    assert mean == 2
    assert margin == pytest.approx(math.tan(math.pi / 2 * 0.95) * statistics.stdev([1.0, 3.0]) / math.sqrt(2))


def test_more_confidence_takes_a_wider_margin():
    values = [0.1, 0.4, 0.2]
    assert mean_and_margin(values, 0.99)[1] > mean_and_margin(values, 0.95)[1] > mean_and_margin(values, 0.5)[1]


def test_of_one_value_the_margin_is_unknown():
    mean, margin = mean_and_margin([0.5])
    assert mean == 0.5
    assert math.isnan(margin)
