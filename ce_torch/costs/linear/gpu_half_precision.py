"""The cost of a layer in bfloat16 for classes y, and its gradients, on a GPU, without z and each rounded once.

Two passes go over z, by PyTorch's products and kernels. The first goes over all classes of a stripe of examples, and
sums Σ eⱼ Wⱼ, e = exp(c (z − m)), for the gradient of x, scaled down whenever m grows. The second goes over all examples
of a block of classes, and multiplies δᵀ x. So no gradient needs a sum in float32 of its own size. In notation of
`example_blocks`,

    δⱼ = g (T eⱼ / s − off_valueⱼ),  and  g ((T − on_value) e_y − on_value Σ e of the others) / s  − g off_value_y  at y

Until it is written the gradient of the weight, of K × D numbers, keeps e of the first D examples, whose z the second
pass needs not work out again. Whatever else a pass needs is in its last rows. z, e and δ have a row for each class.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ce_torch.costs._product import product
from ce_torch.costs._softmax import exponents
from ce_torch.costs.kernels import gpu
from ce_torch.costs.linear.blocks import split
from ce_torch.costs.linear.class_blocks import Statistics
from ce_torch.costs.linear.layer import Layer
from ce_torch.costs.linear.room import Size, borrow, count_bytes, lent_bytes

# Products of these sizes keep a large GPU busy.
STRIPE_EXAMPLES, STRIPE_CLASSES = 1024, 8192
BLOCK_CLASSES, BLOCK_ELEMENTS = 1024, 1 << 24
# The last rows of the gradient lend less and less: blocks shrink to so many classes, or so many multiplications.
FEWEST_CLASSES, FEWEST_MULTIPLICATIONS = 128, 1 << 31
# Products take multiples of so many classes in whole tiles.
UNIT = 128
# What a program holds at once: of a stripe, of a block, and of a row of inputs.
STRIPE_TILE = {"tile": 8, "tile_classes": 1024, "tile_inputs": 512}
BLOCK_TILE = {"tile": 128, "tile_classes": 32}
TILE = 2048
# Sums over classes are made of parts with so many rows in float32.
SUM_ROWS = 1024


def supports(x: Tensor, weight: Tensor) -> bool:
    """Return True if the kernels support this layer."""
    # In float16 exp(c (z − m)) vanishes too soon.
    is_half = x.dtype == weight.dtype == torch.bfloat16
    return is_half and x.numel() > 0 and gpu.refusal(x, weight) is None


class Sums(NamedTuple):
    """m = maxⱼ zⱼ, Σ exp(c (zⱼ − m)) without class y, and z_y, of each example."""

    m: Tensor
    others: Tensor
    z_y: Tensor

    def part(self, examples: slice) -> Self:
        return type(self)(*(number[examples] for number in self))


class Inputs:
    """A layer's tensors as the kernels take them, and what off_value adds up to."""

    def __init__(self, layer: Layer, c: float) -> None:
        assert layer.on_value is not None
        self.x, self.weight, self.y = layer.x.contiguous(), layer.weight.contiguous(), layer.y.contiguous()
        self.bias = None if layer.bias is None else layer.bias.contiguous()
        self.c = gpu.normal(c, torch.float32)
        self.on_value = layer.on_value.float().contiguous()
        self.off_value, self.off_weight, self.off_bias, self.off_total = None, None, 0.0, 0.0
        if layer.off_value is not None:
            self.off_value = layer.off_value.float().contiguous()
            self.off_weight, self.off_total = weighted_sum(self.weight, self.off_value), self.off_value.sum()
            self.off_bias = 0.0 if self.bias is None else product(self.off_value, self.bias.float()).sum()

    def z(self, memory: Tensor, classes: slice, examples: slice) -> Tensor:
        """Return W xᵀ of these classes and examples, in memory that is large enough."""
        rows = self.x[examples]
        z = view(memory, classes, len(rows))
        gpu.multiply(self.weight[classes], rows.mT, z)
        return z

    def delta_factors(self, sums: Sums, factor: Tensor, examples: slice = slice(None)) -> tuple[Tensor, ...]:
        """Return g T / s, δ of class y without the part of its off_value, and g, for g = c factor, of examples."""
        m, others, z_y = sums.part(examples)
        g, on_value, e_y = self.c * factor[examples], self.on_value[examples], exponents(z_y, m, self.c).exp()
        T, s = on_value + self.off_total, others + e_y
        return product(g, T / s), product(g, (self.off_total * e_y - on_value * others) / s), g

    def cost(self, sums: Sums) -> tuple[Tensor, Statistics]:
        """Return C and the statistics of each example."""
        x_y = exponents(sums.z_y, sums.m, self.c)
        r, T, t_x = sums.others + x_y.expm1(), self.on_value + self.off_total, product(self.on_value, x_y)
        if self.off_weight is not None:
            # Σ off_value z is a product with Σ off_valueⱼ Wⱼ.
            off_value_z = weighted_sum(self.x.mT, self.off_weight) + self.off_bias
            t_x = t_x + self.c * (off_value_z - self.off_total * sums.m)
        return product(T, r.log1p()) - t_x, Statistics(sums.m, r, T, torch.zeros_like(r))


class Kept(NamedTuple):
    """e of the first classes and examples, and the m of each stripe of classes when its e were written."""

    e: Tensor
    m: Tensor

    @classmethod
    def within(cls, gradient: Tensor, examples: int, lent: int) -> Self:
        """Return memory in the gradient of the weight, which lends so many bytes to others, if it has them."""
        K, D = gradient.shape
        rows = -(-lent // (D * gradient.element_size()))
        rows += UNIT - rows % UNIT
        classes = K - rows if rows < K else K
        e = gradient[:classes, : min(examples, D) if K else 0]
        stripes = -(-classes // STRIPE_CLASSES)
        return cls(e, e.new_empty((stripes, e.shape[1]), dtype=torch.float32))

    @property
    def classes(self) -> int:
        return self.e.shape[0]

    @property
    def examples(self) -> int:
        return self.e.shape[1]

    def part(self, classes: slice, examples: slice) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Return e and m of these classes and examples, if they are kept."""
        if classes.stop > self.classes or examples.stop > self.examples:
            return None, None
        return self.e[classes, examples], self.m[classes.start // STRIPE_CLASSES, examples]


def cost(layer: Layer, c: float) -> tuple[Tensor, Statistics]:
    """Return C of each example, and its statistics."""
    inputs = Inputs(layer, c)
    return inputs.cost(sum_stripes(inputs, inputs.on_value, inputs.weight[:0], None)[0])


def add_gradients(gradients: dict[str, Tensor], layer: Layer, factor: Tensor, c: float) -> Tensor:
    """Return C of each example, and write the gradients of Σ factor · C."""
    inputs, factor = Inputs(layer, c), factor.float().contiguous()
    weight_gradient = gradients.get("weight", inputs.weight[:0])
    sums, kept = sum_stripes(inputs, factor, weight_gradient, gradients.get("x"))
    if "weight" in gradients or "bias" in gradients:
        write_parameter_gradients(inputs, sums, kept, factor, weight_gradient, gradients.get("bias"))
    return inputs.cost(sums)[0]


def sum_stripes(
    inputs: Inputs, factor: Tensor, weight_gradient: Tensor, x_gradient: Tensor | None
) -> tuple[Sums, Kept]:
    """Return the sums of each example, and what is kept, nothing if the gradient of the weight has no rows.

    Write the gradient of Σ factor · C by x, if that is there.
    """
    (N, D), K = inputs.x.shape, len(inputs.weight)
    sums = Sums(torch.full_like(factor, -torch.inf), torch.zeros_like(factor), torch.empty_like(factor))
    examples = min(N, STRIPE_EXAMPLES)
    elements = examples * min(K, STRIPE_CLASSES)
    summed = 0 if x_gradient is None else 1
    sizes = (elements, torch.float32), (elements * summed, inputs.x.dtype), (examples * D * summed, torch.float32)
    of_block = count_bytes(*block_sizes(N, block_classes(N)))
    kept = Kept.within(weight_gradient, N, max(count_bytes(*sizes), min(of_block, weight_gradient.nbytes // 4)))
    z_memory, e_memory, total_memory = borrow(weight_gradient, kept.classes, *sizes)
    for stripe in parts(N, kept.examples, STRIPE_EXAMPLES):
        count = stripe.stop - stripe.start
        total = total_memory.view(-1, D)[:count] if x_gradient is not None else None
        sum_stripe(inputs, stripe, sums.part(stripe), kept, z_memory, e_memory, total)
        if x_gradient is not None:
            factors = inputs.delta_factors(sums, factor, stripe)
            arguments = x_gradient[stripe], total, *factors, inputs.weight, inputs.y[stripe], inputs.off_weight, D
            gpu.run("x_gradient", inputs.x, (count, -(-D // TILE)), *arguments, tile=TILE, num_warps=4)
    return sums, kept


def sum_stripe(
    inputs: Inputs, stripe: slice, sums: Sums, kept: Kept, z_memory: Tensor, e_memory: Tensor, total: Tensor | None
) -> None:
    """Write the sums of a stripe of examples, what is to keep of it, and Σ eⱼ Wⱼ to `total`, if that is there."""
    N, D = stripe.stop - stripe.start, inputs.x.shape[1]
    grid, y = (-(-N // STRIPE_TILE["tile"]),), inputs.y[stripe]
    for block in parts(len(inputs.weight), kept.classes, STRIPE_CLASSES):
        z = inputs.z(z_memory, block, stripe)
        e, m = kept.part(block, stripe)
        if e is None and total is not None:
            e = view(e_memory, block, N)
        sum_before = total if block.start > 0 else None
        place = inputs.c, block.start, *z.shape, 0 if e is None else e.stride(0), D
        arguments = e, m, sum_before, *sums, z, inputs.bias, y, *place
        gpu.run("block_exponentials", z, grid, *arguments, **STRIPE_TILE, num_warps=8)
        if e is not None and total is not None:
            gpu.multiply(e.mT, inputs.weight[block], total, adds=block.start > 0)


def write_parameter_gradients(
    inputs: Inputs, sums: Sums, kept: Kept, factor: Tensor, weight_gradient: Tensor, bias_gradient: Tensor | None
) -> None:
    """Write δᵀ x, if the gradient of the weight has rows, and Σ δ, if that of the bias is there."""
    N = len(inputs.x)
    factors = inputs.delta_factors(sums, factor)
    for block in parameter_blocks(N, len(inputs.weight), kept, weight_gradient):
        first = max(block.stop, kept.classes)
        count, known = block.stop - block.start, kept.examples if block.stop <= kept.classes else 0
        z_memory, delta_memory = borrow(weight_gradient, first, *block_sizes(N, count))
        delta = view(delta_memory, block, N)
        for stripe in parts(N, known, block_examples(N, count)):
            e, m = kept.part(block, stripe)
            source = inputs.z(z_memory, block, stripe) if e is None else e
            numbers = (number[stripe] for number in (sums.m, *factors))
            place = inputs.c, block.start, *source.shape, source.stride(0), N
            arguments = delta[:, stripe], source, m, *numbers, inputs.off_value, inputs.bias, inputs.y[stripe], *place
            grid = -(-source.shape[1] // BLOCK_TILE["tile"]), -(-source.shape[0] // BLOCK_TILE["tile_classes"])
            gpu.run("block_delta", delta, grid, *arguments, **BLOCK_TILE, num_warps=4)
        if len(weight_gradient):
            gpu.multiply_once(delta, inputs.x, weight_gradient[block])
        if bias_gradient is not None:
            bias_gradient[block] = delta.sum(1, dtype=torch.float32)


def parameter_blocks(N: int, K: int, kept: Kept, weight_gradient: Tensor) -> Iterator[slice]:
    """Yield the classes of each block: as many as the gradient's last rows lend memory to, or few with their own."""
    row, D = weight_gradient.shape[1] * weight_gradient.element_size(), weight_gradient.shape[1]
    most = block_classes(N)
    fewest = min(max(FEWEST_MULTIPLICATIONS // (N * D), FEWEST_CLASSES), most)
    counts, start = range(UNIT, most + 1, UNIT), 0
    while start < K:
        is_kept = start < kept.classes
        # What is kept of a block is of one stripe of classes. Where nothing is, a block's own rows do not lend either.
        end = min((start // STRIPE_CLASSES + 1) * STRIPE_CLASSES, kept.classes) if is_kept else K
        lent, own = lent_bytes(weight_gradient, max(start, kept.classes)), 0 if is_kept else row
        fitting = UNIT * bisect_right(counts, lent, key=lambda n: count_bytes(*block_sizes(N, n)) + n * own)
        # Of a few blocks none is smaller than others.
        pieces = -(-(end - start) // max(fitting, fewest))
        count = -(-(end - start) // pieces)
        yield slice(start, start := min(start + count + -count % UNIT, end))


def block_classes(N: int) -> int:
    """Return how many classes a large block has."""
    return max(BLOCK_ELEMENTS // N, BLOCK_CLASSES)


def block_sizes(N: int, classes: int) -> tuple[Size, Size]:
    """Return what z of some examples, and δ of all, take in a block of so many classes."""
    return (block_examples(N, classes) * classes, torch.float32), (N * classes, torch.bfloat16)


def block_examples(N: int, classes: int) -> int:
    """Return of how many examples z of so many classes is worked out at a time."""
    return min(N, BLOCK_ELEMENTS // (2 * classes))


def parts(count: int, first: int, length: int) -> Iterator[slice]:
    """Yield slices of this length that cover 0 to `first`, and from there to `count`."""
    yield from split(first, length)
    for part in split(count - first, length):
        yield slice(first + part.start, first + part.stop)


def view(memory: Tensor, classes: slice, examples: int) -> Tensor:
    """Return the memory's start as a row of so many examples for each of these classes."""
    rows = classes.stop - classes.start
    return memory[: rows * examples].view(rows, examples)


def weighted_sum(rows: Tensor, factor: Tensor) -> Tensor:
    """Return Σⱼ factorⱼ rowsⱼ in float32, of a part of the rows at a time."""
    parts = zip(rows.split(SUM_ROWS), factor.split(SUM_ROWS), strict=True)
    return torch.stack([part_factor @ part.float() for part, part_factor in parts]).sum(0)
