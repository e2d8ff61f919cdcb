"""A canvas to draw a digit on, for a notebook."""

from pathlib import Path

import anywidget
import torch
import traitlets
from torch import Tensor

SIDE = 56


class Canvas(anywidget.AnyWidget):
    """`ink` holds what is drawn, row by row: 56 × 56 numbers from 0 to 255."""

    _esm = Path(__file__).with_name("canvas.js")
    ink = traitlets.List(traitlets.Int(), default_value=[0] * SIDE**2).tag(sync=True)


def drawing(ink: list[int]) -> Tensor:
    return torch.tensor(ink).view(SIDE, SIDE) / 255
