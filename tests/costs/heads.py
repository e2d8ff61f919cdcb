"""An output layer and its cost: as one function, and one after the other."""

import torch
from torch.nn import functional as F

from ce_torch.functional import linear_log_likelihood, log_likelihood


def layer(N=7, D=5, K=9, dtype=torch.float64, bias=True, scale=1.0):
    """Return x, weight and, if asked for, bias of a layer, which require gradients."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(N, D), (K, D), (K,)][: 3 if bias else 2]
    return [
        (scale * torch.randn(s, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_() for s in shapes
    ]


def fused(x, weight, bias, y, **options):
    return linear_log_likelihood(x, weight, y, bias, **options)


def unfused(x, weight, bias, y, class_weight=None, block_rows=None, **options):
    z = F.linear(x, weight, bias)
    if options.keys() & {"token_weight", "denominator", "z_loss"}:
        return weighted(z, y, class_weight, **options)
    return log_likelihood(z, y, weight=class_weight, **options)


def weighted(z, y, class_weight, token_weight=None, denominator=None, z_loss=0.0, reduction="mean", **options):
    C = log_likelihood(z, y, weight=class_weight, reduction="none", **options)
    counted = torch.ones_like(C) if token_weight is None else token_weight
    penalty = z_loss * (z / options.get("temperature", 1)).logsumexp(-1).square()
    if not y.is_floating_point():
        penalty = penalty * (y != options.get("ignore_index", -100))
    C = (C + penalty) * counted
    if not y.is_floating_point():
        is_ignored = y == options.get("ignore_index", -100)
        weights = counted.new_ones(z.shape[-1]) if class_weight is None else class_weight
        counted = counted * weights[y.masked_fill(is_ignored, 0)] * ~is_ignored
    if reduction == "mean":
        return C.sum() / (counted.sum() if denominator is None else denominator)
    return C if reduction == "none" else C.sum()


def compute_both(x, weight, bias=None, *, y, **options):
    return [head(x, weight, bias, y, **options) for head in (fused, unfused)]
