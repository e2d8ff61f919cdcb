"""What several runs say together: their mean, and how far from it the mean of all possible runs may be."""

import math
import statistics
from collections.abc import Sequence


def mean_and_margin(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the mean of the values, and the margin around it that covers the true mean with this confidence.

        mean ± t s / √n

    with s the standard deviation of the n values, and t the quantile of Student's distribution of n − 1 degrees of
    freedom. The values must be independent, such as the accuracies of runs with different seeds.

    Args:
        values: one or more numbers. Of one alone nothing is known of the others: its margin is nan.
        confidence: above 0 and below 1.

    Example:
        >>> mean_and_margin([0.94, 0.95, 0.96])
        (0.95, 0.024841377118437524)

    Source: Student, "The probable error of a mean", Biometrika, 1908.
    """
    if len(values) == 1:
        return values[0], math.nan
    # Here, since the import takes as long as an epoch of a small network.
    from scipy.stats import t

    quantile = float(t.ppf((1 + confidence) / 2, len(values) - 1))
    return statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(len(values))
