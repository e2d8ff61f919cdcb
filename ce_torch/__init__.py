"""Cost functions whose backward pass is written by hand, δ = a − y, and that keep every promise of autograd."""

from ce_torch.costs._backend import explain, use_backend
from ce_torch.costs.cross_entropy import CrossEntropyCost
from ce_torch.costs.focal import FocalCost
from ce_torch.costs.linear.module import LinearLogLikelihoodCost
from ce_torch.costs.log_likelihood import LogLikelihoodCost
from ce_torch.costs.quadratic import QuadraticCost
from ce_torch.functional import (
    SoftmaxStatistics,
    cross_entropy,
    focal,
    linear_distillation,
    linear_distillation_top_k,
    linear_log_likelihood,
    linear_softmax_cross_entropy,
    linear_softmax_statistics,
    log_likelihood,
    quadratic,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
    softmax_cross_entropy,
    softmax_statistics,
)

__version__ = "0.2.0"

__all__ = [
    "CrossEntropyCost",
    "FocalCost",
    "LinearLogLikelihoodCost",
    "LogLikelihoodCost",
    "QuadraticCost",
    "SoftmaxStatistics",
    "cross_entropy",
    "explain",
    "focal",
    "linear_distillation",
    "linear_distillation_top_k",
    "linear_log_likelihood",
    "linear_softmax_cross_entropy",
    "linear_softmax_statistics",
    "log_likelihood",
    "quadratic",
    "sigmoid_cross_entropy",
    "sigmoid_focal_loss",
    "softmax_cross_entropy",
    "softmax_statistics",
    "use_backend",
]
