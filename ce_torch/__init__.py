"""Cost functions whose backward pass is written by hand, δ = a − y, and that keep every promise of autograd."""

from ce_torch.costs._backend import explain
from ce_torch.costs.cross_entropy import CrossEntropyCost
from ce_torch.costs.linear_log_likelihood import LinearLogLikelihoodCost
from ce_torch.costs.log_likelihood import LogLikelihoodCost
from ce_torch.costs.quadratic import QuadraticCost
from ce_torch.functional import (
    cross_entropy,
    linear_log_likelihood,
    linear_softmax_cross_entropy,
    log_likelihood,
    quadratic,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)

__all__ = [
    "CrossEntropyCost",
    "LinearLogLikelihoodCost",
    "LogLikelihoodCost",
    "QuadraticCost",
    "cross_entropy",
    "explain",
    "linear_log_likelihood",
    "linear_softmax_cross_entropy",
    "log_likelihood",
    "quadratic",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
]
