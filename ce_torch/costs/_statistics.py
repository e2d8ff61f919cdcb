"""The numbers that describe a softmax layer's outputs for one example."""

from typing import NamedTuple

from torch import Tensor


class SoftmaxStatistics(NamedTuple):
    """What `softmax_statistics` returns: tensors of shape (...), a number for each example.

    Attributes:
        log_prob: ln a of the class y; Σⱼ yⱼ ln aⱼ for desired outputs; None without y.
        logsumexp: ln Σⱼ exp sⱼ of the scores s.
        entropy: −Σⱼ aⱼ ln aⱼ; None unless it was asked for.
        prediction: the class of the largest output, int64, which has no gradient.
        correct: True where the prediction is the class y, bool; None without class indices.

    Example:
        >>> numbers = softmax_statistics(torch.tensor([[0.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1]))
        >>> isinstance(numbers, SoftmaxStatistics), numbers.prediction
        (True, tensor([0, 1]))
    """

    log_prob: Tensor | None
    logsumexp: Tensor
    entropy: Tensor | None
    prediction: Tensor
    correct: Tensor | None
