"""Distillation: how far the output layer of a student is from that of a teacher, without whole z of either.

C = KL(p‖q), KL(q‖p) or their Jensen-Shannon divergence,    q = softmax(c z),  z = x Wᵀ + b,    p the teacher's
"""

import math

import torch
from torch import Tensor

from ce_torch.costs._arguments import check_denominator, check_temperature_shape, check_token_weight
from ce_torch.costs._call import loss_function
from ce_torch.costs._in_graph import tied
from ce_torch.costs._precision import compute_dtype, result_dtype, to_dtype
from ce_torch.costs.linear.blocks import column
from ce_torch.costs.linear.cost import scattered
from ce_torch.costs.linear.distillation_arguments import check_student, check_teacher, check_top_k
from ce_torch.costs.linear.distillation_autograd import reduced_cost
from ce_torch.costs.linear.distillation_blocks import Distillation, Inputs
from ce_torch.costs.linear.divergences import Divergence
from ce_torch.costs.linear.inputs import layer_inputs
from ce_torch.costs.linear.targets import kept_examples


@loss_function()
def linear_distillation(
    x: Tensor,
    weight: Tensor,
    teacher_x: Tensor,
    teacher_weight: Tensor,
    bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    *,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    temperature: float | Tensor = 1.0,
    teacher_temperature: float | Tensor | None = None,
    token_weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
    reduction: str = "mean",
    out_dtype: torch.dtype | None = None,
    block_rows: int | None = None,
) -> Tensor:
    """Return the divergence of a student's output layer from its teacher's, without all of z of either in memory.

    With PyTorch alone it is `F.kl_div(F.linear(x, weight).log_softmax(-1), F.linear(teacher_x, teacher_weight)...)`.

        q = softmax(z / temperature),  z = x weightᵀ + bias              the student
        p = softmax(z / teacher_temperature),  z of the teacher          the teacher

        "forward_kl"         C = KL(p‖q) = Σⱼ pⱼ ln(pⱼ / qⱼ)        δ = c (q − p),  c = 1 / temperature
        "reverse_kl"         C = KL(q‖p)                           δ = c q (ln(q/p) − C)
        "jensen_shannon"     C = β KL(p‖m) + (1 − β) KL(q‖m)       δ = c (1 − β) q (ln(q/m) − KL(q‖m))
                             m = β p + (1 − β) q

    δ is the gradient by the student's z, by hand; that by the teacher's is the same with p and q swapped. As in the GKD
    trainer of TRL, β is the teacher's part, and no factor temperature² is applied; multiply by it for that of Hinton.
    Divided by β or 1 − β, the Jensen-Shannon divergence becomes the forward or reverse KL as β comes close to 0 or 1.

    For the mean or the sum, the forward pass computes the gradients together with C and keeps them, so that it computes
    z once. For reduction "none", under hooks for saved tensors, such as those of activation checkpointing, and where a
    second backward pass runs over a retained graph, the backward pass computes z again. Second derivatives, forward
    mode, `torch.func` and `torch.compile` hold whole z of both.

    Args:
        x: inputs of the student's layer, floating point, shape (..., D).
        weight, bias: parameters of the layer, of x's dtype, shapes (K, D) and (K,).
        teacher_x, teacher_weight, teacher_bias: the same for the teacher, of any D and floating dtype, with the same K.
            They get gradients if they require them.
        divergence: "forward_kl", "reverse_kl" or "jensen_shannon".
        beta: β, between 0 and 1; "jensen_shannon" only.
        temperature: at least 1e-38; a tensor of shape () gets its gradient too.
        teacher_temperature: the same for the teacher; None for the student's.
        token_weight: a factor for the cost of each example, floating point, shape (...). Nothing is computed of an
            example whose factor is 0, such as a masked one: `(labels != -100).float()`. The mean divides by the sum of
            the factors.
        denominator: as in `linear_log_likelihood`, a number that divides the sum in place of that of the factors.
        reduction: "mean" over examples, "sum", or "none" for the cost of each, shape (...).
        out_dtype: the dtype of the cost, such as torch.float32 for x in half precision; None for x's.
        block_rows: how many rows of z fit into the memory for a block; None for a twentieth of all rows, but at least
            48 rows each for student and teacher.

    Returns:
        The cost, of x's dtype (float32 under autocast) or `out_dtype`. It is infinite where the divergence is: where
        the student rules out a class that the teacher does not (forward), or the other way round (reverse), in which
        case the reverse gradient is nan. Gradients of weights in half precision are sums of 24 bits or more.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Example:
        >>> x, weight = torch.zeros(2, 3), torch.zeros(4, 3)
        >>> teacher_x, teacher_weight = torch.ones(2, 5), torch.eye(4, 5)
        >>> linear_distillation(x, weight, teacher_x, teacher_weight)
        tensor(0.)

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015; generalized Jensen-Shannon
    divergence: Agarwal et al., "On-Policy Distillation of Language Models", 2024, equation (1); gradients together with
    the cost: Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024.
    """
    check_student(x, weight, bias)
    check_teacher(x, weight, teacher_x, teacher_weight, teacher_bias)
    if teacher_temperature is None:
        teacher_temperature = temperature
    check_temperature_shape(temperature)
    check_temperature_shape(teacher_temperature, name="teacher_temperature")
    student, c = layer_inputs(x, weight, bias, temperature, None)
    teacher, teacher_c = layer_inputs(teacher_x, teacher_weight, teacher_bias, teacher_temperature, None)
    inputs = Inputs(*student[:3], *teacher[:3], None)
    how = Distillation(Divergence(divergence, beta), c, teacher_c, block_rows)
    C = cost(inputs, how, x, token_weight, denominator, reduction, out_dtype)
    layers = x, weight, bias, teacher_x, teacher_weight, teacher_bias
    return tied(C, *layers, temperature, teacher_temperature, token_weight, denominator)


@loss_function()
def linear_distillation_top_k(
    x: Tensor,
    weight: Tensor,
    teacher_log_prob: Tensor,
    teacher_classes: Tensor,
    bias: Tensor | None = None,
    *,
    tail: str = "class",
    divergence: str = "forward_kl",
    beta: float = 0.5,
    temperature: float | Tensor = 1.0,
    token_weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
    reduction: str = "mean",
    out_dtype: torch.dtype | None = None,
    block_rows: int | None = None,
) -> Tensor:
    """Return the divergence of a student's output layer from a teacher's k most likely classes.

    It is `linear_distillation`, with the same promises, for a teacher of which only log-probabilities of k classes of
    each example are known, as servers send them.

    Args:
        x, weight, bias: the student's layer, as in `linear_distillation`.
        teacher_log_prob: ln p of the classes, floating point, shape (..., k), at the temperature that is wanted. -inf
            marks a class that does not count. It gets a gradient if it requires one.
        teacher_classes: the classes, int64, shape (..., k), distinct in each example.
        tail: "class", and all other classes together are one more class, of the student as of the teacher, whose
            log-probability is ln(1 − Σ p); "none", and there are no other classes: the probabilities of the k classes
            are divided by their sum, the student's as the teacher's.
        temperature: of the student alone.
        divergence, beta, token_weight, denominator, reduction, out_dtype, block_rows: as in `linear_distillation`.

    Returns:
        The cost, of x's dtype (float32 under autocast) or `out_dtype`. With the tail as a class, it is at most the
        divergence from all of the teacher's classes.

    Raises:
        TypeError, ValueError: an argument is not as above. Values of classes are checked on the CPU only.

    Example:
        >>> x, weight = torch.zeros(1, 3), torch.zeros(4, 3)
        >>> linear_distillation_top_k(x, weight, torch.tensor([[0.5, 0.25]]).log(), torch.tensor([[2, 0]]))
        tensor(0.1733)

    Source: see `linear_distillation`.
    """
    check_student(x, weight, bias)
    check_top_k(x, weight, teacher_log_prob, teacher_classes)
    scores = teacher_log_prob.to(compute_dtype(x))
    if tail == "class":
        scores = torch.cat([scores, log_rest(scores)], -1)
    check_temperature_shape(temperature)
    student, c = layer_inputs(x, weight, bias, temperature, None)
    inputs = Inputs(*student[:3], flat(scores), None, None, flat(teacher_classes))
    how = Distillation(Divergence(divergence, beta), c, 1.0, block_rows)
    C = cost(inputs, how, x, token_weight, denominator, reduction, out_dtype)
    return tied(C, x, weight, bias, teacher_log_prob, temperature, token_weight, denominator)


def flat(tensor: Tensor) -> Tensor:
    """Return the tensor with one row for each example."""
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


def log_rest(log_prob: Tensor) -> Tensor:
    """Return ln(1 − Σ p), shape (..., 1): −∞ where the sum is 1, or a little more by rounding."""
    rest = -torch.expm1(log_prob.logsumexp(-1, keepdim=True))
    return torch.where(rest > 0, rest, 1).log().masked_fill(rest <= 0, -torch.inf)


def cost(
    inputs: Inputs,
    how: Distillation,
    x: Tensor,
    token_weight: Tensor | None,
    denominator: float | Tensor | None,
    reduction: str,
    out_dtype: torch.dtype | None,
) -> Tensor:
    """Return the reduced cost; x tells its dtype and the shape of the examples."""
    check_token_weight(token_weight, x)
    check_denominator(denominator, reduction, x)
    N, dtype = len(inputs.x), compute_dtype(x)
    factor, kept = inputs.x.new_ones(N, dtype=dtype), None
    if token_weight is not None:
        factor = token_weight.reshape(N).to(dtype)
        inputs, factor, kept = leave_out(inputs, factor)
    C = reduced_cost(inputs, how, factor, reduction if denominator is None else "sum")
    if denominator is not None:
        C = C / denominator
    if reduction == "none":
        C = scattered(C, kept, N).view(x.shape[:-1])
    return to_dtype(C, result_dtype(x, out_dtype))


def leave_out(inputs: Inputs, factor: Tensor) -> tuple[Inputs, Tensor, Tensor | None]:
    """Return the examples whose factor is not 0, and their indices, or None where all stay.

    Where the factors can't be read for free, or get a gradient, all stay, and the others have inputs of 0.
    """
    empty = factor == 0
    kept = None if factor.requires_grad else kept_examples(empty, inputs.x)
    if kept is not None:
        return inputs.examples(kept), factor[kept], kept
    x, teacher_x = (x.masked_fill(column(empty) & ~x.isfinite(), 0) for x in (inputs.x, inputs.teacher_x))
    return inputs._replace(x=x, teacher_x=teacher_x), factor, None
