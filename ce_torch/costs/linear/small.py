"""The cost of a layer whose z takes no more than half a megabyte: that of the layer, and then of all z.

Blocks and tiles would take longer than their arithmetic. The derivatives are those of `F.linear` and of costs of z.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from ce_torch.costs._arguments import (
    FLOATING,
    check_class_weight,
    check_denominator,
    check_temperature_shape,
    check_token_weight,
    values_can_be_read,
)
from ce_torch.costs._in_graph import tied
from ce_torch.costs._precision import compute_dtype, to_dtype
from ce_torch.costs._product import product
from ce_torch.costs._reduction import reduce
from ce_torch.costs._statistics import SoftmaxStatistics
from ce_torch.costs._torch_private import is_exporting, is_forward_mode, is_transformed
from ce_torch.costs.kernels import is_plain
from ce_torch.costs.kernels.cpp import is_readable
from ce_torch.costs.log_likelihood import LOG_LIKELIHOOD, divide, example_weight, log_likelihood, may_change
from ce_torch.costs.softmax_statistics import softmax_statistics

MOST_ELEMENTS = 1 << 17


class Options(NamedTuple):
    """Options of the cost of a layer, as `linear_log_likelihood` has them."""

    temperature: float | Tensor = 1.0
    class_weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    token_weight: Tensor | None = None
    denominator: float | Tensor | None = None
    z_loss: float = 0.0
    softcap: float | None = None
    reduction: str = "mean"


def supports(x: Tensor, weight: Tensor, y: Tensor | None, bias: Tensor | None, options: Options) -> bool:
    """Return True if a layer is computed in this way; False for what is not valid, too."""
    tensors = [x, weight]
    tensors += [tensor for tensor in (y, bias) if tensor is not None]
    is_compiling = torch.compiler.is_compiling()
    if is_compiling:
        if is_exporting() or is_transformed() or is_forward_mode() or not are_on_cpu(tensors):
            return False
    elif not (are_in_memory(tensors) and values_can_be_read(x if y is None else y)):
        return False
    dtype, shape = x.dtype, x.shape
    if torch.is_autocast_enabled("cpu") or not shape or weight.ndim != 2 or weight.shape[1] != shape[-1]:
        return False
    if dtype not in FLOATING or weight.dtype != dtype or (bias is not None and bias.dtype != dtype):
        return False
    (K, D), N = weight.shape, math.prod(shape[:-1])
    if K == 0 or (not is_compiling and N == 0):
        return False
    # In half precision x and weight are copied.
    size = N * K if dtype in (torch.float32, torch.float64) else max(N * K, N * D, K * D)
    if not (at_most(size, MOST_ELEMENTS) if is_compiling else size <= MOST_ELEMENTS):
        return False
    if not (is_target(y, shape, K, options) and (bias is None or bias.shape == (K,))):
        return False
    return is_compiling or y is None or may_multiply(x, y, options)


def at_most(size: int, most: int) -> bool:
    """Return True if a size that the compiler sees is at most this; False for one that only a tensor's values tell."""
    from torch.fx.experimental.symbolic_shapes import guard_or_false  # takes long to load

    return guard_or_false(size <= most)


def is_target(y: Tensor | None, shape: torch.Size, K: int, options: Options) -> bool:
    """Return True if the costs of z take y with these options for x of this shape, and lose no digits."""
    is_capped = options.softcap is not None
    if is_capped and (options.label_smoothing != 0 or isinstance(options.temperature, Tensor)):
        return False
    if y is None or y.dtype == torch.int64:
        return y is None or y.shape == shape[:-1]
    return y.dtype in FLOATING and y.shape == (*shape[:-1], K) and not is_capped and options.ignore_index < 0


def may_multiply(x: Tensor, y: Tensor, options: Options) -> bool:
    """Return True unless an example that does not count may hold nan: in δᵀ x 0 times nan is nan."""
    _, class_weight, ignore_index, _, token_weight, *_ = options
    if class_weight is token_weight is None and ignore_index < 0 and y.dtype == torch.int64 and y.min().item() >= 0:
        return True
    return bool(x.isfinite().all())


def are_on_cpu(tensors: Sequence[Tensor]) -> bool:
    return all(isinstance(tensor, Tensor) and tensor.is_cpu for tensor in tensors)


def are_in_memory(tensors: Sequence[Tensor]) -> bool:
    """Return True for plain tensors on the CPU."""
    return all(is_readable(tensor) or (is_plain(tensor) and tensor.is_cpu) for tensor in tensors)


def weighted_input(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return z in the dtype to compute in."""
    dtype = compute_dtype(x)
    if dtype != x.dtype:
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return linear(x, weight, bias)


def cost(x: Tensor, weight: Tensor, y: Tensor, bias: Tensor | None, options: Options, dtype: torch.dtype) -> Tensor:
    """Return the reduced cost in this dtype."""
    if torch.compiler.is_compiling():
        check_options(x, weight, options)
        C = cost_of_layer(finite_inputs(x, y, options), weight, y, bias, options, dtype)
        moving = options.temperature, options.class_weight, options.token_weight, options.denominator
        return tied(C, x, weight, bias, *moving)
    return cost_of_layer(x, weight, y, bias, options, dtype)


def cost_of_layer(
    x: Tensor, weight: Tensor, y: Tensor, bias: Tensor | None, options: Options, dtype: torch.dtype
) -> Tensor:
    temperature, class_weight, ignore_index, label_smoothing, token_weight, denominator, z_loss, softcap, _ = options
    z = weighted_input(x, weight, bias)
    is_plain = class_weight is token_weight is denominator is softcap is None and z_loss == 0
    if is_plain and not isinstance(temperature, Tensor):
        return LOG_LIKELIHOOD(dtype, options.reduction, z, y, None, 1 / temperature, ignore_index, label_smoothing)
    check_options(x, weight, options)
    if denominator is None:
        C = reduced_cost(z, y, options)
    else:
        C = reduced_cost(z, y, options._replace(reduction="sum")) / denominator
    return to_dtype(C, dtype)


def check_options(x: Tensor, weight: Tensor, options: Options) -> None:
    """Raise `ValueError` unless the options go together with the layer."""
    check_temperature_shape(options.temperature, x.shape[:-1])
    check_class_weight("class_weight", options.class_weight, (*x.shape[:-1], weight.shape[0]), x, "x")
    check_token_weight(options.token_weight, x)
    check_denominator(options.denominator, options.reduction, x)


def finite_inputs(x: Tensor, y: Tensor | None, options: Options) -> Tensor:
    """Return x, with 0 for examples that do not count and may hold nan."""
    if y is None or y.is_floating_point():
        return x
    costs_without_weight = options.label_smoothing != 0 or options.z_loss != 0
    empty = counted(x, y, options._replace(class_weight=None) if costs_without_weight else options) == 0
    return x.masked_fill((empty & ~x.isfinite().all(-1)).unsqueeze(-1), 0)


def counted(x: Tensor, y: Tensor, options: Options) -> Tensor | None:
    """Return how much each example counts in the mean, None for 1."""
    token_weight = None if options.token_weight is None else options.token_weight.to(compute_dtype(x))
    if y.is_floating_point():
        return token_weight
    return product(token_weight, example_weight(x, y, options.class_weight, options.ignore_index))


def reduced_cost(z: Tensor, y: Tensor, options: Options) -> Tensor:
    """Return the reduced cost of z in its dtype."""
    if options.token_weight is None and options.z_loss == 0 and options.softcap is None:
        return log_likelihood_of(z, y, options, options.reduction)
    C = example_costs(z, y, options)
    token_weight = options.token_weight
    if token_weight is not None:
        C = token_weight.to(C.dtype) * C
        if not may_change(token_weight):
            # 0 times inf is nan.
            C = C.masked_fill(token_weight == 0, 0)
    return C if options.reduction == "none" else reduce(options.reduction, C, counted(z, y, options))


def example_costs(z: Tensor, y: Tensor, options: Options) -> Tensor:
    """Return C + λ ℓ² of each example."""
    temperature, class_weight, ignore_index, *_ = options
    if options.z_loss == 0 and options.softcap is None:
        return log_likelihood_of(z, y, options, "none")
    classes = None if y.is_floating_point() else y
    found = softmax_statistics(z, classes, temperature=temperature, softcap=options.softcap, ignore_index=ignore_index)
    if options.softcap is None:
        C = log_likelihood_of(z, y, options, "none")
    else:
        assert found.log_prob is not None
        own_weight = None if class_weight is None else example_weight(z, y, class_weight, ignore_index)
        C = product(own_weight, -found.log_prob)
    return C if options.z_loss == 0 else C + options.z_loss * found.logsumexp.square()


def log_likelihood_of(z: Tensor, y: Tensor, options: Options, reduction: str) -> Tensor:
    """Return the log-likelihood of z without what only layers have."""
    temperature, class_weight, ignore_index, label_smoothing, *_ = options
    if isinstance(temperature, Tensor):
        z, temperature = divide(z, temperature), 1.0
    return log_likelihood(
        z,
        y,
        temperature=temperature,
        weight=class_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


def statistics(
    x: Tensor, weight: Tensor, y: Tensor | None, bias: Tensor | None, options: Options, entropy: bool
) -> SoftmaxStatistics:
    """Return the numbers of each example."""
    check_temperature_shape(options.temperature, x.shape[:-1])
    z = weighted_input(finite_inputs(x, y, options) if torch.compiler.is_compiling() else x, weight, bias)
    temperature, softcap, ignore_index = options.temperature, options.softcap, options.ignore_index
    found = softmax_statistics(
        z, y, temperature=temperature, softcap=softcap, ignore_index=ignore_index, entropy=entropy
    )
    *numbers, prediction, correct = found
    numbers = (None if number is None else tied(number, x, weight, bias, temperature) for number in numbers)
    return SoftmaxStatistics(*numbers, prediction, correct)
