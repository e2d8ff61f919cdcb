"""What a softmax layer says of each example: log-probability, logsumexp, entropy and prediction.

    s = c φ(z),    φ(z) = z, or κ tanh(z / κ) for a softcap κ,    c = 1 / temperature,    a = softmax(s)
    ℓ = ln Σⱼ exp sⱼ        p = Σⱼ tⱼ ln aⱼ        H = −Σⱼ aⱼ ln aⱼ        ĵ = argmaxⱼ zⱼ

For a class y, t is 1 at j = y and 0 elsewhere: p = ln a_y. One generalised δ gives the gradient by z of all that is
made of these numbers: with the gradients g_p, g_ℓ and g_H that reach them, and T = Σⱼ tⱼ,

    δⱼ = c φ′(zⱼ) [g_p (tⱼ − T aⱼ) + g_ℓ aⱼ − g_H aⱼ (ln aⱼ + H)],    φ′(z) = 1 − tanh² (z / κ) = 1 / cosh² (z / κ)
"""

import torch
from torch import Tensor

from ce_torch.costs._arguments import check_arguments, check_ignored, check_temperature_shape, check_z, classes_last
from ce_torch.costs._call import loss_function
from ce_torch.costs._desired import one_hot
from ce_torch.costs._in_graph import tied
from ce_torch.costs._precision import compute_dtype
from ce_torch.costs._product import product
from ce_torch.costs._softmax import Exponentials, exponentials, scale
from ce_torch.costs._statistics import SoftmaxStatistics
from ce_torch.costs._statistics_function import Numbers, StatisticsFunction
from ce_torch.costs.log_likelihood import divide

# The formulas take z and y in the dtype to compute in, y or None, then c, κ or None, and ignore_index.


def cap(z: Tensor, softcap: float | None) -> Tensor:
    """Return φ(z)."""
    return z if softcap is None else softcap * (z / softcap).tanh()


def cap_slope(z: Tensor, softcap: float) -> Tensor:
    """Return φ′(z), with all its digits where tanh is near 1."""
    u = (-2 / softcap * z.abs()).exp()
    return 4 * u / (1 + u) ** 2


def is_ignored(y: Tensor | None, ignore_index: int) -> Tensor | None:
    return None if y is None or y.is_floating_point() else y == ignore_index


def parts(
    z: Tensor, y: Tensor | None, c: float, softcap: float | None, ignore_index: int
) -> tuple[Tensor, Exponentials, Tensor | None]:
    """Return z as it counts, the exponentials of its scores, and t; an ignored example is one of zeros."""
    ignored = is_ignored(y, ignore_index)
    if y is None or ignored is None:
        return z, exponentials(cap(z, softcap), c), y
    z = z.masked_fill(ignored.unsqueeze(-1), 0)
    t = one_hot(y.masked_fill(ignored, 0), z)
    return z, exponentials(cap(z, softcap), c), t


def entropy_of(e: Exponentials) -> Tensor:
    """Return H = ln(1 + r) − Σ a x, of which no term is negative, shape (..., 1)."""
    return e.r.log1p() - product(e.e / (1 + e.r), e.x).sum(-1, keepdim=True)


def numbers(
    z: Tensor, y: Tensor | None, c: float, softcap: float | None, ignore_index: int, entropy: bool
) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor]:
    """Return p, ℓ, H and ĵ; None for what is not asked for."""
    prediction = z.detach().argmax(-1)
    ignored = is_ignored(y, ignore_index)
    z, e, t = parts(z, y, c, softcap, ignore_index)
    m = cap(z.detach().amax(-1), softcap)
    found = (
        None if t is None else product(t, e.ln_a).sum(-1),
        scale(c, m) + e.r.squeeze(-1).log1p(),
        entropy_of(e).squeeze(-1) if entropy else None,
    )
    if ignored is None:
        return *found, prediction
    log_prob, logsumexp, H = (None if number is None else number.masked_fill(ignored, 0) for number in found)
    assert logsumexp is not None
    return log_prob, logsumexp, H, prediction.masked_fill(ignored, ignore_index)


def delta(
    g_p: Tensor | None,
    g_l: Tensor | None,
    g_H: Tensor | None,
    z: Tensor,
    y: Tensor | None,
    c: float,
    softcap: float | None,
    ignore_index: int,
) -> Tensor:
    """Return δ for the gradients of p, ℓ and H, shape (...), each of which may be missing."""
    ignored = is_ignored(y, ignore_index)
    z, e, t = parts(z, y, c, softcap, ignore_index)
    a = e.e / (1 + e.r)
    by_s = torch.zeros_like(z)
    if g_p is not None and t is not None:
        by_s = by_s - product(g_p.unsqueeze(-1), e.delta(t, t.sum(-1, keepdim=True), 1.0))
    if g_l is not None:
        by_s = by_s + product(g_l.unsqueeze(-1), a)
    if g_H is not None:
        by_s = by_s - product(g_H.unsqueeze(-1), product(a, e.ln_a + entropy_of(e)))
    by_z = scale(c, by_s)
    if softcap is not None:
        by_z = by_z * cap_slope(z, softcap)
    return by_z if ignored is None else by_z.masked_fill(ignored.unsqueeze(-1), 0)


def by_y(g_p: Tensor, z: Tensor, y: Tensor, c: float, softcap: float | None, ignore_index: int) -> Tensor:
    """Return the gradient by desired outputs, g_p ln a."""
    _, e, _ = parts(z, y, c, softcap, ignore_index)
    return product(g_p.unsqueeze(-1), e.ln_a)


STATISTICS = StatisticsFunction("softmax_statistics", Numbers(numbers, delta, by_y))


@loss_function()
def softmax_statistics(
    z: Tensor,
    y: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    entropy: bool = False,
    dim: int | None = None,
) -> SoftmaxStatistics:
    """The log-probability, logsumexp, entropy and prediction of each example: `z.log_softmax(-1)` and what follows.

    They are what perplexity, DPO, GRPO, an entropy bonus or a z-loss are made of, in plain PyTorch. Each is worked out
    in the same pass over z, and any of them, or all, may have a gradient, which one more pass finds.

        a = softmax(s),    s = φ(z) / temperature,    φ(z) = z, or softcap · tanh(z / softcap)

    Args:
        z: weighted inputs of the output layer, floating point, shape (..., K), with at least one class. -inf rules a
            class out.
        y: class indices, int64 or uint8, shape (...); or desired outputs, floating point, shape (..., K), which may
            have a gradient; or None.
        temperature: at least 1e-38; a tensor, floating point, of shape () or with one for each example, shape (...),
            gets its gradient too. Then the scores s are kept until the backward pass.
        softcap: a number that no φ(z) exceeds, at least 1e-38; None for no such limit.
        ignore_index: examples whose class index this is have the numbers 0, the prediction `ignore_index`, and no
            gradient, whatever their z. Class indices only.
        entropy: True for the entropy, too.
        dim: the dimension of z, and of desired outputs, that holds the classes; class indices lack it. None for the
            last.

    Returns:
        A `SoftmaxStatistics` of tensors of shape (...), float64 for z in float64, else float32:
        `log_prob`, ln a of the class y, or Σⱼ yⱼ ln aⱼ for desired outputs; None without y. `logsumexp`, ln Σⱼ exp sⱼ.
        `entropy`, −Σⱼ aⱼ ln aⱼ, or None. `prediction`, the class of the largest z, int64. `correct`, True where the
        prediction is the class y; None without class indices.

    Raises:
        TypeError, ValueError: an argument is not as above. Class indices are looked at on the CPU only.

    Example:
        >>> z = torch.tensor([[0.0, 0.0], [0.0, 1000.0]], requires_grad=True)
        >>> numbers = softmax_statistics(z, torch.tensor([0, 1]), entropy=True)
        >>> numbers.prediction, numbers.correct
        (tensor([0, 1]), tensor([True, True]))
        >>> (numbers.log_prob.sum() - 1e-4 * numbers.logsumexp.square().sum()).backward()

    Source: z-loss: Chowdhery et al., "PaLM", 2022; softcap: Gemma Team, "Gemma 2", 2024.
    """
    z, desired = classes_last(dim, z, y)
    check_z(z)
    if z.shape[-1] == 0:
        raise ValueError(f"z must have at least one class, got shape {tuple(z.shape)}, whose last dimension is 0")
    if desired is not None:
        desired = check_arguments(z, desired)
        check_ignored(ignore_index, desired)
    if isinstance(temperature, Tensor):
        check_temperature_shape(temperature, z.shape[:-1])
        scaled = divide(cap(z.to(compute_dtype(z)), softcap), temperature)
        z, softcap, temperature = tied(scaled, z, temperature), None, 1.0
    log_prob, logsumexp, H, prediction = STATISTICS(z, desired, 1 / temperature, softcap, ignore_index, bool(entropy))
    correct = None
    if desired is not None and not desired.is_floating_point():
        correct = (prediction == desired) & (desired != ignore_index)
    return SoftmaxStatistics(log_prob, logsumexp, H, prediction, correct)
