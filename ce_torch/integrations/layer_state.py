"""The state of an output layer: logits that are made later can tell by it that they would be others by now."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ce_torch.costs._torch_private import FakeTensor, count_changes, is_transformed

SAMPLES = 1 << 14  # of a parameter, spread over it; a step of an optimizer changes more or less all numbers


@dataclass(frozen=True, eq=False)
class LayerState:
    """What the outputs of a layer for inputs x are made of, at one time."""

    changes: list[int]  # of x and of each parameter in place, as far as PyTorch counts them
    samples: list[Tensor | None]  # numbers of each parameter: writing to `parameter.data` is not counted
    adapters: tuple[Any, ...]  # PEFT's, and which of them are in force

    @classmethod
    def now(cls, layer: Any, x: Tensor) -> Self:
        parameters = [*layer.parameters()]
        return cls([*map(changes, (x, *parameters))], [*map(sample, parameters)], adapters(layer))

    def is_still(self, now: Self) -> bool:
        """Return True if the layer's outputs would be the same now, as far as can be told."""
        return (
            (self.changes, self.adapters) == (now.changes, now.adapters)
            and len(self.samples) == len(now.samples)
            and all(map(are_equal, self.samples, now.samples))
        )


def changes(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else count_changes(tensor)


def sample(parameter: Tensor) -> Tensor | None:
    """Return some of a parameter's numbers, or None where there are none to compare."""
    if parameter.is_meta or isinstance(parameter, FakeTensor) or is_transformed():
        return None
    held = getattr(parameter, "ds_tensor", None)  # the part of a parameter that DeepSpeed's ZeRO-3 leaves here
    if held is None:
        held = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return held.detach().flatten()[:: held.numel() // SAMPLES + 1].clone()


def are_equal(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return torch.equal(first, second)


def adapters(layer: Any) -> tuple[Any, ...]:
    if not hasattr(layer, "active_adapters"):
        return ()
    return [*layer.active_adapters], layer.disable_adapters, [*layer.merged_adapters], {**layer.scaling}
