"""The costs as functions of (z, y), weighted inputs and desired outputs, for research code."""

from ce_torch.costs.cross_entropy import cross_entropy
from ce_torch.costs.linear_log_likelihood import linear_log_likelihood
from ce_torch.costs.log_likelihood import log_likelihood
from ce_torch.costs.quadratic import quadratic

__all__ = ["cross_entropy", "linear_log_likelihood", "log_likelihood", "quadratic"]
