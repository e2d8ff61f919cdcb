"""The layouts of z and y in benchmarks.costs: rows, strided rows, and images, whose classes are dimension 1."""

from torch import Tensor

ROWS, *STRIDED = "rows", "transposed", "every second column"
IMAGES = ("image", "image, channels last")


def arrange(tensor: Tensor, layout: str) -> Tensor:
    """Return the tensor of shape (N, K) or (N, K, H, W) with the strides of a layout."""
    if layout == "transposed":
        return tensor.t().contiguous().t()
    if layout == "every second column":
        return tensor.repeat_interleave(2, -1)[:, ::2]
    if layout == "image, channels last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    return tensor
