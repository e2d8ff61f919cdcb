"""Gradients that forward passes keep for their backward passes, at most one of the size of a weight at a time."""

from threading import Lock
from weakref import WeakValueDictionary

from torch import Tensor

from ce_torch.costs._torch_private import base

HELD = "the gradients are worked out in the backward pass, since an earlier cost by the same weight holds its own"


class HeldGradients:
    """The gradients of a layer by its inputs, with room for that of a weight, which stays alive for as long.

    Or z of some tiles of so many classes, in the memory that the gradient of the weight will have.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.gradients: tuple[Tensor, ...] | None = None
        self.z: Tensor | None = None
        self.tile_classes = 0


# By the id of the weight: ids of tensors that are alive are distinct. Entries end with the graphs that hold them.
held_gradients: WeakValueDictionary[int, HeldGradients] = WeakValueDictionary()
lock = Lock()


def reserve(weight: Tensor) -> HeldGradients | None:
    """Return a place for gradients, or None if there is one for the same weight, or another view of it, already."""
    weight = base(weight)
    with lock:
        if id(weight) in held_gradients:
            return None
        place = held_gradients[id(weight)] = HeldGradients(weight)
    return place
