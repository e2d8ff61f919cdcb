"""Processes that share the classes of a layer get the cost and the gradients of a single process."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from heads import layer
from torch import Tensor, distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from ce_torch.costs.linear import blocks
from ce_torch.functional import linear_log_likelihood, linear_softmax_statistics

CLASSES = torch.tensor([0, 3, -100, 4, 6, 1, 8])
OUTPUTS = torch.rand(7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WEIGHTS = torch.rand(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
# How many of nine classes each process has.
SHARES = {"two": (5, 4), "uneven": (8, 1), "none-in-one": (9, 0), "three": (2, 3, 4)}
OPTIONS = {
    "plain": {},
    "options": {
        "class_weight": WEIGHTS,
        "label_smoothing": 0.1,
        "temperature": 0.5,
        "z_loss": 0.05,
        "reduction": "sum",
    },
    "each": {"reduction": "none", "block_rows": 2},
    "examples": {"token_weight": torch.linspace(0, 2, 7, dtype=torch.float64), "denominator": 3.0, "z_loss": 0.05},
    "softcap": {"softcap": 2.0, "z_loss": 0.05, "label_smoothing": 0.1, "temperature": 0.5},
    "softcap-each": {
        "softcap": 2.0,
        "token_weight": torch.linspace(0, 2, 7, dtype=torch.float64),
        "class_weight": WEIGHTS,
        "reduction": "none",
        "max_memory": "1 MB",
    },
}


@pytest.fixture(autouse=True)
def backend() -> None:
    """Leave it to each process to make its blocks small."""


Inputs = list[Tensor]
Work = Callable[[int, tuple[int, ...], Inputs, Tensor, dict], tuple[Tensor, ...]]


def cost_and_derivatives(inputs: Inputs, y: Tensor, options: dict, **more: object) -> tuple[Tensor, ...]:
    """Return C, its gradients, and second derivatives along a direction that depends on all."""
    x, weight, bias = inputs
    C = linear_log_likelihood(x, weight, y, bias, **options, **more)
    first = torch.autograd.grad(C.square().sum(), inputs, create_graph=True)
    # Only the gradient of x is the same in all processes.
    second = torch.autograd.grad(first[0].square().sum(), inputs)
    return C, *first, *second


def derivatives_of_shard(
    rank: int, shares: tuple[int, ...], inputs: Inputs, y: Tensor, options: dict
) -> tuple[Tensor, ...]:
    x, weight, bias = inputs
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    inputs = [x, weight.detach()[own].requires_grad_(), bias.detach()[own].requires_grad_()]
    y = y[:, own] if y.is_floating_point() else y
    options = {name: value[own] if name == "class_weight" else value for name, value in options.items()}
    return cost_and_derivatives(inputs, y, options, group=distributed.group.WORLD)


def derivatives_of_dtensors(
    rank: int, shares: tuple[int, ...], inputs: Inputs, y: Tensor, options: dict
) -> tuple[Tensor, ...]:
    mesh = init_device_mesh("cpu", (len(shares),))
    x, *parameters = inputs
    parts = [distribute_tensor(tensor.detach(), mesh, [Shard(0)]).requires_grad_() for tensor in parameters]
    C = linear_log_likelihood(x, parts[0], y, parts[1], group=mesh.get_group(), **options)
    gradients = torch.autograd.grad(C, [x, *parts])
    return C, gradients[0], *(gradient.full_tensor() for gradient in gradients[1:])


def run_in_process(
    rank: int, rendezvous: str, work: Work, shares: tuple[int, ...], *task: object
) -> tuple[Tensor, ...]:
    blocks.FEWEST_ROWS, blocks.FEWEST_CLASSES, blocks.FEWEST_ELEMENTS = 1, 1, 20
    distributed.init_process_group("gloo", rendezvous, timedelta(seconds=60), world_size=len(shares), rank=rank)
    try:
        return tuple(tensor.detach() for tensor in work(rank, shares, *task))
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes():
    # Autograd's threads don't survive a fork of this process. The server has none, and loads PyTorch once for all.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed.tensor", "ce_torch.functional"])
    with context.Pool(3) as pool:
        yield pool


def run_in_processes(processes, tmp_path: Path, work: Work, shares: tuple[int, ...], *task: object):
    task = f"file://{tmp_path / 'rendezvous'}", work, shares, *task
    return processes.starmap_async(run_in_process, [(rank, *task) for rank in range(len(shares))], chunksize=1).get(120)


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("y", [CLASSES, OUTPUTS], ids=["classes", "outputs"])
def test_processes_that_share_the_classes_get_what_one_process_gets(processes, tmp_path, y, options, shares):
    inputs = layer()
    C, *derivatives = cost_and_derivatives(inputs, y, options)
    results = run_in_processes(processes, tmp_path, derivatives_of_shard, shares, inputs, y, options)
    for one in results:
        torch.testing.assert_close(one[0], C.detach())
    each = [one[1:] for one in results]
    for i, right in enumerate(derivatives):
        found = [one[i] for one in each]
        if i % 3 == 0:  # by x, the same in all
            for one in found:
                torch.testing.assert_close(one, right.detach())
        else:
            torch.testing.assert_close(torch.cat(found), right.detach())


def numbers_and_derivatives(inputs: Inputs, y: Tensor, options: dict, **more: object) -> tuple[Tensor, ...]:
    """Return log-probability, logsumexp and entropy, first and second derivatives, and the prediction."""
    x, weight, bias = inputs
    found = linear_softmax_statistics(x, weight, y, bias, entropy=True, **options, **more)
    log_prob, logsumexp, entropy, prediction, _ = found
    total = (log_prob.square() + 2 * logsumexp.square() - 3 * entropy.square()).sum()
    first = torch.autograd.grad(total, inputs, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), inputs)
    return *first, *second, log_prob, logsumexp, entropy, prediction


def statistics_of_shard(
    rank: int, shares: tuple[int, ...], inputs: Inputs, y: Tensor, options: dict
) -> tuple[Tensor, ...]:
    x, weight, bias = inputs
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    inputs = [x, weight.detach()[own].requires_grad_(), bias.detach()[own].requires_grad_()]
    y = y[:, own] if y.is_floating_point() else y
    return numbers_and_derivatives(inputs, y, options, group=distributed.group.WORLD)


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0, "temperature": 0.5}], ids=["plain", "softcap"])
@pytest.mark.parametrize("y", [CLASSES, OUTPUTS], ids=["classes", "outputs"])
def test_processes_that_share_the_classes_get_the_statistics_of_one_process(processes, tmp_path, y, options, shares):
    inputs = layer()
    right = [tensor.detach() for tensor in numbers_and_derivatives(inputs, y, options)]
    results = run_in_processes(processes, tmp_path, statistics_of_shard, shares, inputs, y, options)
    for i, tensor in enumerate(right):
        found = [one[i] for one in results]
        if i >= 6 or i % 3 == 0:  # numbers, and derivatives by x, are the same in all
            for one in found:
                torch.testing.assert_close(one, tensor)
        else:
            torch.testing.assert_close(torch.cat(found), tensor)


def adapted_shard(rank: int, shares: tuple[int, ...], inputs: Inputs, y: Tensor, pair: Inputs) -> tuple[Tensor, ...]:
    (x, weight, bias), (A, B) = inputs, pair
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    B = B.detach()[own].requires_grad_()
    adapter = {"adapter": (A, B), "group": distributed.group.WORLD}
    C = linear_log_likelihood(x, weight.detach()[own], y, bias.detach()[own], **adapter)
    return C, *torch.autograd.grad(C, (x, A, B))


@pytest.mark.parametrize("shares", [(8, 1), (2, 3, 4)], ids=["uneven", "three"])
def test_processes_share_out_the_rows_of_an_adapter_too(processes, tmp_path, shares):
    inputs, generator = layer(), torch.Generator().manual_seed(3)
    A, B = (torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in ((2, 5), (9, 2)))
    C = linear_log_likelihood(inputs[0], inputs[1] + B @ A, CLASSES, inputs[2])
    right = [tensor.detach() for tensor in (C, *torch.autograd.grad(C, (inputs[0], A, B)))]
    results = run_in_processes(processes, tmp_path, adapted_shard, shares, inputs, CLASSES, [A, B])
    for one in results:
        torch.testing.assert_close(list(one[:3]), right[:3])
    torch.testing.assert_close(torch.cat([one[3] for one in results]), right[3])


def adapted_dtensors(
    rank: int, shares: tuple[int, ...], inputs: Inputs, y: Tensor, pair: Inputs, placements: tuple
) -> tuple[Tensor, ...]:
    mesh = init_device_mesh("cpu", (len(shares),))
    x, *parameters = inputs
    weight, bias = (distribute_tensor(tensor.detach(), mesh, [Shard(0)]) for tensor in parameters)
    A, B = (
        distribute_tensor(tensor.detach(), mesh, [placement]).requires_grad_()
        for tensor, placement in zip(pair, placements, strict=True)
    )
    C = linear_log_likelihood(x, weight, y, bias, adapter=(A, B), group=mesh.get_group())
    gradients = torch.autograd.grad(C, (x, A, B))
    return C, gradients[0], *(gradient.full_tensor() for gradient in gradients[1:])


@pytest.mark.parametrize("shares", [(5, 4), (3, 3, 3)], ids=["two", "three"])
@pytest.mark.parametrize(
    "placements",
    [(Replicate(), Shard(0)), (Shard(0), Shard(0)), (Replicate(), Replicate()), (Shard(1), Shard(1))],
    ids=["as-the-weight", "both-by-rows", "whole", "both-by-columns"],
)
def test_an_adapter_of_dtensors_is_shared_out_as_the_weight(processes, tmp_path, placements, shares):
    inputs, generator = layer(), torch.Generator().manual_seed(3)
    A, B = (torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in ((2, 5), (9, 2)))
    C = linear_log_likelihood(inputs[0], inputs[1] + B @ A, CLASSES, inputs[2])
    right = tuple(tensor.detach() for tensor in (C, *torch.autograd.grad(C, (inputs[0], A, B))))
    task = inputs, CLASSES, [A, B], placements
    for found in run_in_processes(processes, tmp_path, adapted_dtensors, shares, *task):
        torch.testing.assert_close(found, right)


def refuses_an_adapter_alone(rank: int, shares: tuple[int, ...], inputs: Inputs, *_: object) -> tuple[Tensor, ...]:
    mesh = init_device_mesh("cpu", (len(shares),))
    x, weight, _ = inputs
    A, B = torch.ones(2, 5, dtype=torch.float64), torch.ones(9, 2, dtype=torch.float64)
    B = distribute_tensor(B, mesh, [Shard(0)])
    own = weight.detach()[sum(shares[:rank]) : sum(shares[: rank + 1])]
    try:
        linear_log_likelihood(x, own, CLASSES, adapter=(A, B), group=mesh.get_group())
    except ValueError as error:
        return (torch.tensor("adapter must hold no DTensor where weight, a Tensor, is none" in str(error)),)
    return (torch.tensor(False),)


def test_an_adapter_of_dtensors_is_refused_where_the_weight_is_none(processes, tmp_path):
    results = run_in_processes(processes, tmp_path, refuses_an_adapter_alone, (5, 4), layer(), CLASSES, {})
    assert all(one[0] for one in results)


@pytest.mark.parametrize("shares", [(5, 4), (3, 3, 3)], ids=["two", "three"])
def test_a_weight_that_is_a_dtensor_is_shared_out_as_it_says(processes, tmp_path, shares):
    inputs = layer()
    C = linear_log_likelihood(inputs[0], inputs[1], CLASSES, inputs[2])
    right = C, *torch.autograd.grad(C, inputs)
    for found in run_in_processes(processes, tmp_path, derivatives_of_dtensors, shares, inputs, CLASSES, {}):
        torch.testing.assert_close(found, tuple(tensor.detach() for tensor in right))


def refuses_a_missing_group(rank: int, shares: tuple[int, ...], inputs: Inputs, *_: object) -> tuple[Tensor, ...]:
    mesh = init_device_mesh("cpu", (len(shares),))
    weight = distribute_tensor(inputs[1].detach(), mesh, [Shard(0)])
    try:
        linear_log_likelihood(inputs[0], weight, CLASSES)
    except ValueError as error:
        return (torch.tensor("weight.full_tensor()" in str(error) and "group=weight.device_mesh" in str(error)),)
    return (torch.tensor(False),)


def test_a_weight_that_is_a_dtensor_is_not_shared_out_unasked(processes, tmp_path):
    results = run_in_processes(processes, tmp_path, refuses_a_missing_group, (5, 4), layer(), CLASSES, {})
    assert all(one[0] for one in results)


def cost_of_own_examples(rank: int, shares: tuple[int, ...], inputs: Inputs, *_: object) -> tuple[Tensor, ...]:
    mesh = init_device_mesh("cpu", (len(shares),))
    weight = distribute_tensor(inputs[1].detach(), mesh, [Shard(0)])
    return (linear_log_likelihood(inputs[0][rank::2], weight.full_tensor(), CLASSES[rank::2]),)


def test_a_weight_that_is_gathered_serves_examples_of_each_process(processes, tmp_path):
    inputs = layer()
    results = run_in_processes(processes, tmp_path, cost_of_own_examples, (5, 4), inputs, CLASSES, {})
    for rank, (C,) in enumerate(results):
        z = torch.nn.functional.linear(inputs[0][rank::2], inputs[1])
        torch.testing.assert_close(C, torch.nn.functional.cross_entropy(z, CLASSES[rank::2]).detach())


def refuses_a_third_derivative(rank: int, shares: tuple[int, ...], inputs: Inputs, *_: object) -> tuple[Tensor, ...]:
    x, weight, _ = inputs
    own = weight.detach()[sum(shares[:rank]) : sum(shares[: rank + 1])]
    C = linear_log_likelihood(x, own, CLASSES, group=distributed.group.WORLD)
    (first,) = torch.autograd.grad(C, x, create_graph=True)
    try:
        torch.autograd.grad(first.square().sum(), x, create_graph=True)
    except RuntimeError as error:
        return (torch.tensor("first and second derivatives" in str(error)),)
    return (torch.tensor(False),)


def test_a_third_derivative_of_shards_is_refused_with_a_sentence(processes, tmp_path):
    results = run_in_processes(processes, tmp_path, refuses_a_third_derivative, (5, 4), layer(), CLASSES, {})
    assert all(one[0] for one in results)


def compiled(cost: Callable[..., Tensor], fullgraph: bool) -> Callable[..., Tensor]:
    torch.compiler.reset()
    return torch.compile(cost, backend="aot_eager", fullgraph=fullgraph)


def numbers_of_shard(x: Tensor, weight: Tensor) -> Tensor:
    """Return a number that the compiler sees something before and after, by all uses that take a group."""
    group = distributed.group.WORLD
    C = linear_log_likelihood(2 * x, weight, CLASSES, group=group)
    return C + linear_softmax_statistics(x, weight, group=group).logsumexp.square().sum()


def compiles_between_graphs(rank: int, shares: tuple[int, ...], inputs: Inputs, *_: object) -> tuple[Tensor, ...]:
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    x, weight = inputs[0], inputs[1].detach()[own].requires_grad_()
    C = compiled(numbers_of_shard, fullgraph=False)(x, weight)
    return C, *torch.autograd.grad(C, [x, weight])


def refuses_a_full_graph(rank: int, shares: tuple[int, ...], inputs: Inputs, *_: object) -> tuple[Tensor, ...]:
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    try:
        compiled(numbers_of_shard, fullgraph=True)(inputs[0], inputs[1][own])
    except RuntimeError as error:
        return (torch.tensor("does not support a cost whose classes are shared out among processes" in str(error)),)
    return (torch.tensor(False),)


def test_the_compiler_calls_a_cost_of_several_processes_between_graphs(processes, tmp_path):
    inputs = layer(bias=False)
    z = inputs[0] @ inputs[1].T
    right = torch.nn.functional.cross_entropy(2 * z, CLASSES) + z.logsumexp(-1).square().sum()
    by_x, by_weight = torch.autograd.grad(right, inputs)
    results = run_in_processes(processes, tmp_path, compiles_between_graphs, (5, 4), inputs, CLASSES, {})
    for C, found, _ in results:
        torch.testing.assert_close((C, found), (right.detach(), by_x))
    torch.testing.assert_close(torch.cat([part for *_, part in results]), by_weight)


def test_a_full_graph_of_several_processes_is_refused(processes, tmp_path):
    results = run_in_processes(processes, tmp_path, refuses_a_full_graph, (5, 4), layer(), CLASSES, {})
    assert all(refused for (refused,) in results)
