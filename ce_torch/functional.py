"""The costs as functions of (z, y), weighted inputs and desired outputs, for research code.

`cross_entropy` is the chapter's, for sigmoid neurons. It is not `F.cross_entropy`, which is `log_likelihood` here. The
names `sigmoid_cross_entropy`, `softmax_cross_entropy`, `linear_softmax_cross_entropy` and `sigmoid_focal_loss` tell for
which output layer a cost is.
"""

from ce_torch.costs._statistics import SoftmaxStatistics
from ce_torch.costs.cross_entropy import cross_entropy
from ce_torch.costs.focal import focal
from ce_torch.costs.linear.cost import linear_log_likelihood
from ce_torch.costs.linear.distillation import linear_distillation, linear_distillation_top_k
from ce_torch.costs.linear.statistics import linear_softmax_statistics
from ce_torch.costs.log_likelihood import log_likelihood
from ce_torch.costs.quadratic import quadratic
from ce_torch.costs.softmax_statistics import softmax_statistics

sigmoid_cross_entropy = cross_entropy
softmax_cross_entropy = log_likelihood
linear_softmax_cross_entropy = linear_log_likelihood
sigmoid_focal_loss = focal

__all__ = [
    "SoftmaxStatistics",
    "cross_entropy",
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
]
