"""Which way a cost is worked out: decided by `choose` for every call, and told to `explain`."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from ce_torch.costs.kernels import Fast


class Backend(NamedTuple):
    """The name of a way to work out a cost, and why it is the one taken."""

    name: str
    reason: str


told: ContextVar[list[Backend] | None] = ContextVar("told", default=None)


def explain(cost: Callable[..., Any], *arguments: Any, **options: Any) -> Backend:
    """Return which way a call of a cost takes, and why: for whoever finds it slower than expected.

    The ways, each of which is taken where no earlier one can be:

    - "cpp": kernels for the CPU, compiled for this machine where they are first needed;
    - "triton": kernels for a GPU;
    - "blocks": the formulas for z on the CPU, in PyTorch's operations on blocks that stay in the caches; of a cost with
      its layer also on a GPU;
    - "formulas": the formulas in PyTorch's operations on whole tensors.

    The gradient by z takes the same way; the formulas, where it is differentiated again or `torch.func` asks for it.

    Args:
        cost: one of `ce_torch.functional`, a module, or a function that calls one, such as `torch.func.grad` makes.
        arguments, options: of the call, which is made, for only then is it known.

    Returns:
        A named tuple of `name` and `reason`, a sentence for each earlier way.

    Raises:
        ValueError: no cost was worked out, or `torch.compile` has made code of its formulas.
        What the call raises.

    Example:
        >>> explain(quadratic, torch.zeros(2, 3), torch.zeros(2, 3, requires_grad=True))
        Backend(name='formulas', reason='a gradient by y or by a weight is asked for, which the formulas alone give')
    """
    ways: list[Backend] = []
    token = told.set(ways)
    try:
        cost(*arguments, **options)
    finally:
        told.reset(token)
    if not ways:
        raise ValueError(
            f"cost must be a function or module that works out a cost of ce_torch, got {cost!r}, which did not; what "
            "torch.compile makes of one is code of the formulas"
        )
    return ways[-1]


def choose(ways: Sequence[Fast], inputs: Sequence[Any], more_gradients: bool) -> Fast | None:
    """Return the first of the ways that takes the inputs, None for the formulas.

    They alone give the gradients by other inputs than z, where `more_gradients` asks for them.
    """
    chosen = None
    if not more_gradients:
        for way in ways:
            if way.refusal(*inputs) is None:
                chosen = way
                break
    if told.get() is not None:
        tell("formulas" if chosen is None else chosen.name, reason(ways, inputs, more_gradients))
    return chosen


def reason(ways: Sequence[Fast], inputs: Sequence[Any], more_gradients: bool) -> str:
    """Return why the first ways do not take the inputs."""
    if more_gradients:
        return "a gradient by y or by a weight is asked for, which the formulas alone give"
    sentences = []
    for way in ways:
        refusal = way.refusal(*inputs)
        if refusal is None:
            break
        sentences.append(f"{way.name}: {refusal}")
    return "; ".join(sentences) or "it comes first"


def tell(name: str, reason: str) -> None:
    ways = told.get()
    if ways is not None:
        ways.append(Backend(name, reason))
