"""Statistics of several runs: means, differences and medians, each with its confidence interval."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


def mean_and_margin(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the mean of the values, and the margin around it that covers the true mean with this confidence.

        mean ± t s / √n

    where s is the standard deviation of the n values, and t the quantile of Student's distribution with n − 1 degrees
    of freedom. The values must be independent, such as the accuracies of runs with different seeds.

    Args:
        values: one or more numbers. A single one has the margin nan, since it says nothing about other values.
        confidence: above 0 and below 1.

    Example:
        >>> from ce_torch.training.confidence import mean_and_margin
        >>> mean, margin = mean_and_margin([0.94, 0.95, 0.96])
        >>> print(f"{mean:.2%} ± {margin:.2%}")
        95.00% ± 2.48%

    Source: Student, "The probable error of a mean", Biometrika, 1908.
    """
    if len(values) == 1:
        return values[0], math.nan
    # The import takes as long as an epoch of a small network.
    from scipy.stats import t

    quantile = float(t.ppf((1 + confidence) / 2, len(values) - 1))
    return statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(len(values))


class Difference(NamedTuple):
    """A mean difference, its margin, and the p-values of Student's and of Wilcoxon's test for no difference."""

    mean: float
    margin: float
    p_student: float
    p_wilcoxon: float


def paired_difference(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Difference:
    """Return the mean of firstₖ − secondₖ over pairs k, its margin and its p-values.

    A pair shares all but what is compared: two networks have the same seed, for example.

    Args:
        first, second: two or more numbers each, in the order of the pairs.
        confidence: of the margin, above 0 and below 1.

    Example:
        >>> from ce_torch.training.confidence import paired_difference
        >>> found = paired_difference([0.96, 0.95, 0.97], [0.95, 0.95, 0.95])
        >>> print(f"{found.mean:.2%} ± {found.margin:.2%}, p = {found.p_student:.2f}")
        1.00% ± 2.48%, p = 0.23

    Source: Student, as for `mean_and_margin`; Wilcoxon, "Individual comparisons by ranking methods", 1945.
    """
    from scipy.stats import ttest_rel, wilcoxon

    if list(first) == list(second):
        return Difference(0.0, 0.0, 1.0, 1.0)  # scipy would give nan
    mean, margin = mean_and_margin([a - b for a, b in zip(first, second, strict=True)], confidence)
    student: Any = ttest_rel(first, second)  # scipy has no types
    rank: Any = wilcoxon(first, second)
    return Difference(mean, margin, float(student.pvalue), float(rank.pvalue))


def median_and_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the median, and an interval that covers the true median with at least this confidence.

    The values may have any distribution. The ends of the interval are the k-th smallest and the k-th largest value. The
    true median lies outside with a probability of at most 2 P(B < k), where B has the binomial distribution of n trials
    with probability ½. A value that is only known to be large may be inf.

    Args:
        values: one or more independent numbers. With fewer than 6, the 95% interval goes from −inf to inf.
        confidence: above 0 and below 1.

    Example:
        >>> import math
        >>> from ce_torch.training.confidence import median_and_interval
        >>> median_and_interval([1.0, 2.0, 3.0, 4.0, 5.0, math.inf])
        (3.5, 1.0, inf)

    Source: Thompson, "On confidence ranges for the median", Annals of Mathematical Statistics, 1936.
    """
    from scipy.stats import binom

    values = sorted(values)
    k = int(binom.ppf((1 - confidence) / 2, len(values), 0.5))
    low, high = (values[k - 1], values[-k]) if k else (-math.inf, math.inf)
    return statistics.median(values), low, high
