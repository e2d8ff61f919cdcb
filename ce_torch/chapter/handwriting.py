"""Turn a drawn digit into an image like those of MNIST."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

SIDE, BOX, MIDDLE = 28, 20, 14


def to_mnist(drawing: Tensor) -> Tensor:
    """Return a drawing, of any size and with ink from 0 to 1, as the 784 pixels of an image of MNIST.

    Like the digits of MNIST, it is scaled to a box of 20 × 20 pixels without distortion, and placed so that the centre
    of mass of its ink is the middle of 28 × 28. A drawing without ink gives an empty image.
    """
    if not (drawing > 0).any():
        return torch.zeros(SIDE * SIDE)
    return centre(fit(crop(drawing.float()))).flatten()


def crop(drawing: Tensor) -> Tensor:
    """Return the smallest rectangle that holds all ink."""
    rows, columns = ((drawing > 0).any(dim).nonzero().squeeze(1) for dim in (1, 0))
    return drawing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def fit(digit: Tensor) -> Tensor:
    longest = max(digit.shape)
    size = [max(1, round(BOX * side / longest)) for side in digit.shape]
    return interpolate(digit[None, None], size, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)


def centre(digit: Tensor) -> Tensor:
    """Return an image of 28 × 28 pixels with the digit's centre of mass at pixel 14, as nearly as possible."""
    start = []
    for dim, length in enumerate(digit.shape):
        ink = digit.sum(1 - dim)
        balance = (ink * torch.arange(length)).sum() / ink.sum()
        start.append(min(max(round(MIDDLE - balance.item()), 0), SIDE - length))
    image = torch.zeros(SIDE, SIDE)
    top, left = start
    image[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return image
