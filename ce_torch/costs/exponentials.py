"""The log-likelihood of a class for large z, by blocks; what must be known of each row is worked out once.

With e = exp(c z − m), s = Σⱼ eⱼ, and any m that lets s neither overflow nor vanish:

    C = ln s + m − c z_y        δ = c (e / s − y)

m and s, a number a row, are kept for a backward pass that is not differentiated again: it needs no maximum and no sum.
"""

import torch
from torch import Tensor

from ce_torch.costs import blocks
from ce_torch.costs.autograd import wide
from ce_torch.costs.blocks import parts_of


def cost(z: Tensor, y: Tensor, c: float) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return C, shape (...), and m and s, shape (..., 1)."""
    m = torch.zeros(*z.shape[:-1], 1, dtype=wide(z))
    s = torch.empty_like(m)
    buffer = blocks.Buffer(z, m.dtype)
    for part in blocks.parts(z.shape):
        z_part, m_part, s_part = parts_of((z, m, s), part)
        e = buffer.like(z_part)
        torch.sum(exponentials(z_part, None, c, e), -1, keepdim=True, out=s_part)
        # Most often m = 0 does. From s = 1 on, what is lost of e to underflow is lost in softmax too.
        smallest, largest = s_part.aminmax()
        if not (smallest >= 1 and largest < 1e20):
            torch.mul(z_part.amax(-1, keepdim=True), c, out=m_part)
            torch.sum(exponentials(z_part, m_part, c, e), -1, keepdim=True, out=s_part)
    C = s.log() + (m - c * z.gather(-1, y.unsqueeze(-1)))
    return C.squeeze(-1), (m, s)


def delta(of_example: Tensor, sums: tuple[Tensor, Tensor], z: Tensor, y: Tensor, c: float) -> Tensor:
    """Return `of_example` times δ, shaped like z and of its dtype."""
    m, s = sums
    factor = of_example * c / s
    delta = blocks.new_delta(z)
    buffer = blocks.Buffer(z, m.dtype)
    for part in blocks.parts(z.shape):
        z_part, y_part, m_part, s_part, factor_part, delta_part = parts_of((z, y, m, s, factor, delta), part)
        e = delta_part if z.dtype == m.dtype else buffer.like(z_part)
        exponentials(z_part, m_part if m_part.any() else None, c, e)
        e.scatter_add_(-1, y_part.unsqueeze(-1), -s_part)
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
