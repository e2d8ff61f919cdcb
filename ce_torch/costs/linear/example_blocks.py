"""The cost of a layer for classes y and its gradients, as numbers that are not differentiated, by blocks of examples.

The kernels of a GPU take z. Where they do not run, zᵀ takes its place: it has a row for each class, as W has, and
products with it are faster than those with z. With eⱼ = exp(c (zⱼ − m)), s = Σⱼ eⱼ, and tⱼ = off_valueⱼ, plus
`on_value` at j = y,

    δⱼ = c (T eⱼ / s − tⱼ)

Each block multiplies T e / s by W and x. The part with off_value follows once, for all examples.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from ce_torch.costs._backend import record
from ce_torch.costs._product import product
from ce_torch.costs._softmax import clamp_infinite, exponents, scale
from ce_torch.costs._torch_private import count_dispatch_modes, is_transformed
from ce_torch.costs.kernels import NOT_PLAIN, gpu, is_plain, layer_numbers
from ce_torch.costs.kernels.layer_numbers import LANES
from ce_torch.costs.kernels.products import add_product, exponentials_, softcap_exponentials_, weighted_inputs
from ce_torch.costs.linear import gpu_half_precision
from ce_torch.costs.linear.blocks import Plan, column, copy_serially, narrow, split
from ce_torch.costs.linear.class_blocks import Statistics, capped, fixed_precision
from ce_torch.costs.linear.gradients import PARAMETERS, Needs
from ce_torch.costs.linear.layer import Layer

# Blocks of fewer examples take longer than tiles, though tiles make four products where blocks make three.
FEWEST_EXAMPLES = 32
# Of z in the gradient of the weight so many classes are copied at a time.
CLASSES = 256
FUSED = "the gradients are worked out with the cost"
PAIRS = ("x", "weight"), ("adapter_x", "adapter_weight")
# The needed gradients by the names of the fields.
Gradients = dict[str, Tensor]


def refusal(layer: Layer, plan: Plan, z_loss: float = 0.0) -> str | None:
    """Return why a layer is not computed by blocks of examples, or None if it is."""
    if layer.y.is_floating_point():
        return "y holds desired outputs"
    if plan.logsumexp or plan.entropy or plan.prediction:
        return "more than the cost is asked for"
    is_half = layer.dtype != layer.x.dtype
    if is_half and not gpu_half_precision.supports(layer.x, layer.weight):
        return "in half precision the gradient by weight would need a sum of its size in float32"
    if reason := general_refusal(layer, plan):
        return reason
    if layer.off_value is not None and not (layer.x.is_cpu or is_half):
        return "label_smoothing is not 0, which a GPU works out by blocks of classes where x has no half precision"
    is_special = plan.softcap is not None or z_loss != 0
    if is_special and (is_half or not layer.x.is_cpu):
        return "softcap and z_loss have no kernel for half precision or a GPU"
    if is_half and plan.max_memory is not None:
        return "max_memory is given, but a GPU's blocks for half precision are of fixed sizes"
    if layer.adapter_x is not None and (is_half or not layer.x.is_cpu):
        return "adapters have no kernel for half precision or a GPU"
    if any(x.dtype != layer.dtype or weight.dtype != layer.dtype for x, weight in layer.pairs()[1:]):
        return "the adapter is of another dtype than x"
    if not is_half and has_few_examples(layer, plan):
        return "blocks would hold few examples, and take longer than tiles"
    if plan.softcap is not None and z_loss != 0 and layer.off_value is not None:
        return "softcap, z_loss and label_smoothing come together"
    return None


def has_few_examples(layer: Layer, plan: Plan) -> bool:
    """Return True if so many blocks would each read all of W, and add to its gradient, that tiles are faster."""
    if layer.adapter_x is not None or (plan.block_rows, plan.max_memory) != (None, None):
        return False
    N, count = layer.sizes.N, plan.block_examples(layer.sizes)
    first = examples_in_gradient(layer, plan) if layer.weight.requires_grad else 0
    is_slow = count < min(N, FEWEST_EXAMPLES) and first < N // 2
    return is_slow and layer_numbers.supports(layer.x, layer.weight)


def general_refusal(layer: Layer, plan: Plan) -> str | None:
    """Return why kernels for layers do not support this one, on whatever device, or None if they do."""
    if layer.c is not None:
        return "temperature is a tensor that does not divide x"
    if plan.shard.group is not None:
        return "the classes are shared out among processes"
    if not all(is_plain(tensor) for tensor in layer if tensor is not None):
        return NOT_PLAIN
    if count_dispatch_modes():
        return "a dispatch mode is active"
    if is_transformed():
        return "torch.func differentiates the cost"
    return None


@fixed_precision
def numbers(layer: Layer, plan: Plan, z_loss: float = 0.0) -> tuple[Tensor, Statistics, Tensor]:
    """Return C + λ ℓ², λ = `z_loss`, and 0 for ℓ and H, shape (3, N); the statistics; and 0 for the predictions."""
    K, x, zero = layer.sizes.K, layer.x, layer.full(0)
    if layer.dtype != x.dtype:
        C, statistics = gpu_half_precision.cost(layer, plan.c)
        return torch.stack([C, zero, zero]), statistics, zero.to(torch.int64)
    C, statistics = layer.full(0), Statistics(*(layer.full(0) for _ in Statistics._fields))
    count = plan.block_examples(layer.sizes)
    memory = x.new_empty(K * columns_of_z(layer, min(layer.sizes.N, count), count))
    for block in split(layer.sizes.N, count):
        part = layer.examples(block)
        z = memory[: K * columns_of_z(layer, len(part.x), count)].view(K, -1)
        part_C, part_statistics = exponentials(filled(part, z.shape[1]), plan, z, z_loss)
        for whole, value in zip((C, *statistics), (part_C, *part_statistics), strict=True):
            whole[block] = value[: len(part.x)]
    return torch.stack([C, zero, zero]), statistics, zero.to(torch.int64)


@fixed_precision
def cost_and_gradients(
    layer: Layer, factor: Tensor, plan: Plan, needs: Needs, z_loss: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return C + λ ℓ² of each example, λ = `z_loss`, and the gradients of Σ factor (C + λ ℓ²) that are needed."""
    N, x = layer.sizes.N, layer.x
    costs = layer.full(0)
    gradients = new_gradients(layer, needs)
    if layer.dtype != x.dtype:
        record("triton", FUSED)
        C = gpu_half_precision.add_gradients(gradients, layer, factor, plan.c)
        return C, tuple(gradients.values())
    gpu_refusal = gpu.refusal(x)
    compute_block = gpu_block if gpu_refusal is None else transposed_block
    record("blocks" if gpu_refusal else "triton", f"triton: {gpu_refusal}; {FUSED}" if gpu_refusal else FUSED)
    for block, memory in blocks(gradients, layer, plan):
        part, part_factor = layer.examples(block), factor[block]
        costs[block] = compute_block(gradients, block, part, part_factor.to(x.dtype), plan, memory, z_loss)
    if layer.off_value is not None and N > 0 and plan.softcap is None:
        subtract_off_value(gradients, layer, layer.off_value, plan.c * factor)
    return costs, tuple(gradients.values())


def new_gradients(layer: Layer, needs: Needs) -> Gradients:
    """Return memory for the needed gradients, of zeros if no example will write to it."""
    new = torch.empty_like if len(layer.x) > 0 else torch.zeros_like
    return {
        name: new(tensor, memory_format=torch.contiguous_format)
        for name, tensor in zip(PARAMETERS, layer, strict=False)
        if name in needs and tensor is not None
    }


def blocks(gradients: Gradients, layer: Layer, plan: Plan) -> Iterator[tuple[slice, Tensor]]:
    """Yield the examples of each block, and memory for its z.

    For many examples there is room in the gradient of the weight, as long as no block has written to it.
    """
    (N, K, *_), count = layer.sizes, plan.block_examples(layer.sizes)
    first = examples_in_gradient(layer, plan) if "weight" in gradients else 0
    if first > count:
        yield slice(0, min(first, N)), gradients["weight"].view(-1)[: K * first]
    else:
        first = 0
    left = max(N - first, 0)
    memory = layer.x.new_empty(K * columns_of_z(layer, min(left, count), count))
    for block in split(left, count):
        columns = columns_of_z(layer, block.stop - block.start, count)
        yield slice(first + block.start, first + block.stop), memory[: K * columns]


def examples_in_gradient(layer: Layer, plan: Plan) -> int:
    """Return how many examples have room for their z in the gradient of the weight."""
    if not layer.x.is_cpu or (plan.block_rows, plan.max_memory) != (None, None):
        return 0
    N, K, D = len(layer.x), *layer.weight.shape
    # Beside z there are copies of x and of its gradient, and a part of z.
    count = min(columns_of_z(layer, N, N + LANES), D, plan.elements(N, K) // (4 * D + CLASSES))
    return count - count % LANES


def columns_of_z(layer: Layer, examples: int, most: int) -> int:
    """Return how many columns zᵀ of a block has: at most as many as there may be, and where kernels run one of 16."""
    return min(examples + -examples % LANES, most) if layer_numbers.supports(layer.x, layer.weight) else examples


def filled(layer: Layer, columns: int) -> Layer:
    """Return the layer with so many examples, the last one again and again."""
    N = len(layer.x)
    return layer if columns == N else layer.examples(torch.arange(columns).clamp_(max=N - 1))


def gradients(g: Tensor, layer: Layer, plan: Plan, _: Statistics, needs: Needs) -> tuple[Tensor, ...]:
    """Return the needed ones of the gradients of Σ g C, for the first row of g."""
    return cost_and_gradients(layer, g[0], plan, needs)[1]


def gpu_block(
    gradients: Gradients, block: slice, layer: Layer, factor: Tensor, plan: Plan, memory: Tensor, _z_loss: float
) -> Tensor:
    """Return C of each example of a block, and add the block's part to the gradients, by the GPU's kernels."""
    z = torch.mm(layer.x, layer.weight.mT, out=memory.view(len(layer.x), -1))
    if layer.bias is not None:
        z += layer.bias
    options = None, plan.c, -1, 0.0
    C, sums = gpu.softmax_cost(layer.dtype, "none", z, layer.y, *options)
    example_factor = on_value(layer) * factor
    delta = gpu.softmax_delta(example_factor, sums, "none", z, layer.y, *options, in_place=True)
    if "x" in gradients:
        torch.mm(delta, layer.weight, out=gradients["x"][block])
    # The first block overwrites the memory.
    beta = min(block.start, 1)
    if "weight" in gradients:
        gradients["weight"].addmm_(delta.mT, layer.x, beta=beta)
    if "bias" in gradients:
        gradients["bias"].addmv_(delta.mT, torch.ones_like(factor), beta=beta)
    return product(on_value(layer), C)


def transposed_block(
    gradients: Gradients, block: slice, layer: Layer, factor: Tensor, plan: Plan, memory: Tensor, z_loss: float
) -> Tensor:
    """Return C + λ ℓ² of each example of a block, and add the block's part to the gradients, from zᵀ.

    The part with off_value is not in it, unless there is a softcap.
    """
    z, N = memory.view(len(layer.weight), -1), len(layer.x)
    # What fills the block has a factor of 0, and adds nothing.
    layer, factor = filled(layer, z.shape[1]), pad(factor, (0, z.shape[1] - N))
    C, statistics = exponentials(layer, plan, z, z_loss)
    # z_factor z is factor (δᵀ + c off_value), with s = 1 + r.
    z_factor = product(plan.c * factor * statistics.T, 1 / (1 + statistics.r))
    add_gradients(gradients, block, layer, z_factor, z)
    return C[:N]


def exponentials(layer: Layer, plan: Plan, z: Tensor, z_loss: float = 0.0) -> tuple[Tensor, Statistics]:
    """Return C + λ ℓ² and the statistics of each example, whose T is T + 2 λ ℓ. H is not computed.

    Write φ′ e to z, a row a class, but φ′ s (a − on_value / T) at y; with a softcap take off_value s / T from all.
    """
    m = weighted_inputs(layer.weight, layer.x.mT.contiguous(), layer.bias, z)
    for x, weight in layer.pairs()[1:]:
        add_product(weight, x.mT.contiguous(), z)
        m = z.amax(0)
    y, value, c = layer.y.unsqueeze(0), on_value(layer), plan.c
    # What T has beside on_value stays apart: in T a small part of it would be rounded away.
    others_T = torch.zeros_like(value) if layer.off_value is None else layer.off_value.sum().expand_as(value)
    T = value + others_T
    phi_y, slope_y = capped(z.gather(0, y).squeeze(0), plan.softcap)
    if plan.softcap is None:
        others, off_value_x = exponentials_(z, clamp_infinite(m), layer.y, c, layer.off_value)
    else:
        off_T = None if layer.off_value is None else T
        others, off_value_x = softcap_exponentials_(
            z, clamp_infinite(m), layer.y, c, plan.softcap, layer.off_value, off_T
        )
    m = capped(m, plan.softcap)[0]
    x_y = exponents(phi_y, m, c)
    r, e_y, t_x = others + x_y.expm1(), x_y.exp(), product(value, x_y)
    if off_value_x is not None:
        t_x = t_x + off_value_x
    C = product(T, r.log1p()) - t_x
    if z_loss != 0:
        logsumexp = scale(c, m) + r.log1p()
        C = C + z_loss * logsumexp.square()
        others_T = others_T + 2 * z_loss * logsumexp
        T = value + others_T
        T = torch.where((T == 0) & (value != 0), torch.finfo(T.dtype).eps, T)
    # This form of s (a − on_value / T) loses no digits where a and on_value are near 1.
    z_y = product(others_T * e_y - value * others, 1 / T)
    if plan.softcap is not None and layer.off_value is not None:
        z_y = z_y - product(layer.off_value[layer.y] * (1 + r), 1 / T)
    z.scatter_(0, y, (z_y if slope_y is None else slope_y * z_y).unsqueeze(0))
    return C, Statistics(m, r, T, layer.full(0))


def add_gradients(gradients: Gradients, block: slice, layer: Layer, z_factor: Tensor, z: Tensor) -> None:
    """Add a block's part to the gradients δ W, δᵀ x and Σ δ, where δᵀ = z_factor z."""
    # The first block overwrites the memory.
    beta = min(block.start, 1)
    pairs = list(zip(PAIRS, layer.pairs(), strict=False))
    x_gradients = {name: x.new_zeros(x.shape[1], len(x)) for (name, _), (x, _) in pairs if name in gradients}
    factors = {name: x * column(z_factor) for (_, name), (x, _) in pairs if name in gradients}
    for classes, rows in parts(z, gradients.get("weight")):
        for (x_name, weight_name), (_, weight) in pairs:
            if x_name in gradients:
                add_product(narrow(weight, classes).mT, rows, x_gradients[x_name])
            if weight_name in gradients:
                add_product(rows, factors[weight_name], narrow(gradients[weight_name], classes), beta)
        if "bias" in gradients:
            narrow(gradients["bias"], classes).addmv_(rows, z_factor, beta=beta)
    for name, gradient in x_gradients.items():
        gradients[name][block] = (gradient * z_factor).mT[: block.stop - block.start]


def parts(z: Tensor, gradient: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of z, whose place the same rows of the gradient of the weight may take if they have one memory."""
    K = len(z)
    if gradient is None or z.data_ptr() != gradient.data_ptr():
        yield slice(0, K), z
        return
    memory = z.new_empty(CLASSES, z.shape[1])
    # The gradient's rows are no shorter than those of z: the last ones take the place of what has been read.
    for start in reversed(range(0, K, CLASSES)):
        classes = slice(start, min(start + CLASSES, K))
        rows = memory[: classes.stop - start]
        yield classes, copy_serially(z[classes], rows)


def subtract_off_value(gradients: Gradients, layer: Layer, off_value: Tensor, factor: Tensor) -> None:
    """Add to the gradients what the part −factor off_value of δ contributes."""
    for (x_name, weight_name), (x, weight) in zip(PAIRS, layer.pairs(), strict=False):
        if x_name in gradients:
            gradients[x_name].addr_(factor, weight.mT @ off_value, alpha=-1)
        if weight_name in gradients:
            gradients[weight_name].addr_(off_value, x.mT @ factor, alpha=-1)
    if "bias" in gradients:
        gradients["bias"].sub_(off_value * factor.sum())


def on_value(layer: Layer) -> Tensor:
    """Return `on_value` of a layer, which it has if y holds classes."""
    assert layer.on_value is not None
    return layer.on_value
