"""The costs as functions of (z, y), weighted inputs and desired outputs, for research code.

The chapter's name of a cost, the field's for the same function, and PyTorch's of what it is:

| `quadratic` | | N / 2 · `mse_loss`, of N sigmoid or linear neurons |
| `cross_entropy` | `sigmoid_cross_entropy` | N · `binary_cross_entropy_with_logits`, not `cross_entropy` |
| `log_likelihood` | `softmax_cross_entropy` | `cross_entropy` |
| `linear_log_likelihood` | `linear_softmax_cross_entropy` | `linear_cross_entropy` |
"""

from ce_torch.costs.cross_entropy import cross_entropy
from ce_torch.costs.linear_log_likelihood import linear_log_likelihood
from ce_torch.costs.log_likelihood import log_likelihood
from ce_torch.costs.quadratic import quadratic

sigmoid_cross_entropy = cross_entropy
softmax_cross_entropy = log_likelihood
linear_softmax_cross_entropy = linear_log_likelihood

__all__ = [
    "cross_entropy",
    "linear_log_likelihood",
    "linear_softmax_cross_entropy",
    "log_likelihood",
    "quadratic",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
]
