"""Results as text for the notebook."""

from ce_torch.chapter.deltas import Deltas
from ce_torch.chapter.neuron import Lesson


def progress(lesson: Lesson, last_epoch: int) -> str:
    """Return a single neuron's output, cost and δ at the start and at an epoch, as text."""
    moments = [0, last_epoch] if last_epoch else [0]
    values = {"a": lesson.a, "C": lesson.C, "δ": lesson.delta}
    return ", ".join(
        f"{name} = {' → '.join(number_text(course[epoch].item(), 3) for epoch in moments)}"
        for name, course in values.items()
    )


def table(found: Deltas) -> str:
    """Return a table of the three δ, in Markdown."""
    numbers = range(1, len(found.manual) + 1)
    deltas = zip(("written by hand", "autograd", "differences"), found, strict=True)
    lines = [
        ("$\\delta$", *(f"$j = {number}$" for number in numbers)),
        ("---", *("---" for _ in numbers)),
        *((source, *(delta_text(value) for value in delta.tolist())) for source, delta in deltas),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def delta_text(value: float) -> str:
    """Return a number with six digits after the point; "≈ 0" if it is so small that differences do not find it."""
    return "≈ 0" if value and round(value, 6) == 0 else number_text(value + 0.0, 6)


def number_text(value: float, digits: int) -> str:
    """Return a number with as many digits after the point; one that would look like 0 and is not, as a power of 10."""
    text = f"{value:.{digits}f}"
    return (f"{value:.1e}" if value and float(text) == 0 else text).replace("-", "−")


def remark(found: Deltas) -> str:
    """Return the distance between autograd's δ and the hand-written one, as text."""
    distance = (found.manual - found.autograd).abs().max()
    if distance.isfinite():
        return f"The hand-written δ and autograd's differ by {distance:.0e} at most."
    return (
        "Here the textbook's formula has a logarithm or an exponential that is infinite in floating point, and "
        "autograd inherits it. The hand-written δ stays finite."
    )
