"""The checks of what distillation takes: its options, the student's layer, and what is known of the teacher."""

from functools import partial

import torch
from torch import Tensor

from ce_torch.costs._arguments import (
    OPTIONS,
    check_choice,
    check_dense,
    check_device,
    check_floating,
    check_number,
    check_temperature,
    values_can_be_read,
)
from ce_torch.costs.linear.divergences import DIVERGENCES
from ce_torch.costs.linear.inputs import check_layer


def check_beta(beta: float) -> float:
    beta = check_number("beta", (float, int), 0, 1, "a number between 0 and 1", beta)
    if beta in (0, 1):
        name = "forward_kl" if beta == 0 else "reverse_kl"
        raise ValueError(f'beta must be a number between 0 and 1, got {beta}; pass divergence="{name}" for this limit')
    return beta


def check_teacher_temperature(temperature: float | Tensor | None) -> float | Tensor | None:
    return None if temperature is None else check_temperature(temperature, "teacher_temperature")


OPTIONS.update(
    beta=check_beta,
    divergence=partial(check_choice, "divergence", DIVERGENCES),
    tail=partial(check_choice, "tail", ("class", "none")),
    teacher_temperature=check_teacher_temperature,
)


def check_student(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_layer(x, weight, bias, may_be_empty=False)


def check_teacher(
    x: Tensor, weight: Tensor, teacher_x: Tensor, teacher_weight: Tensor, teacher_bias: Tensor | None
) -> None:
    """Raise `TypeError` or `ValueError` unless the teacher's layer has x's examples and the student's classes."""
    for name, tensor in (("teacher_x", teacher_x), ("teacher_weight", teacher_weight), ("teacher_bias", teacher_bias)):
        if tensor is not None:
            check_floating(name, tensor)
            check_device(name, tensor, x, "x")
    if teacher_x.shape[:-1] != x.shape[:-1] or teacher_x.ndim == 0:
        raise ValueError(
            f"teacher_x must have shape {tuple(x.shape[:-1])} + (D,), the examples of x, of shape {tuple(x.shape)}, "
            f"got {tuple(teacher_x.shape)}"
        )
    K, D = len(weight), teacher_x.shape[-1]
    if teacher_weight.shape != (K, D):
        raise ValueError(
            f"teacher_weight must have shape {(K, D)}, a row for each class of weight, for teacher_x of shape "
            f"{tuple(teacher_x.shape)}, got {tuple(teacher_weight.shape)}; if the teacher's layer has more rows than "
            "there are classes, pass those of the classes alone"
        )
    if teacher_bias is not None and teacher_bias.shape != (K,):
        raise ValueError(f"teacher_bias must have shape {(K,)}, one for each class, got {tuple(teacher_bias.shape)}")


def check_top_k(x: Tensor, weight: Tensor, teacher_log_prob: Tensor, teacher_classes: Tensor) -> None:
    """Raise `TypeError` or `ValueError` unless there are log-probabilities of classes of the layer for each example."""
    check_floating("teacher_log_prob", teacher_log_prob)
    check_dense("teacher_classes", teacher_classes)
    if teacher_classes.dtype != torch.int64:
        raise TypeError(
            f"teacher_classes must be int64 (class indices), got {teacher_classes.dtype}; pass teacher_classes.long()"
        )
    for name, tensor in (("teacher_log_prob", teacher_log_prob), ("teacher_classes", teacher_classes)):
        check_device(name, tensor, x, "x")
        if tensor.ndim != x.ndim or tensor.shape[:-1] != x.shape[:-1] or tensor.shape[-1] == 0:
            raise ValueError(
                f"{name} must have shape {tuple(x.shape[:-1])} + (k,), the examples of x, of shape {tuple(x.shape)}, "
                f"got {tuple(tensor.shape)}"
            )
    if teacher_classes.shape != teacher_log_prob.shape:
        raise ValueError(
            f"teacher_classes must have the shape of teacher_log_prob, {tuple(teacher_log_prob.shape)}, got "
            f"{tuple(teacher_classes.shape)}"
        )
    if not values_can_be_read(teacher_classes):
        return
    wrong = teacher_classes[(teacher_classes < 0) | (teacher_classes >= len(weight))]
    if len(wrong) > 0:
        raise ValueError(
            f"teacher_classes must hold class indices from 0 to {len(weight) - 1}, got {wrong[0].item()}; give "
            "examples that do not count any class, and a token_weight of 0"
        )
