"""The most memory that an action has in use, for benchmarks and tests."""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages

import torch
from torch.autograd.profiler import profile


def peak_memory(action: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Return the most bytes of tensors that an action has in use at once beyond those that there were."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        return torch.cuda.max_memory_allocated() - before
    # Unlike torch.profiler's, this one leaves events of operators unread, which takes most of the time.
    with profile(use_cpu=True, profile_memory=True) as recorded:
        action()
    assert recorded.kineto_results is not None
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    in_use = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        in_use += event.nbytes()
        peak = max(peak, in_use)
    return peak


def extra_memory(step: Callable[[torch.Tensor, torch.Tensor], Any], z: torch.Tensor, y: torch.Tensor) -> float:
    """Return the most memory that was in use beyond z and its gradient, in parts of z's size."""
    return max(peak_memory(lambda: step(z, y), z.device) / z.nbytes - 1, 0)
