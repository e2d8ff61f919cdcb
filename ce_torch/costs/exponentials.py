"""The log-likelihood of a class for large z, by blocks; what must be known of each row is worked out once.

With e = exp(c z − m), s = Σⱼ eⱼ, and any m that lets s neither overflow nor vanish:

    C = ln s + m − c z_y        δ = c (e / s − y)

m and s, a number a row, are kept for a backward pass that is not differentiated again: it needs no maximum and no sum.
"""

import torch
from torch import Tensor

from ce_torch.costs import blocks
from ce_torch.costs.blocks import parts_of
from ce_torch.costs.precision import wide


def cost(z: Tensor, y: Tensor, c: float) -> tuple[Tensor, tuple[Tensor | None, Tensor]]:
    """Return C, shape (...), and m and s, shape (..., 1); m is None for 0."""
    m, s = None, torch.empty(*z.shape[:-1], 1, dtype=wide(z))
    buffer = blocks.Buffer(z, s.dtype)
    for part in blocks.parts(z.shape):
        z_part, s_part = parts_of((z, s), part)
        e = buffer.like(z_part)
        torch.sum(exponentials(z_part, None, c, e), -1, keepdim=True, out=s_part)
        # Most often m = 0 does. From s = 1 on, what is lost of e to underflow is lost in softmax too.
        smallest, largest = s_part.aminmax()
        if not (smallest.item() >= 1 and largest.item() < 1e20):
            m = torch.zeros_like(s) if m is None else m
            m_part = blocks.part_of(m, part)
            torch.mul(z_part.amax(-1, keepdim=True), c, out=m_part)
            torch.sum(exponentials(z_part, m_part, c, e), -1, keepdim=True, out=s_part)
    c_z_y = times(c, z.gather(-1, y.unsqueeze(-1)).to(s.dtype))
    C = s.log() + (-c_z_y if m is None else m - c_z_y)
    return C.squeeze(-1), (m, s)


def delta(of_example: Tensor, sums: tuple[Tensor | None, Tensor], z: Tensor, y: Tensor, c: float) -> Tensor:
    """Return `of_example` times δ, shaped like z and of its dtype."""
    m, s = sums
    factor = times(c, of_example) / s
    delta, y = torch.empty_like(z), y.unsqueeze(-1)
    buffer = blocks.Buffer(z, s.dtype)
    for part in blocks.parts(z.shape):
        z_part, s_part, factor_part, delta_part = parts_of((z, s, factor, delta), part)
        m_part = None if m is None else blocks.part_of(m, part)
        e = delta_part if z.dtype == s.dtype else buffer.like(z_part)
        exponentials(z_part, m_part, c, e).scatter_add_(-1, blocks.part_of(y, part), -s_part)
        torch.mul(e, factor_part, out=delta_part)
    return delta


def exponentials(z: Tensor, m: Tensor | None, c: float, out: Tensor) -> Tensor:
    """Write exp(c z − m) to `out`, in the fewest passes over it."""
    x = z if z.dtype == out.dtype else out.copy_(z)
    if c != 1:
        x = torch.mul(x, c, out=out)
    if m is not None:
        x = torch.sub(x, m, out=out)
    return torch.exp(x, out=out)


def times(c: float, tensor: Tensor) -> Tensor:
    return tensor if c == 1 else c * tensor
