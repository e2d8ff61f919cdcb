"""Vocabulary parallelism: processes share the classes of a layer, and exchange a few numbers for each example."""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def uncompiled_with_group(cost: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let the compiler leave a cost alone whose classes are shared out among processes."""

    @wraps(cost)
    def call(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        if torch.compiler.is_compiling() and options.get("group") is not None:
            from ce_torch.costs.linear.compiled import call_between_graphs

            return call_between_graphs(cost, *arguments, **options)
        return cost(*arguments, **options)

    return call


class Shard(NamedTuple):
    """This process's part of the classes: the group of processes, its first class, and the number of all classes."""

    group: Any = None
    start: int = 0
    classes: int = 0

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes."""
        return self.all_reduce(tensor, dist.ReduceOp.SUM) if self.group is not None else tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """Return the largest over all processes."""
        return self.all_reduce(tensor, dist.ReduceOp.MAX) if self.group is not None else tensor

    def all_reduce(self, tensor: Tensor, operation: Any) -> Tensor:
        if tensor.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "a cost whose classes are shared out among processes has first and second derivatives by x, weight and "
                "bias; third ones, and second ones by desired outputs, need all classes in one process"
            )
        result = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result, operation, self.group)
        return result


ALL_CLASSES = Shard()


def local_shard(weight: Tensor, group: Any) -> Shard:
    """Return the part of this process, which holds the rows of `weight`. The parts are in the order of the ranks."""
    if group is None:
        return Shard(classes=weight.shape[0])
    rank = dist.get_rank(group)
    counts = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=weight.device)
    counts[rank] = weight.shape[0]
    dist.all_reduce(counts, group=group)
    return Shard(group, int(counts[:rank].sum()), int(counts.sum()))


class Parameters(NamedTuple):
    """What of a layer's tensors may be DTensors: x, weight, bias, desired outputs y, and A and B of an adapter."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    y: Tensor
    adapter: tuple[Tensor, Tensor] | None


def local_tensors(given: Parameters, group: Any) -> Parameters:
    """Return this process's part of each DTensor; a DTensor as weight needs the group that shares the classes."""
    x, weight, bias, y, adapter = given
    if type(weight) in (Tensor, nn.Parameter) and all(type(part) in (Tensor, nn.Parameter) for part in adapter or ()):
        return given
    from torch.distributed import tensor as dtensor  # takes long to load

    row_wise, replicated = dtensor.Shard(0), dtensor.Replicate()
    if not isinstance(weight, dtensor.DTensor):
        if any(isinstance(part, dtensor.DTensor) for part in adapter or ()):
            raise ValueError(
                f"adapter must hold no DTensor where weight, a {type(weight).__name__}, is none; give A.full_tensor() "
                "and the rows of B that belong to weight, or make weight a DTensor with Shard(0)"
            )
        return given
    if group is None:
        raise ValueError(
            f"weight is a DTensor with {weight.placements}, and this process may hold only a part of it; give "
            "weight.full_tensor() where each process has examples of its own, as with FSDP, or say "
            "group=weight.device_mesh.get_group() where all have the same examples and share the classes out"
        )
    if weight.device_mesh.ndim != 1 or weight.placements != (row_wise,):
        raise ValueError(
            f"weight must be a DTensor with Shard(0) on a mesh of one dimension, got {weight.placements} on one of "
            f"{weight.device_mesh.ndim}; redistribute it"
        )
    if dist.get_process_group_ranks(group) != dist.get_process_group_ranks(weight.device_mesh.get_group()):
        raise ValueError("group must have the processes of weight's mesh; give weight.device_mesh.get_group()")
    y_placement = dtensor.Shard(y.ndim - 1) if y.is_floating_point() else replicated

    def local(tensor: Tensor, placement: Any) -> Tensor:
        if not isinstance(tensor, dtensor.DTensor):
            return tensor
        return tensor.redistribute(placements=[placement]).to_local()

    bias = None if bias is None else local(bias, row_wise)
    if adapter is not None:
        A, B = adapter
        adapter = local(A, replicated), local(B, row_wise)
    return Parameters(local(x, replicated), weight.to_local(), bias, local(y, y_placement), adapter)
