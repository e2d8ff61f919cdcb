"""The call of a cost: like that of PyTorch's own losses, but with options by name only, each checked."""

import inspect
import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ce_torch.costs._arguments import option_checks
from ce_torch.costs._torch_private import TracerWarning, tracing_state

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def loss_function(
    torch_loss: Callable[..., Tensor] | None = None,
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Return a decorator that lets a cost be called like a loss of PyTorch.

    A proxy of `torch.fx`, or a subclass of Tensor with `__torch_function__`, decides what the call does. Options are
    checked before the cost sees them. An option by position is refused by the name that it has in `torch_loss`.
    """

    def decorate(cost: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        parameters = inspect.signature(cost).parameters.values()
        options = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        positions, checks = len(parameters) - len(options), option_checks(cost)

        @wraps(cost)
        def call(*positional: Arguments.args, **named: Arguments.kwargs) -> Result:
            if len(positional) > positions:
                positional_names = [*inspect.signature(torch_loss or cost).parameters]
                if torch_loss:
                    positional_names = positional_names[: len(positional)]
                # PyTorch's older options size_average and reduce became reduction.
                names = dict.fromkeys(name if name in options else "reduction" for name in positional_names[positions:])
                raise TypeError(
                    f"{cost.__name__} takes {positions} arguments by position, got {len(positional)}; its options are "
                    f"keywords: {', '.join(f'{name}=...' for name in names)}"
                )
            arguments = (*positional, *named.values()) if named else positional
            if has_torch_function(arguments):
                return handle_torch_function(call, arguments, *positional, **named)
            for name, value in named.items():
                if name in checks:
                    named[name] = checks[name](value)
            if tracing_state() is None:
                return cost(*positional, **named)
            with warnings.catch_warnings():
                # The tracer warns that checks read shapes. These are the same whenever the trace runs.
                warnings.simplefilter("ignore", TracerWarning)
                return cost(*positional, **named)

        return call

    return decorate
