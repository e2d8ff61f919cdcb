"""A layer in half precision on a GPU: what `half_products.py` does on the CPU, by PyTorch's products and kernels.

A stripe of examples goes over all classes, and sums Σ exp(c (zⱼ − m)) Wⱼ for the gradient of x, scaled down whenever m
grows. A block of classes goes over all examples, and sums the gradients of its parameters. Sums are float32.
"""

import torch
from torch import Tensor

from ce_torch.costs.kernels import gpu
from ce_torch.costs.kernels.gpu_layout import power_of_2
from ce_torch.costs.kernels.half_products import Sums, delta_factors

# Products of these sizes keep a large GPU busy, and their results are a few hundredths of a large layer's z.
STRIPE_EXAMPLES, STRIPE_CLASSES = 1024, 8192
BLOCK_EXAMPLES, BLOCK_CLASSES = 8192, 1024
TILE = 2048


def supports(x: Tensor, weight: Tensor) -> bool:
    """Return True if the kernels support this layer."""
    # In float16 exp(c (z − m)) vanishes too soon.
    is_half = x.dtype == weight.dtype == torch.bfloat16
    return is_half and x.numel() > 0 and gpu.refusal(x, weight) is None


def half_sums(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    c: float,
    target: tuple[Tensor, Tensor, Tensor | float, Tensor | None],
    x_gradient: Tensor | None,
) -> Sums:
    """Return the sums; see `half_products.half_sums`."""
    N, K = len(x), len(weight)
    sums = Sums(torch.full_like(target[0], -torch.inf), torch.zeros_like(target[0]), torch.empty_like(target[0]))
    examples, classes = min(N, STRIPE_EXAMPLES), min(K, STRIPE_CLASSES)
    z_memory, e_memory = x.new_empty(examples * classes, dtype=torch.float32), x.new_empty(examples * classes)
    total_memory = None if x_gradient is None else x.new_empty((examples, x.shape[1]), dtype=torch.float32)
    for stripe in slices(N, examples):
        rows, stripe_sums = x[stripe], Sums(*(tensor[stripe] for tensor in sums))
        total = None if total_memory is None else total_memory[: len(rows)].zero_()
        for block in slices(K, classes):
            z = view(z_memory, len(rows), block)
            e = None if total is None else view(e_memory, len(rows), block)
            gpu.multiply(rows, weight[block].mT, z)
            inputs = z, bias, y[stripe], gpu.normal(c, torch.float32), block.start, z.shape[1], z.stride(0), x.shape[1]
            constants = {"tile": power_of_2(z.shape[1]), "tile_inputs": TILE, "num_warps": 8}
            gpu.run("block_exponentials", rows, (len(rows),), e, total, *stripe_sums, *inputs, **constants)
            if e is not None and total is not None:
                gpu.multiply(e, weight[block], total, adds=True)
        if x_gradient is not None:
            factor, on_value, off_total, off_weight = target
            factors = delta_factors(stripe_sums, c, factor[stripe], on_value[stripe], off_total)
            arguments = x_gradient[stripe], total, *factors, weight, y[stripe], off_weight, x.shape[1]
            grid = len(rows), -(-x.shape[1] // TILE)
            gpu.run("x_gradient", rows, grid, *arguments, tile=TILE, num_warps=4)
    return sums


def half_gradients(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    c: float,
    delta: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None],
    weight_gradient: Tensor | None,
    bias_gradient: Tensor | None,
) -> None:
    """Write δᵀ x and Σ δ; see `half_products.half_gradients`."""
    N, K = len(x), len(weight)
    *numbers, off_value = delta
    examples, classes = min(N, BLOCK_EXAMPLES), min(K, BLOCK_CLASSES)
    z_memory, delta_memory = x.new_empty(examples * classes, dtype=torch.float32), x.new_empty(examples * classes)
    total_memory = x.new_empty((classes, x.shape[1]), dtype=torch.float32)
    for block in slices(K, classes):
        total = total_memory[: block.stop - block.start].zero_()
        bias_total = total.new_zeros(len(total))
        for stripe in slices(N, examples):
            rows = x[stripe]
            z, block_delta = (view(memory, len(rows), block) for memory in (z_memory, delta_memory))
            gpu.multiply(rows, weight[block].mT, z)
            inputs = z, bias, y[stripe], gpu.normal(c, torch.float32), block.start, z.shape[1], z.stride(0)
            tile = min(power_of_2(z.shape[1]), TILE)
            grid, constants = (len(rows), -(-z.shape[1] // tile)), {"tile": tile, "num_warps": 4}
            of_rows = (number[stripe] for number in numbers)
            gpu.run("block_delta", rows, grid, block_delta, *of_rows, off_value, *inputs, **constants)
            if weight_gradient is not None:
                gpu.multiply(block_delta.mT, rows, total, adds=True)
            if bias_gradient is not None:
                bias_total += block_delta.sum(0, dtype=torch.float32)
        if weight_gradient is not None:
            weight_gradient[block] = total
        if bias_gradient is not None:
            bias_gradient[block] = bias_total


def slices(count: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, count)) for start in range(0, count, length)]


def view(memory: Tensor, rows: int, classes: slice) -> Tensor:
    """Return the memory's start as rows of these classes."""
    columns = classes.stop - classes.start
    return memory[: rows * columns].view(rows, columns)
