"""Where the numbers of a tensor lie in memory. Between them lies nan, or a class that there is not."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fuzzing.draw import Draw


def filled(shape: list[int], like: Tensor) -> Tensor:
    if like.is_floating_point():
        return like.new_full(shape, torch.nan)
    return like.new_full(shape, 255 if like.dtype == torch.uint8 else 1 << 40)


def contiguous(draw: "Draw", tensor: Tensor) -> Tensor:
    return tensor.contiguous()


def permuted(draw: "Draw", tensor: Tensor) -> Tensor:
    order = draw.random.sample(range(tensor.ndim), tensor.ndim)
    return tensor.permute(order).contiguous().permute([order.index(dim) for dim in range(tensor.ndim)])


def classes_first(draw: "Draw", tensor: Tensor) -> Tensor:
    return tensor.movedim(-1, 0).contiguous().movedim(0, -1) if tensor.ndim else tensor


def with_an_offset(draw: "Draw", tensor: Tensor) -> Tensor:
    start = draw.integer(1, 5)
    memory = filled([start + tensor.numel()], tensor)
    return memory[start:].view(tensor.shape).copy_(tensor)


def sliced(draw: "Draw", tensor: Tensor) -> Tensor:
    steps, starts = ([draw.integer(low, low + 2) for _ in tensor.shape] for low in (1, 0))
    sizes = [size * step + start for size, step, start in zip(tensor.shape, steps, starts, strict=True)]
    memory = filled(sizes, tensor)
    parts = tuple(slice(start, None, step) for start, step in zip(starts, steps, strict=True))
    return memory[parts].copy_(tensor) if parts else tensor


def expanded(draw: "Draw", tensor: Tensor) -> Tensor:
    """Return the first number along some dimension for all of them."""
    dims = [dim for dim in range(tensor.ndim) if tensor.shape[dim] > 0]
    return tensor.narrow(draw.one_of(*dims), 0, 1).expand_as(tensor) if dims else tensor


LAYOUTS: Mapping[str, Callable[["Draw", Tensor], Tensor]] = {
    "contiguous": contiguous,
    "permuted": permuted,
    "classes first": classes_first,
    "with an offset": with_an_offset,
    "sliced": sliced,
    "expanded": expanded,
}
