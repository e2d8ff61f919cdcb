"""The implementation that computes a cost: `choose` finds it, `use_backend` prescribes it, `explain` names it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, TypeVar

# What a caller may prescribe, and the implementations that it allows.
CHOICES = {
    "auto": ("cpp", "triton", "blocks", "formulas"),
    "kernels": ("cpp", "triton"),
    "blocks": ("blocks", "formulas"),
    "formulas": ("formulas",),
}


class Candidate(Protocol):
    """An implementation: its name, and a function that says why it does not support some inputs, or None."""

    @property
    def name(self) -> str: ...

    @property
    def refusal(self) -> Callable[..., str | None]: ...


Chosen = TypeVar("Chosen", bound=Candidate)


class Backend(NamedTuple):
    """The name of an implementation, and why it runs rather than another."""

    name: str
    reason: str


class Selection:
    """What `use_backend` prescribes at present, for the whole process."""

    backend = "auto"


recorded: ContextVar[list[Backend] | None] = ContextVar("recorded", default=None)


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Return a context that prescribes, for the whole process, how costs are computed.

    Args:
        backend: "auto", the fastest implementation that supports a call; "kernels", compiled code, or an error that
            says why none supports a call; "blocks", no compiled code; "formulas", only the formulas on whole tensors.

    Raises:
        ValueError: backend is none of these.
        RuntimeError: by a cost, if backend is "kernels" and no kernel supports the call.

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
    """Call a cost, and return which implementation computes it, and why none that would be faster does.

    Implementations are tried in this order:

    - "cpp": kernels for the CPU, from a wheel or compiled for this machine when they are first needed;
    - "triton": kernels for a GPU;
    - "blocks": the formulas, by PyTorch's operations on blocks of z that stay in the caches; on the CPU, and for a cost
      with its layer also on a GPU;
    - "formulas": the formulas, by PyTorch's operations on whole tensors.

    Under a dispatch mode, such as a tracer, the answer is "operator": the mode sees an operator, which runs the first
    of these that supports the call.

    The same implementation computes the gradient by z, second derivatives by z, and forward mode, under `torch.func`
    too. The formulas compute gradients by y and by weights, what is differentiated together with them, and third
    derivatives.

    Args:
        cost: a function of `ce_torch.functional`, a module, or a function that calls one, such as `torch.func.grad`
            returns.
        arguments, options: of the call. The call is made, since only then the answer is known.

    Returns:
        A named tuple of `name` and `reason`. The reason has a part for each implementation that was tried before.

    Raises:
        ValueError: the call computed no cost, or `torch.compile` has turned the cost into code.
        Exception: whatever the call raises.

    Example:
        >>> explain(quadratic, torch.zeros(2, 3).t(), torch.zeros(3, 2)).name
        'cpp'
    """
    backends: list[Backend] = []
    token = recorded.set(backends)
    try:
        cost(*arguments, **options)
    finally:
        recorded.reset(token)
    if not backends:
        raise ValueError(
            f"cost must be a function or module that computes a cost of ce_torch, got {cost!r}, which did not; pass "
            "the cost itself, not what torch.compile returns"
        )
    return backends[-1]


def is_open() -> bool:
    """Return True if no context prescribes an implementation, and `explain` does not ask for it."""
    return Selection.backend == "auto" and recorded.get() is None


def choose(implementations: Sequence[Chosen], inputs: Sequence[Any]) -> Chosen:
    """Return the first of the allowed implementations that supports the inputs."""
    if is_open() and implementations[0].refusal(*inputs) is None:
        return implementations[0]
    if Selection.backend != "auto":
        allowed = CHOICES[Selection.backend]
        implementations = [implementation for implementation in implementations if implementation.name in allowed]
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


def refusals(implementations: Sequence[Candidate], inputs: Sequence[Any]) -> str:
    """Return why each implementation before the first that supports the inputs does not."""
    sentences = []
    for implementation in implementations:
        refusal = implementation.refusal(*inputs)
        if refusal is None:
            break
        sentences.append(f"{implementation.name}: {refusal}")
    return "; ".join(sentences)


def record(name: str, reason: str) -> None:
    """Tell `explain` the name and the reason, if it asks."""
    backends = recorded.get()
    if backends is not None:
        backends.append(Backend(name, reason))
