"""Which implementation computes a cost: `choose` decides, `use_backend` prescribes, `explain` says."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from ce_torch.costs.kernels import Implementation

# What a caller may prescribe, and the implementations that it leaves.
CHOICES = {
    "auto": ("cpp", "triton", "blocks", "formulas"),
    "kernels": ("cpp", "triton"),
    "blocks": ("blocks", "formulas"),
    "formulas": ("formulas",),
}


class Backend(NamedTuple):
    """The name of an implementation, and why it is the one that runs."""

    name: str
    reason: str


class Selection:
    """What is prescribed at present, for the whole process."""

    backend = "auto"


recorded: ContextVar[list[Backend] | None] = ContextVar("recorded", default=None)


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Prescribe how costs are computed: a context, for the whole process, as the flags of `torch.backends`.

    Args:
        backend: "auto", the fastest that supports a call; "kernels", compiled code or an error that says why there is
            none for a call; "blocks", no compiled code; "formulas", nothing but the formulas on whole tensors.

    Raises:
        ValueError: the backend is none of these.
        RuntimeError: raised by a cost, where backend is "kernels" and no kernel supports the call.

    Example:
        >>> with use_backend("formulas"):
        ...     explain(log_likelihood, torch.zeros(2, 3), torch.tensor([0, 1])).name
        'formulas'
    """
    if backend not in CHOICES:
        raise ValueError(f"backend must be one of {', '.join(CHOICES)}, got {backend!r}")
    before, Selection.backend = Selection.backend, backend
    try:
        yield
    finally:
        Selection.backend = before


def explain(cost: Callable[..., Any], *arguments: Any, **options: Any) -> Backend:
    """Return which implementation computes a call of a cost, and why: for whoever finds it slower than expected.

    Implementations are tried in this order:

    - "cpp": kernels for the CPU, compiled for this machine where they are first needed;
    - "triton": kernels for a GPU;
    - "blocks": the formulas for z on the CPU, in PyTorch's operations on blocks that stay in the caches; of a cost with
      its layer also on a GPU;
    - "formulas": the formulas in PyTorch's operations on whole tensors.

    Under a dispatch mode, such as a tracer, it is "operator", which the mode sees; it runs the first of these.
    The same one computes the gradient by z. The formulas compute gradients by y and by weights, gradients that are
    differentiated again, and what `torch.func` transforms.

    Args:
        cost: one of `ce_torch.functional`, a module, or a function that calls one, such as `torch.func.grad` makes.
        arguments, options: of the call, which is made, for only then is it known.

    Returns:
        A named tuple of `name` and `reason`, a sentence for each implementation that was tried before.

    Raises:
        ValueError: no cost was computed, or `torch.compile` has made code of it.
        What the call raises.

    Example:
        >>> explain(quadratic, torch.zeros(2, 3).t(), torch.zeros(3, 2)).name
        'formulas'
    """
    backends: list[Backend] = []
    token = recorded.set(backends)
    try:
        cost(*arguments, **options)
    finally:
        recorded.reset(token)
    if not backends:
        raise ValueError(
            f"cost must be a function or module that computes a cost of ce_torch, got {cost!r}, which did not; what "
            "torch.compile makes of one calls an operator"
        )
    return backends[-1]


def choose(implementations: Sequence[Implementation], inputs: Sequence[Any]) -> Implementation:
    """Return the first of the implementations that is allowed and supports the inputs."""
    if Selection.backend == "auto" and recorded.get() is None and implementations[0].refusal(*inputs) is None:
        return implementations[0]
    if Selection.backend != "auto":
        implementations = [one for one in implementations if one.name in CHOICES[Selection.backend]]
    for implementation in implementations:
        if implementation.refusal(*inputs) is None:
            break
    else:
        raise RuntimeError(
            f'use_backend("{Selection.backend}") does not support this call: '
            f'{refusals(implementations, inputs)}; use_backend("auto") finds another'
        )
    if recorded.get() is not None:
        record(implementation.name, refusals(implementations, inputs) or "it comes first")
    return implementation


def refusals(implementations: Sequence[Implementation], inputs: Sequence[Any]) -> str:
    """Return why the first implementations do not support the inputs."""
    sentences = []
    for implementation in implementations:
        refusal = implementation.refusal(*inputs)
        if refusal is None:
            break
        sentences.append(f"{implementation.name}: {refusal}")
    return "; ".join(sentences)


def record(name: str, reason: str) -> None:
    """Tell `explain`, if it asks."""
    backends = recorded.get()
    if backends is not None:
        backends.append(Backend(name, reason))
