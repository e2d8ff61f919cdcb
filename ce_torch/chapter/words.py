"""What is found, in words and numbers for the notebook."""

from ce_torch.chapter.deltas import Deltas
from ce_torch.chapter.neuron import Lesson


def progress(lesson: Lesson, until: int) -> str:
    """Return in words what a single neuron's output, cost and δ were at the start, and what they were at an epoch."""
    moments = [0, until] if until else [0]
    values = {"a": lesson.a, "C": lesson.C, "δ": lesson.delta}
    return ", ".join(f"{name} = {' → '.join(f'{of[at]:.3f}' for at in moments)}" for name, of in values.items())


def table(found: Deltas) -> str:
    """Return the three in a table, in Markdown."""
    numbers = range(1, len(found.by_hand) + 1)
    ways = zip(("written by hand", "autograd", "differences"), found, strict=True)
    lines = [
        ("$\\delta$", *(f"$j = {number}$" for number in numbers)),
        ("---", *("---" for _ in numbers)),
        *((way, *(f"{value:.6f}" for value in delta)) for way, delta in ways),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def remark(found: Deltas) -> str:
    """Return in words how far autograd's δ is from the hand-written one."""
    apart = (found.by_hand - found.by_autograd).abs().max()
    if apart.isfinite():
        return f"By hand and from autograd differ by {apart:.0e} at most."
    return (
        "The textbook's formula has a logarithm or an exponential here that is infinite in floating point, and "
        "autograd inherits it. What is written by hand stays finite."
    )
