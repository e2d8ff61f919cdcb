"""The call of a cost: as that of one of PyTorch's own losses, but with options by name only, each checked."""

import inspect
import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ce_torch.costs._arguments import OPTIONS

Arguments = ParamSpec("Arguments")


def called_as(
    loss: Callable[..., Tensor] | None = None,
) -> Callable[[Callable[Arguments, Tensor]], Callable[Arguments, Tensor]]:
    """Return a decorator for costs that are called as `loss`, one of PyTorch's, is.

    What stands for a tensor (a proxy of `torch.fx`, a subclass with `__torch_function__`) says what the call does.
    Options come to the cost checked. One that is given by position, as `loss` takes it, is refused by its name.
    """

    def decorate(cost: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
        parameters = inspect.signature(cost).parameters.values()
        options = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        positions = len(parameters) - len(options)

        @wraps(cost)
        def call(*positional: Arguments.args, **named: Arguments.kwargs) -> Tensor:
            if len(positional) > positions:
                theirs = [*inspect.signature(loss).parameters][positions : len(positional)] if loss else options
                # PyTorch's older options, size_average and reduce, are what reduction is now.
                names = dict.fromkeys(name if name in options else "reduction" for name in theirs)
                raise TypeError(
                    f"{cost.__name__} takes {positions} arguments by position, got {len(positional)}; its options are "
                    f"keywords: {', '.join(f'{name}=...' for name in names)}"
                )
            arguments = (*positional, *named.values()) if named else positional
            if has_torch_function(arguments):
                return handle_torch_function(call, arguments, *positional, **named)
            for name, value in named.items():
                if name in OPTIONS:
                    named[name] = OPTIONS[name](value)
            if torch._C._get_tracing_state() is None:
                return cost(*positional, **named)
            with warnings.catch_warnings():
                # The checks look at shapes, which are the same whenever the trace is run.
                warnings.simplefilter("ignore", torch.jit.TracerWarning)
                return cost(*positional, **named)

        return call

    return decorate
