"""Test the linear cost in two processes that share texts or parameters: DDP, FSDP2, and Trainer in both."""

import os
import socket
import tempfile
from datetime import timedelta
from unittest import mock

import pytest
import torch
from test_on_demand import MeanSquare, gradients_of
from test_trainer import NAMES
from torch import distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

pytestmark = pytest.mark.slow
TIMEOUT = timedelta(seconds=60)


@pytest.fixture(scope="module")
def processes():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        yield pool


def in_both(processes, function, *arguments):
    results = processes.starmap_async(function, [(rank, *arguments) for rank in range(2)], chunksize=1)
    return results.get(timeout=200)


def replicated(model):
    return DistributedDataParallel(model)


def replicated_with_unused_parameters(model):
    """As `Trainer` does."""
    return DistributedDataParallel(model, find_unused_parameters=True)


def replicated_as_a_static_graph(model):
    return DistributedDataParallel(model, static_graph=True)


def sharded(model):
    return fully_shard(model, mesh=init_device_mesh("cpu", (2,)))


def sharded_by_layers(model):
    """Shard each layer by itself, the output layer too."""
    mesh = init_device_mesh("cpu", (2,))
    for layer in (*model.model.layers, model.lm_head):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    return fully_shard(model, mesh=mesh)


def sharded_as_transformers_does(model):
    """Shard the last norm and the output layer as one."""
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard([model.model.norm, model.lm_head], mesh=mesh, reshard_after_forward=False)
    return fully_shard(model, mesh=mesh)


def sharded_in_bfloat16(model):
    mesh, policy = init_device_mesh("cpu", (2,)), MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    fully_shard(model.lm_head, mesh=mesh, mp_policy=policy)
    return fully_shard(model, mesh=mesh, mp_policy=policy)


def full_gradients_of_half(rank, rendezvous, spread, name, changes, batch, own_loss=None):
    """Return loss, gradients and some logits of a served model that gets half of the texts."""
    from architectures import build

    from ce_torch.integrations.transformers import use_linear_cost

    distributed.init_process_group("gloo", rendezvous, TIMEOUT, world_size=2, rank=rank)
    try:
        model = build(name, **changes)
        use_linear_cost(model)
        spread_model = spread(model)
        half = {key: value[rank::2] for key, value in batch.items()}
        # Gradients are averaged over the processes.
        outputs = spread_model(**half, num_items_in_batch=(batch["labels"][:, 1:] != -100).sum() / 2)
        logits = outputs.logits[:, 0].detach()
        loss = outputs.loss if own_loss is None else outputs.loss + own_loss(outputs.logits)
        loss.backward()
        gradients = [p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in model.parameters()]
        return outputs.loss.detach(), gradients, logits
    finally:
        distributed.destroy_process_group()


in_every_way = pytest.mark.parametrize(
    ("spread", "changes"),
    [
        (replicated, {}),
        (replicated, {"tie_word_embeddings": True}),
        (replicated_with_unused_parameters, {}),
        (replicated_as_a_static_graph, {}),
        (sharded, {}),
        (sharded, {"tie_word_embeddings": True}),
        (sharded_by_layers, {}),
        (sharded_as_transformers_does, {}),
        (sharded_in_bfloat16, {}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "tied" if value else "untied",
)


@in_every_way
def test_two_processes_with_half_of_the_texts_each_get_the_gradients_of_the_whole(
    spread, changes, processes, build, batch, loss_and_gradients, tmp_path
):
    model = build("LlamaForCausalLM", **changes)
    loss, expected = loss_and_gradients(model, batch)
    logits = model(batch["input_ids"]).logits[:, 0].detach()
    tolerance = {"rtol": 0.1, "atol": 0.05} if spread is sharded_in_bfloat16 else {"rtol": 1e-4, "atol": 1e-6}
    task = f"file://{tmp_path / 'rendezvous'}", spread, "LlamaForCausalLM", changes, batch
    results = in_both(processes, full_gradients_of_half, *task)
    assert_close(sum(result[0] for result in results) / 2, loss, **tolerance)
    for rank, (_, gradients, found) in enumerate(results):
        assert_close(gradients, [*expected], **tolerance)
        assert_close(found.float(), logits[rank::2], **tolerance)


@in_every_way
def test_a_function_of_autograd_has_its_gradients_in_two_processes(spread, changes, processes, build, batch, tmp_path):
    expected = gradients_of(build("LlamaForCausalLM", **changes), batch, MeanSquare.apply)
    tolerance = {"rtol": 0.1, "atol": 0.05} if spread is sharded_in_bfloat16 else {"rtol": 1e-4, "atol": 1e-6}
    task = f"file://{tmp_path / 'rendezvous'}", spread, "LlamaForCausalLM", changes, batch, MeanSquare.apply
    for _, gradients, _ in in_both(processes, full_gradients_of_half, *task):
        assert_close(gradients, expected, **tolerance)


def logits_made(rank, rendezvous, spread, batch):
    """Return how often the output layer was multiplied in two steps."""
    from architectures import build

    from ce_torch.integrations.transformers import use_linear_cost

    distributed.init_process_group("gloo", rendezvous, TIMEOUT, world_size=2, rank=rank)
    try:
        model = build("LlamaForCausalLM")
        use_linear_cost(model)
        spread_model = spread(model)
        with mock.patch.object(functional, "linear", wraps=functional.linear) as linear:
            for _ in range(2):
                spread_model(**batch).loss.backward()
        return sum(call.args[1].shape[0] == 96 for call in linear.call_args_list)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("spread", [replicated_with_unused_parameters, replicated_as_a_static_graph, sharded_by_layers])
def test_no_logits_are_made_in_training_in_two_processes(spread, processes, batch, tmp_path):
    assert in_both(processes, logits_made, f"file://{tmp_path / 'rendezvous'}", spread, batch) == [0, 0]


def errors_of_what_comes_too_late(rank, rendezvous, batch):
    from architectures import build

    from ce_torch.integrations.transformers import remove_linear_cost, use_linear_cost

    distributed.init_process_group("gloo", rendezvous, TIMEOUT, world_size=2, rank=rank)
    try:
        model = build("LlamaForCausalLM")
        use_linear_cost(model)
        outputs = sharded(model)(**batch)
        outputs.loss.backward()
        with pytest.raises(RuntimeError) as error_of_logits:
            outputs.logits.argmax(-1)
        with pytest.raises(RuntimeError) as error_of_removal:
            remove_linear_cost(model)
        return str(error_of_logits.value), str(error_of_removal.value)
    finally:
        distributed.destroy_process_group()


def test_what_comes_too_late_for_a_sharded_model_is_an_error(processes, batch, tmp_path):
    task = f"file://{tmp_path / 'rendezvous'}", batch
    for of_logits, of_removal in in_both(processes, errors_of_what_comes_too_late, *task):
        assert "take them before the backward pass" in of_logits
        assert "has been sharded since" in of_removal


def error_of_a_cast(rank, rendezvous, param_dtype, batch):
    """Return the error of a model whose output layer returns bfloat16."""
    from architectures import build

    from ce_torch.integrations.transformers import use_linear_cost

    distributed.init_process_group("gloo", rendezvous, TIMEOUT, world_size=2, rank=rank)
    try:
        model = build("LlamaForCausalLM")
        use_linear_cost(model)
        mesh, policy = init_device_mesh("cpu", (2,)), MixedPrecisionPolicy(param_dtype, output_dtype=torch.bfloat16)
        fully_shard(model.lm_head, mesh=mesh, mp_policy=policy)
        with pytest.raises(RuntimeError) as error:
            fully_shard(model, mesh=mesh)(**batch)
        return str(error.value)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("param_dtype", [None, torch.bfloat16])
def test_a_layer_whose_outputs_are_cast_is_refused(param_dtype, processes, batch, tmp_path):
    task = f"file://{tmp_path / 'rendezvous'}", param_dtype, batch
    for error in in_both(processes, error_of_a_cast, *task):
        assert "FSDP casts what its output layer returns to torch.bfloat16" in error


def losses_of_trainer(rank, port, name, texts, is_served):
    """Return the losses of ten steps, each of two texts in each process, accumulated twice."""
    import accelerate
    import transformers
    from architectures import build

    from ce_torch.integrations.transformers import use_linear_cost

    os.environ.update(
        MASTER_ADDR="localhost", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2"
    )
    accelerate.state.AcceleratorState._reset_state(True)
    model = build(name)
    if is_served:
        use_linear_cost(model)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            max_steps=10,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            logging_steps=1,
            optim="sgd",
            learning_rate=0.05,
            use_cpu=True,
            ddp_backend="gloo",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        try:
            assert arguments.world_size == 2
            trainer = transformers.Trainer(model, arguments, train_dataset=texts)
            trainer.train()
        finally:
            distributed.destroy_process_group()
    weight = model.get_output_embeddings().weight.detach()
    return torch.tensor([record["loss"] for record in trainer.state.log_history if "loss" in record]), weight


@pytest.mark.parametrize("name", NAMES)
def test_trainer_in_two_processes_takes_the_steps_that_it_takes_with_the_models_own_loss(name, processes, texts):
    def losses(is_served):
        with socket.socket() as listener:
            listener.bind(("localhost", 0))
            port = listener.getsockname()[1]
        return in_both(processes, losses_of_trainer, port, name, texts, is_served)[0]

    (found, weight), (own, own_weight) = losses(True), losses(False)
    assert len(found) == 10
    assert_close(found, own, rtol=1e-3, atol=0)
    assert_close(weight, own_weight, rtol=1e-3, atol=1e-4)
