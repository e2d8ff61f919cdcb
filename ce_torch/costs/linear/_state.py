"""Whether a tracer records operators: the one question to PyTorch's private interface that only this folder has."""

import torch

from ce_torch.costs._torch_private import is_transformed

TRACERS = (
    torch._C._TorchDispatchModeKey.FAKE,
    torch._C._TorchDispatchModeKey.PROXY,
    torch._C._TorchDispatchModeKey.FUNCTIONAL,
)


def is_traced() -> bool:
    """Return whether fake tensors, `make_fx` or the compiler's functionalization see the call, outside `torch.func`."""
    return not is_transformed() and any(torch._C._get_dispatch_mode(key) is not None for key in TRACERS)
