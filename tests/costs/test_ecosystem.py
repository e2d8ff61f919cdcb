"""The costs in PyTorch's other tools: compiled, exported, traced, on tensors without data, and in several processes."""

import dataclasses
import io
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ce_torch import LinearLogLikelihoodCost, LogLikelihoodCost
from ce_torch.costs._registry import COSTS

Spread = Callable[[nn.Module], nn.Module]


class EndsInACost(nn.Module):
    """A network whose output is its cost."""

    def __init__(self, case) -> None:
        super().__init__()
        self.layer, self.cost = nn.Linear(4, 3), case.cost()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.cost(self.layer(x), y)


def test_ten_batch_sizes_recompile_a_cost_at_most_once(case) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(case, backend=counter, fullgraph=True)
    for batch_size in range(2, 12):
        z, y = case.examples(batch_size, 3)
        compiled(z.requires_grad_(), y).backward()
    assert counter.frame_count <= 2


def test_an_exported_network_that_ends_in_a_cost_takes_any_batch_size(case) -> None:
    network = EndsInACost(case)
    _, y = case.examples(6, 3, dtype=torch.float32)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(network, (torch.randn(6, 4), y), dynamic_shapes=({0: batch}, {0: batch}))
    _, y = case.examples(9, 3, dtype=torch.float32)
    x = torch.randn(9, 4)
    torch.testing.assert_close(program.module()(x, y), network(x, y))


def traced_by_jit(network: nn.Module, *inputs: Tensor) -> nn.Module:
    """Return a trace that was saved and loaded."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(network, inputs), file)
    file.seek(0)
    return torch.jit.load(file)


def traced_by_fx(network: nn.Module, *inputs: Tensor) -> nn.Module:
    """Return a pickled copy of the module that holds the graph."""
    return pickle.loads(pickle.dumps(torch.fx.symbolic_trace(network)))


ignores_warnings_of_jit = pytest.mark.filterwarnings("ignore:.torch.jit")


@ignores_warnings_of_jit
@pytest.mark.parametrize("traced", [traced_by_jit, traced_by_fx])
def test_a_trace_of_a_network_that_ends_in_a_cost_is_right_for_other_inputs(case, traced: Callable) -> None:
    network = EndsInACost(case).to(case.dtype)
    _, y = case.examples(6, 3)
    trace = traced(network, torch.randn(6, 4, dtype=case.dtype), y)
    x, (_, y) = torch.randn(6, 4, dtype=case.dtype), case.examples(6, 3, seed=1)
    C, expected = trace(x, y), case.by_textbook(network.layer(x), y)
    torch.testing.assert_close(C, expected)
    ours = torch.autograd.grad(C, [*trace.layer.parameters()])
    torch.testing.assert_close(ours, torch.autograd.grad(expected, [*network.layer.parameters()]))


@ignores_warnings_of_jit
@pytest.mark.parametrize("traced", [traced_by_jit, traced_by_fx])
@pytest.mark.parametrize("cost", [LogLikelihoodCost, partial(LinearLogLikelihoodCost, 4, 4)])
def test_a_trace_ignores_what_is_to_be_ignored_of_other_inputs(cost: Callable, traced: Callable) -> None:
    cost = cost(ignore_index=1, label_smoothing=0.1)
    z, y = torch.randn(2, 6, 4), torch.tensor([[0, 1, 2, 0, 1, 2], [2, 3, 1, 1, 1, 0]])
    trace = traced(cost, z[0], y[0])
    scores = cost.layer(z[1]) if hasattr(cost, "layer") else z[1]
    expected = F.cross_entropy(scores, y[1], ignore_index=1, label_smoothing=0.1)
    torch.testing.assert_close(trace(z[1], y[1]), expected)


class Labelled(Tensor):
    """A tensor that records every function that is called with it."""

    called: ClassVar[list[Callable]] = []

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        cls.called.append(function)
        return super().__torch_function__(function, types, arguments, keywords)


def test_a_tensor_with_torch_function_is_told_of_a_cost_as_a_whole(case) -> None:
    z, y = case.examples(6, 3, dtype=torch.float32)
    Labelled.called.clear()
    C = case(z.as_subclass(Labelled), y)
    assert type(C) is Labelled
    assert {cost.function for cost in (*COSTS.values(), LinearLogLikelihoodCost)} & {*Labelled.called}
    torch.testing.assert_close(C.as_subclass(Tensor), case.by_textbook(z, y))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_meta_tensors_give_costs_and_deltas_their_shapes(case, reduction: str) -> None:
    z, y = case.examples(6, 3)
    expected = case(z, y, reduction=reduction)
    case = dataclasses.replace(case, options={k: to_meta(v) for k, v in case.options.items()})
    z = z.to("meta").requires_grad_()
    C = case(z, y.to("meta"), reduction=reduction)
    (delta,) = torch.autograd.grad(C.sum(), z)
    assert (C.shape, C.dtype, delta.shape, delta.dtype) == (expected.shape, expected.dtype, z.shape, z.dtype)


def to_meta(value: object) -> object:
    return value.to("meta") if isinstance(value, Tensor) else value


def test_fake_tensors_go_forward_and_backward(case) -> None:
    z, y = case.examples(6, 3, dtype=torch.float32)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        z = mode.from_tensor(z).requires_grad_()
        (delta,) = torch.autograd.grad(case(z, mode.from_tensor(y)), z)
    assert delta.shape == (6, 3)


def replicated(network: nn.Module) -> nn.Module:
    return DistributedDataParallel(network)


def sharded(network: nn.Module) -> nn.Module:
    # By default the mesh is of GPUs where there are any.
    return fully_shard(network, mesh=init_device_mesh("cpu", (2,)))


def gradients_of_half(
    rank: int, rendezvous: str, spread: Spread, network: nn.Module, x: Tensor, y: Tensor
) -> list[Tensor]:
    distributed.init_process_group("gloo", rendezvous, timedelta(seconds=30), world_size=2, rank=rank)
    try:
        network = spread(network)
        network(x[rank::2], y[rank::2]).backward()
        gradients = [parameter.grad for parameter in network.parameters() if parameter.requires_grad]
        return [gradient.full_tensor() for gradient in gradients] if spread is sharded else gradients
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes() -> Iterator[Pool]:
    # Autograd's threads don't survive a fork.
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        yield pool


@pytest.mark.parametrize("spread", [replicated, sharded])
def test_two_processes_with_half_of_the_batch_each_get_the_gradients_of_the_whole(
    typical_case, processes: Pool, spread: Spread, tmp_path: Path
) -> None:
    network = EndsInACost(typical_case).to(typical_case.dtype)
    _, y = typical_case.examples(12, 3)
    x = torch.randn(12, 4, dtype=typical_case.dtype)
    whole_gradients = torch.autograd.grad(
        typical_case.by_textbook(network.layer(x), y), list(network.layer.parameters())
    )
    task = f"file://{tmp_path / 'rendezvous'}", spread, network, x, y
    results = processes.starmap_async(gradients_of_half, [(0, *task), (1, *task)], chunksize=1)
    for gradients in results.get(timeout=60):
        torch.testing.assert_close(gradients, list(whole_gradients))
