"""A digit that somebody drew, made like those of MNIST."""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad

SIDE, BOX = 28, 20


def like_mnist(drawing: Tensor) -> Tensor:
    """Return a drawing, of any size and with ink from 0 to 1, as the 784 pixels of an image of MNIST.

    As the digits of MNIST were, it is scaled to fit a box of 20 × 20 pixels, its proportions kept, and moved so that
    the centre of mass of its ink is the middle of 28 × 28. A drawing without ink gives an empty image.
    """
    if not (drawing > 0).any():
        return torch.zeros(SIDE * SIDE)
    digit = fit(cut_out(drawing.float()))
    height, width = digit.shape
    digit = pad(digit, (0, SIDE - width, 0, SIDE - height))
    return centred(digit).flatten()


def cut_out(drawing: Tensor) -> Tensor:
    """Return the smallest rectangle that has all ink in it."""
    rows, columns = ((drawing > 0).any(dim).nonzero().squeeze(1) for dim in (1, 0))
    return drawing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def fit(digit: Tensor) -> Tensor:
    longest = max(digit.shape)
    size = [max(1, round(BOX * side / longest)) for side in digit.shape]
    return interpolate(digit[None, None], size, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)


def centred(image: Tensor) -> Tensor:
    """Return the image moved, by parts of pixels too, so that its centre of mass is in its middle."""
    places = torch.linspace(-1 + 1 / SIDE, 1 - 1 / SIDE, SIDE)  # of the pixels' middles, as `grid_sample` counts
    y, x = ((image.sum(dim) * places).sum() / image.sum() for dim in (1, 0))
    move = torch.tensor([[[1, 0, x], [0, 1, y]]])
    grid = affine_grid(move, [1, 1, SIDE, SIDE], align_corners=False)
    return grid_sample(image[None, None], grid, align_corners=False)[0, 0]
