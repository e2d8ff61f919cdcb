"""Parts of tensors, such as logits and the labels one further, take the kernels as wholes do."""

import pytest
import torch
from evaluation import cost_and_delta

from ce_torch import explain, linear_log_likelihood, use_backend
from ce_torch.costs._registry import COSTS
from ce_torch.functional import cross_entropy, linear_softmax_statistics, log_likelihood, softmax_statistics

pytestmark = pytest.mark.usefixtures("needs_kernels")

x, weight, logits = torch.randn(4, 9, 16), torch.randn(50, 16), torch.randn(4, 9, 50)
labels, outputs = torch.randint(50, (4, 9)), torch.rand(4, 9, 50)
LATER = {"classes": labels[:, 1:], "desired outputs": outputs[:, 1:]}


def backend(cost, z, *arguments, **options):
    """Return what computes a cost of z that requires a gradient."""
    return explain(cost, z.requires_grad_(), *arguments, **options)


@pytest.mark.parametrize("y", LATER.values(), ids=LATER)
@pytest.mark.parametrize("module", COSTS.values(), ids=COSTS)
def test_shifted_logits_and_labels_take_the_kernels(module, y):
    assert backend(module(), logits[:, :-1], y).name == "cpp"
    with use_backend("kernels"):
        sliced = cost_and_delta(module(), logits[:, :-1], y)
    torch.testing.assert_close(sliced, cost_and_delta(module(), logits[:, :-1].contiguous(), y.contiguous()))


def test_a_sliced_mask_and_sliced_weights_take_the_kernels():
    mask, factors = outputs > 0.5, torch.rand(100)
    options = {"mask": mask[:, 1:], "pos_weight": factors[::2]}
    assert backend(cross_entropy, logits[:, :-1], outputs[:, 1:], **options).name == "cpp"
    assert backend(log_likelihood, logits[:, :-1], labels[:, 1:], weight=factors[::2]).name == "cpp"


def test_shifted_logits_take_the_kernels_of_statistics():
    whole = backend(softmax_statistics, logits, labels, entropy=True)
    assert backend(softmax_statistics, logits[:, :-1], labels[:, 1:], entropy=True) == whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"label_smoothing": 0.1, "softcap": 30.0}], ids=str)
def test_shifted_inputs_of_a_layer_are_computed_as_whole_ones(options, dtype):
    def found(*parts):
        return backend(linear_log_likelihood, *parts, **options), linear_log_likelihood(*parts, **options)

    inputs, matrix = x.to(dtype), weight.to(dtype)
    sliced = found(inputs[:, :-1], matrix, labels[:, 1:])
    whole = found(inputs[:, :-1].contiguous(), matrix, labels[:, 1:].contiguous())
    assert sliced[0] == whole[0]
    torch.testing.assert_close(sliced[1], whole[1])


def test_shifted_inputs_take_the_statistics_of_a_layer_as_whole_ones():
    sliced = backend(linear_softmax_statistics, x[:, :-1], weight, labels[:, 1:], entropy=True)
    whole = (x[:, :-1].contiguous(), weight, labels[:, 1:].contiguous())
    assert sliced == backend(linear_softmax_statistics, *whole, entropy=True)
