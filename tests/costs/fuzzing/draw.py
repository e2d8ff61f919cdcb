"""A combination of a cost, its options, dtypes, strides, values and a mode, drawn from a seed and an index."""

import inspect
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ce_torch.costs._registry import COSTS
from fuzzing.layouts import LAYOUTS

DTYPES = torch.float64, torch.float32, torch.bfloat16, torch.float16
# What is asked of autograd, and how often.
MODES = {
    "gradients": 10,
    "two upstream gradients": 3,
    "second derivatives": 3,
    "forward": 3,
    "forward over reverse": 2,
    "vmap": 3,
    "torch.func.grad": 2,
    "vmap of grad": 3,
}
BATCHED = "vmap", "vmap of grad"
HIGHER = "second derivatives", "forward over reverse"
BACKENDS = {"auto": 6, "kernels": 3, "blocks": 3, "formulas": 2}
Item = TypeVar("Item")


class Draw:
    """Random choices, the same for the same seed and index."""

    def __init__(self, seed: int, index: int) -> None:
        self.random = random.Random(f"{seed} {index}")
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(40))

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def one_of(self, *items: Item) -> Item:
        return self.random.choice(items)

    def weighted(self, weights: Mapping[Item, float]) -> Item:
        return self.random.choices([*weights], [*weights.values()])[0]

    def integer(self, lowest: int, highest: int) -> int:
        return self.random.randint(lowest, highest)

    def number(self, lowest: float, highest: float) -> float:
        return self.random.uniform(lowest, highest)

    def power(self, lowest: float, highest: float) -> float:
        """Return a power of 10 with an exponent between these."""
        return 10 ** self.number(lowest, highest)

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def classes(self, shape: Sequence[int], count: int) -> Tensor:
        return torch.randint(count, shape, generator=self.generator)

    def mask(self, shape: Sequence[int], probability: float) -> Tensor:
        return self.uniform(shape) < probability

    def tensor(self, values: Tensor, dtype: torch.dtype, layouts: Sequence[str]) -> Tensor:
        """Return the values in this dtype, somehow laid out in memory."""
        layout = "contiguous" if self.chance(0.4) else self.one_of(*layouts)
        return LAYOUTS[layout](self, values.to(dtype))


@dataclass
class Combination:
    """A call of a cost, and what is asked of it.

    In modes with a batch its size comes first in every tensor whose name is not in `shared`.
    """

    cost: str
    mode: str
    draw: Draw = field(repr=False)
    shape: tuple[int, ...] = ()  # of z without the batch, classes last
    batch: int | None = None
    shared: tuple[str, ...] = ()
    kind: str = ""  # of y
    values: str = ""  # of z
    tensors: dict[str, Tensor] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    wanted: list[str] = field(default_factory=list)  # the tensors that a gradient is asked for
    backend: str = "auto"
    block_elements: int = 0
    threads: int = 1

    @property
    def classes(self) -> int:
        return self.shape[-1]

    @property
    def is_softmax(self) -> bool:
        return COSTS[self.cost].cost_functions[0].spec.family == "softmax"

    @property
    def layouts(self) -> list[str]:
        """What is spoilt must stay where it does not count; PyTorch has no tangents for numbers that share memory."""
        may_expand = "spoilt" not in self.values and "forward" not in self.mode
        return [name for name in LAYOUTS if name != "expanded" or may_expand]

    def full_shape(self, shape: Sequence[int], name: str) -> tuple[int, ...]:
        """Return the shape with the batch, if the tensor of this name has one."""
        return tuple(shape) if self.batch is None or name in self.shared else (self.batch, *shape)

    def call(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return what the library makes of it."""
        options = {**self.options, **tensors}
        return COSTS[self.cost].function(options.pop("z"), options.pop("y"), **options)

    def __str__(self) -> str:
        tensors = {
            name: f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} by {tensor.stride()}"
            for name, tensor in self.tensors.items()
        }
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        blocks = f" of {self.block_elements}" if self.block_elements else ""
        return (
            f"{self.cost}, {self.mode} by {', '.join(self.wanted)}, backend {self.backend}{blocks}, {threads}, "
            f"{self.values} z, y {self.kind}, {tensors}, {self.options}"
            f"{f', shared in the batch: {self.shared}' if self.shared else ''}"
        )


def option_names(cost: str) -> list[str]:
    return [p.name for p in inspect.signature(COSTS[cost].function).parameters.values() if p.kind is p.KEYWORD_ONLY]


def defaults(cost: str) -> dict[str, Any]:
    return dict(COSTS[cost].defaults)


def combination(seed: int, index: int) -> Combination:
    """Return the combination of this seed and index."""
    draw = Draw(seed, index)
    result = Combination(draw.one_of(*COSTS), draw.weighted(MODES), draw)
    result.options = defaults(result.cost)
    result.shape = draw_shape(draw, result.mode)
    if result.mode in BATCHED:
        result.batch = draw.integer(1, 3)
    result.kind = draw_kind(result)
    if result.batch and draw.chance(0.3):
        result.shared = (draw.one_of("z", "y"),)
    if result.cost == "quadratic":
        result.options["activation"] = OPTIONS["activation"](result)
    result.values = draw_values_kind(result)
    dtype = draw.one_of(*DTYPES)
    z, y = draw_z(result, dtype), draw_y(result)
    for name in option_names(result.cost):
        if name not in ("activation", "dim") and draw.chance(0.5):
            value = OPTIONS[name](result)
            if value is not None:
                result.options[name] = value
    y = ignore(result, y)
    z, y = spoil(result, z, y)
    place(result, z, y, dtype)
    result.wanted = draw_wanted(result)
    result.backend = draw.weighted(BACKENDS)
    result.block_elements = draw.integer(1, 60) if result.backend == "blocks" and math.prod(result.shape) < 1000 else 0
    result.threads = draw.one_of(1, 1, 2)
    return result


def draw_shape(draw: Draw, mode: str) -> tuple[int, ...]:
    size = draw.weighted({"small": 200, "middle": 12, "long": 4, "longest": 1, "many": 3})
    if mode in (*HIGHER, *BATCHED):
        size = "small"
    if size == "middle":
        columns = draw.integer(41, 700)
        return draw.integer(columns // 3, columns), columns
    if size == "long":
        return draw.integer(1, 3), draw.integer(4097, 5000)
    if size == "longest":
        return draw.integer(1, 2), draw.integer(32769, 33000)
    if size == "many":
        return draw.integer(1000, 5000), draw.integer(2, 20)
    leading = tuple(draw.one_of(1, 2, 2, 3, 4, 5, 7) for _ in range(draw.weighted({0: 1, 1: 5, 2: 3, 3: 1})))
    if leading and draw.chance(0.03):
        position = draw.integer(0, len(leading) - 1)
        leading = *leading[:position], 0, *leading[position + 1 :]
    return *leading, draw.one_of(1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 31, 32, 33, 40)


def draw_kind(of: Combination) -> str:
    kinds = {"classes": 6, "soft": 4, "one-hot": 2}
    if "ignore_index" in of.options:
        kinds |= {"classes, some ignored": 4, "classes, all ignored": 1}
    return of.draw.weighted(kinds)


def draw_values_kind(of: Combination) -> str:
    kinds = {"normal": 6, "large": 2, "saturated": 1, "tiny": 1, "equal": 1, "shifted": 1}
    if of.mode not in HIGHER:
        kinds |= {"huge": 1}
        if of.mode != "forward":
            kinds |= {"extreme": 1, "infinite": 1}
    return of.draw.weighted(kinds)


def draw_z(of: Combination, dtype: torch.dtype) -> Tensor:
    draw, shape = of.draw, of.full_shape(of.shape, "z")
    z = draw.normal(shape)
    highest = 4 if dtype == torch.float16 else 15 if of.options.get("activation") == "linear" else 30
    signed = {
        "normal": lambda: 2 * z,
        "large": lambda: 30 * z,
        "saturated": lambda: z.sign() * draw.number(17, 60),
        "tiny": lambda: z * draw.power(-8, -3),
        "equal": lambda: z[..., :1].expand(shape).clone(),
        "shifted": lambda: z + draw.power(1, 2.4),
        "huge": lambda: z.sign() * 10 ** (4 * draw.uniform(shape)),
        "extreme": lambda: z.sign() * 10 ** (highest * draw.uniform(shape)),
        "infinite": lambda: z.where(draw.mask(shape, 0.8), z.sign() * torch.inf),
    }
    z = signed[of.values]().to(dtype)
    if of.is_softmax:
        # With all classes ruled out the cost is nan.
        z[..., :1] = z[..., :1].where(z[..., :1] > -torch.inf, 1)
    return z


def draw_y(of: Combination) -> Tensor:
    draw, shape = of.draw, of.full_shape(of.shape, "y")
    if of.kind == "soft":
        y = draw.uniform(shape)
        if of.is_softmax and draw.chance(0.7):
            y = torch.softmax(3 * y, -1)
        return y.masked_fill(draw.mask(shape, 0.1), 0).masked_fill(draw.mask(shape, 0.1), 1)
    classes = draw.classes(shape[:-1], of.classes)
    return classes if of.kind != "one-hot" else torch.nn.functional.one_hot(classes, of.classes).double()


def ignore(of: Combination, y: Tensor) -> Tensor:
    """Return y with the classes to ignore."""
    ignored = of.options.get("ignore_index")
    if of.kind == "classes, some ignored":
        return y.masked_fill(of.draw.mask(y.shape, 0.4), ignored)
    return torch.full_like(y, ignored) if of.kind == "classes, all ignored" else y


def spoil(of: Combination, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return z and y with nan and infinities in some of what does not count: ignored, or of weight 0."""
    draw, weight = of.draw, of.tensors.get("weight")
    if of.batch or not draw.chance(0.5):
        return z, y
    if "ignored" in of.kind:
        spoilt = (y == of.options["ignore_index"]).unsqueeze(-1) & draw.mask(z.shape, 0.5)
        of.values += ", spoilt"
        return z.masked_fill(spoilt, draw.one_of(torch.nan, torch.inf, -torch.inf)), y
    mask = of.tensors.get("mask")
    hollow = torch.zeros(()) != 0 if weight is None else weight == 0
    hollow = hollow if mask is None else hollow | ~mask
    if not of.is_softmax and hollow.any():
        of.values += ", spoilt"
        z = z.masked_fill(hollow & draw.mask(z.shape, 0.5), torch.nan)
        if y.is_floating_point():
            y = y.masked_fill(hollow & draw.mask(y.shape, 0.5), draw.one_of(torch.nan, torch.inf))
    return z, y


def draw_weight_shape(of: Combination, name: str) -> tuple[int, ...]:
    """Draw the shape of a weight: of each class for a softmax, one that broadcasts to z else."""
    draw = of.draw
    shape: tuple[int, ...] = of.shape[-1:]
    if not of.is_softmax and draw.chance(0.6):
        shape = tuple(1 if draw.chance(0.4) else size for size in of.shape[draw.integer(0, len(of.shape)) :])
    if of.batch and draw.chance(0.6):
        of.shared = *of.shared, name
    return of.full_shape(shape, name)


def draw_mask(of: Combination) -> None:
    shape = draw_weight_shape(of, "mask")
    of.tensors["mask"] = of.draw.tensor(of.draw.mask(shape, of.draw.one_of(0.7, 0.1)), torch.bool, of.layouts)


def draw_weight(of: Combination, name: str) -> None:
    draw = of.draw
    shape = draw_weight_shape(of, name)
    weight = 3 * draw.uniform(shape)
    if draw.chance(0.3):
        weight = weight.masked_fill(draw.mask(shape, 0.3), 0)
    of.tensors[name] = draw.tensor(weight, draw.one_of(*DTYPES), of.layouts)


def draw_temperature(of: Combination) -> float | None:
    draw = of.draw
    if draw.chance(0.4):
        if of.batch and draw.chance(0.6):
            of.shared = *of.shared, "temperature"
        temperature = 10 ** (draw.uniform(of.full_shape((), "temperature")) * 2 - 1)
        of.tensors["temperature"] = draw.tensor(temperature, draw.one_of(*DTYPES), of.layouts)
        return None
    if of.mode in (*HIGHER, "forward"):
        return draw.power(-2, 2)
    return draw.one_of(2, 0.5, draw.power(-2, 2), draw.power(-2, 2), 1e-38, draw.power(-38, 38), 1e38)


def draw_ignore_index(of: Combination) -> int:
    draw = of.draw
    if "classes" not in of.kind or draw.chance(0.5):
        return draw.one_of(-1, -7)
    return draw.integer(0, of.classes - 1)


# Every option of every cost: its value, or None for the default, or for a tensor, which is among the tensors then.
OPTIONS: dict[str, Callable[[Combination], Any]] = {
    "activation": lambda of: of.draw.one_of("sigmoid", "linear"),
    "alpha": lambda of: of.draw.one_of(0, 1, 0.5, of.draw.number(0, 1)),
    "gamma": lambda of: of.draw.one_of(0, 0.5, 1, 1.5, 2, 3, of.draw.number(0, 5)),
    "ignore_index": draw_ignore_index,
    "label_smoothing": lambda of: of.draw.one_of(0.1, 1, of.draw.number(0, 1), of.draw.power(-8, -1)),
    "mask": draw_mask,
    "out_dtype": lambda of: of.draw.one_of(*DTYPES),
    "pos_weight": lambda of: draw_weight(of, "pos_weight"),
    "reduction": lambda of: of.draw.one_of("sum", "none", *[] if of.is_softmax else ["element_mean"]),
    "temperature": draw_temperature,
    "weight": lambda of: draw_weight(of, "weight"),
    "dim": lambda of: of.draw.integer(-len(of.shape), len(of.shape) - 1),
}


def place(of: Combination, z: Tensor, y: Tensor, dtype: torch.dtype) -> None:
    """Lay z and y out in memory, the classes where `dim` says."""
    draw = of.draw
    # Of classes in more dimensions shapes alone may not say where they are.
    of.options["dim"] = None if len(of.shape) <= 3 else -1
    dim = -1
    if draw.chance(0.5):
        of.options["dim"] = dim = OPTIONS["dim"](of)
    if dim >= 0:
        dim -= len(of.shape)
    for name in ("weight", "pos_weight", "mask"):
        if dim != -1 and name in of.tensors and not of.is_softmax:
            weight, first = of.tensors[name], of.full_shape((), name)
            shape = weight.shape[len(first) :]
            full = *first, *(1,) * (len(of.shape) - len(shape)), *shape
            of.tensors[name] = weight.reshape(full).movedim(-1, dim)
    of.tensors["z"] = draw.tensor(z.movedim(-1, dim), dtype, of.layouts)
    if y.is_floating_point():
        y_dtype = dtype if draw.chance(0.4) else draw.one_of(*DTYPES)
        of.tensors["y"] = draw.tensor(y.movedim(-1, dim), y_dtype, of.layouts)
    else:
        is_small = of.classes <= 256 and "ignored" not in of.kind
        of.tensors["y"] = draw.tensor(y, torch.uint8 if is_small and draw.chance(0.2) else torch.int64, of.layouts)


def draw_wanted(of: Combination) -> list[str]:
    """Return the names of tensors, more often than not that of z, never of what has no gradient."""
    names = [
        name
        for name, tensor in of.tensors.items()
        if tensor.is_floating_point()
        and of.draw.chance(0.9 if name == "z" else 0.5)
        and not (name == "weight" and "spoilt" in of.values)
        and not (name == "y" and of.cost == "focal" and of.values in ("huge", "extreme", "infinite"))
        and not (name in ("temperature", "weight") and of.is_softmax and of.values.startswith("infinite"))
    ]
    return names or ["z"]
