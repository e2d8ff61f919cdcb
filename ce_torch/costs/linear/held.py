"""Gradients that forward passes keep for their backward passes, at most one of the size of a weight at a time."""

import ctypes
from itertools import count
from threading import Lock
from typing import NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ce_torch.costs._torch_private import base

HELD = "the gradients are worked out in the backward pass, since an earlier cost by the same weight holds its own"


class KeptTiles(NamedTuple):
    """z of the first tiles of a layer, of so many classes each, in memory that the gradient of its weight will have.

    Or in place of z exponentials in 16 bits, exp(c (φ(z) − φ(m))), with φ(m) of each example in `phi`, which has a row
    for each block of classes: m is the largest z so far. Or φ(z) in 16 bits.
    """

    memory: Tensor
    phi: Tensor | None
    classes: int


class HeldGradients:
    """The gradients of a layer by its inputs, or its first tiles, and a weight that stays alive for as long."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.gradients: tuple[Tensor, ...] | None = None
        self.tiles: KeptTiles | None = None


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


class Ticket(ctypes.c_int64 * 1):
    """The memory of a tensor, by whose number what is held is found as long as the tensor is there."""

    held: HeldGradients


numbers = count(1)
held_by_number: WeakValueDictionary[int, HeldGradients] = WeakValueDictionary()


def new_ticket(held: HeldGradients | None) -> Tensor:
    """Return a tensor that an operator can return, and that keeps alive what is held; of 0 if nothing is."""
    if held is None:
        return torch.zeros(1, dtype=torch.int64)
    ticket = Ticket(next(numbers))
    ticket.held = held_by_number[ticket[0]] = held
    return torch.frombuffer(ticket, dtype=torch.int64)


def find_held(ticket: Tensor) -> HeldGradients | None:
    """Return what is held by a ticket, or a copy of it, or None if nothing is any more."""
    return held_by_number.get(int(ticket.item()))
