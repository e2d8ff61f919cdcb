"""The kernels for the numbers of a softmax layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class StatisticsImplementation(NamedTuple):
    """A way to compute the numbers of a softmax layer, and δ.

    `refusal(z, y, ...)` says why these inputs are not supported, and is None if they are. Then
    (p, ℓ, H, ĵ), statistics = numbers(z, y, c, softcap, ignore_index, entropy), and
    δ = delta(g_p, g_ℓ, g_H, statistics, z, y, c, softcap, ignore_index). Statistics are what δ can use of the pass over
    z, or None.
    """

    name: str
    refusal: Callable[..., str | None]
    numbers: Callable[..., tuple[Any, Tensor | None]]
    delta: Callable[..., Tensor]


def statistics_kernels() -> StatisticsImplementation:
    def missing(*_: Any) -> Any:
        raise NotImplementedError

    return StatisticsImplementation("cpp", lambda *inputs: "not yet", missing, missing)
