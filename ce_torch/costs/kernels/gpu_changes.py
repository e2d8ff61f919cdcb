"""How the costs and their δ change with z in a direction v, on a GPU, by the kernels of `gpu_change_kernels.py`."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ce_torch.costs._precision import compute_dtype
from ce_torch.costs.kernels import Implementation, gpu, is_plain, new_cost
from ce_torch.costs.kernels.gpu_layout import lay_out

if TYPE_CHECKING:
    from ce_torch.costs._spec import CostSpec


def triton(spec: "CostSpec") -> Implementation:
    """Return the cost's kernels for a GPU as an implementation."""
    if spec.family == "softmax":
        return Implementation("triton", gpu.refusal, gpu.softmax_cost, gpu.softmax_delta, softmax_change)
    refusal, cost, delta = gpu.elements(spec)

    def change(
        v: Tensor, grad_output: Tensor | None, statistics: Tensor | None, reduction: str, z: Tensor, *inputs: Any
    ) -> tuple[Tensor, Tensor | None]:
        return elements_change(spec, v, grad_output, reduction, z, *inputs)

    return Implementation("triton", refusal, cost, delta, change)


def softmax_change(
    v: Tensor,
    grad_output: Tensor | None,
    statistics: Tensor | None,
    reduction: str,
    z: Tensor,
    y: Tensor,
    weight: Tensor | None,
    c: float,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor | None]:
    """Return the derivatives of C and, where there is a grad_output, of ∂C/∂z in the direction v."""
    real, N = compute_dtype(z), gpu.count_examples(z)
    if statistics is None:
        _, statistics = gpu.softmax_cost(real, "none", z, y, weight, c, ignore_index, label_smoothing)
    C, v, c = new_cost(reduction, z, real), in_memory(v), gpu.normal(c, real)
    C_of_rows, C_all = (gpu.per_example(C), None) if reduction == "none" else (None, C)
    turns = None if grad_output is None else z.new_empty((2, N), dtype=real)
    turn_rows = None if turns is None else turns[0].view(*z.shape[:-1], 1)
    m, counted, averages = gpu.maxima(z, statistics), gpu.counted(statistics), reduction == "mean"
    layout = lay_out(z, gpu.as_outputs(y), weight, v, m, C_of_rows, turn_rows)
    z_rows, y_rows, weights, v_rows, m_rows, C_rows, turns_of_rows = layout.tensors
    part = layout.sizes[0]
    partials = gpu.new_partials(1, layout.programs(part), real, C_all)
    outputs = C_rows, C_all, partials, turns_of_rows
    inputs = v_rows, m_rows, counted, z_rows, y_rows, weights, c, label_smoothing, ignore_index, N
    constants = {"averages": averages, "smooths": label_smoothing != 0}
    gpu.launch("log_likelihood_change", layout, part, *outputs, *inputs, **constants)
    if partials is not None:
        gpu.finish("sum", C_all, partials, N)
    if grad_output is None:
        return C, None
    known = m, counted, turn_rows
    return C, softmax_delta_change(v, grad_output, known, averages, z, y, c, ignore_index)


def softmax_delta_change(
    v: Tensor,
    grad_output: Tensor,
    known: tuple[Tensor, Tensor, Tensor | None],
    averages: bool,
    z: Tensor,
    y: Tensor,
    c: float,
    ignore_index: int,
) -> Tensor:
    """Return the derivative of ∂C/∂z, of what is known: m, r and T of each row, how much counts, and what v takes."""
    (m, counted, turns), change = known, torch.empty_like(z)
    layout = lay_out(z, gpu.as_outputs(y), v, m, turns, gpu.row_grads(grad_output), change)
    z_rows, y_rows, v_rows, m_rows, turns_of_rows, grads, change_rows = layout.tensors
    inputs = v_rows, m_rows, counted, z_rows, y_rows, c, ignore_index, gpu.count_examples(z)
    arguments = change_rows, grads, turns_of_rows, *inputs
    gpu.launch("log_likelihood_delta_change", layout, layout.tile_columns, *arguments, averages=averages)
    return change


def elements_change(
    spec: "CostSpec", v: Tensor, grad_output: Tensor | None, reduction: str, z: Tensor, y: Tensor, *inputs: Any
) -> tuple[Tensor, Tensor | None]:
    """Return the derivatives of C and, where there is a grad_output, of ∂C/∂z in the direction v, in one pass."""
    C, (weights, numbers) = new_cost(reduction, z, compute_dtype(z)), gpu.sort(spec, inputs)
    C_of_rows, C_all = (gpu.per_example(C), None) if reduction == "none" else (None, C)
    grads, change = (None, None) if grad_output is None else (gpu.row_grads(grad_output), torch.empty_like(z))
    others = gpu.as_outputs(y), *weights, in_memory(v), C_of_rows, grads, change
    layout = lay_out(z, *others, merges_columns=gpu.rows_may_merge(reduction, y))
    z_rows, y_rows, w, p, v_rows, C_rows, grad_rows, change_rows = layout.tensors
    part, N = gpu.part_of_sum(layout, C_all), gpu.count_examples(z)
    partials = gpu.new_partials(1, layout.programs(part), compute_dtype(z), C_all)
    _, formula, slope = gpu.formulas(spec)
    arguments = C_rows, C_all, partials, change_rows, grad_rows, v_rows, z_rows, y_rows, w, p, *numbers, N
    constants = {"part": part, "averages": reduction == "mean", "formula": formula, "slope": slope}
    gpu.launch("elements_change", layout, part, *arguments, **constants)
    if partials is not None:
        gpu.finish(reduction, C_all, partials, N)
    return C, change


def in_memory(v: Tensor) -> Tensor:
    """Return a direction as numbers in memory."""
    return v if is_plain(v) else torch.empty_like(v).copy_(v)
