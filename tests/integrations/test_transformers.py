"""Test what `use_linear_cost` promises beyond loss and gradients of each architecture."""

import copy
import importlib
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from benchmarks import transformers as benchmark
from ce_torch.integrations.transformers import (
    causal_lm_loss,
    compute_loss_func,
    remove_linear_cost,
    use_linear_cost,
)


@pytest.fixture
def llama(build):
    return build("LlamaForCausalLM")


@pytest.fixture
def no_logits(forbid_logits):
    forbid_logits()


def test_no_logits_are_made_in_training(llama, batch, no_logits):
    use_linear_cost(llama)
    llama(**batch).loss.backward()
    assert all(parameter.grad is not None for parameter in llama.parameters())


def test_no_logits_are_made_for_the_loss_in_evaluation(llama, batch, no_logits):
    use_linear_cost(llama)
    assert llama.eval()(**batch).loss.isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("name", benchmark.MODELS)
def test_a_step_has_a_small_part_of_the_logits_in_use_at_most(name):
    _, plain, limited = (row["extra_memory"] for row in benchmark.rows(name))
    assert plain < 1 / 8
    assert limited < 1 / 10


def test_the_memory_of_the_cost_can_be_changed(llama, batch):
    use_linear_cost(llama)
    own = llama(**batch).loss
    use_linear_cost(llama, max_memory="1 MB")
    assert_close(llama(**batch).loss, own)
    use_linear_cost(llama, max_memory=1)
    with pytest.raises(ValueError, match="max_memory must be at least"):
        llama(**batch)
    with pytest.raises((TypeError, ValueError), match=r"max_memory must be .*, got 'much'"):
        use_linear_cost(llama, max_memory="much")
    remove_linear_cost(llama)
    assert "cost_memory" not in vars(llama)
    assert "cost_memory" not in vars(llama.lm_head)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_items_in_batch": 7},
        {"num_items_in_batch": torch.tensor(7)},
        {"ignore_index": 5},
        {"shift_labels": torch.arange(24).view(2, 12)},
        {"return_dict": False},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_what_the_model_passes_on_to_its_loss_is_understood(arguments, llama, batch):
    batch["labels"].masked_fill_(batch["labels"] == -100, arguments.get("ignore_index", -100))
    own = llama(**batch, **arguments)
    use_linear_cost(llama)
    outputs = llama(**batch, **arguments)
    assert type(outputs) is type(own)
    assert_close(outputs[0], own[0])


def test_labels_by_position_count_too(llama, batch, forbid_logits):
    position = [*inspect.signature(llama.forward).parameters].index("labels")
    own = llama(input_ids=batch["input_ids"], labels=batch["labels"]).loss
    forbid_logits()
    use_linear_cost(llama)
    assert_close(llama(batch["input_ids"], *[None] * (position - 1), batch["labels"]).loss, own)


def test_a_batch_without_a_word_that_counts_costs_nan_or_0_as_before(llama, batch):
    batch["labels"][:] = -100
    use_linear_cost(llama)
    assert llama(**batch).loss.isnan()
    assert llama(**batch, num_items_in_batch=3).loss == 0


def test_logits_of_a_model_without_numbers_have_none(llama, batch):
    use_linear_cost(llama.to("meta"))
    logits = llama(**{name: words.to("meta") for name, words in batch.items()}).logits
    assert logits.softmax(-1).is_meta


def test_without_labels_a_model_is_what_it_was(llama, batch):
    words = batch["input_ids"]
    own, generated = llama.eval()(words, logits_to_keep=3).logits, llama.generate(words, max_new_tokens=3)
    use_linear_cost(llama)
    assert_close(llama(words, logits_to_keep=3).logits, own, rtol=0, atol=0)
    assert type(llama(words).logits) is torch.Tensor
    assert llama.generate(words, max_new_tokens=3).equal(generated)


def test_it_can_be_undone(llama, batch):
    stock, words = type(llama), batch["input_ids"]
    for _ in range(2):
        use_linear_cost(llama)
        use_linear_cost(llama)  # has no further effect
        remove_linear_cost(llama)
    assert type(llama) is stock
    assert type(llama.lm_head) is torch.nn.Linear
    assert type(llama(words, labels=words).logits) is torch.Tensor


def test_a_model_keeps_its_name_its_signature_and_its_parameters(llama):
    name, signature, state = type(llama).__name__, inspect.signature(llama.forward), {*llama.state_dict()}
    use_linear_cost(llama)
    assert (type(llama).__name__, inspect.signature(llama.forward), {*llama.state_dict()}) == (name, signature, state)


def test_a_copy_is_served_by_itself(llama, batch, loss_and_gradients):
    use_linear_cost(llama)
    twin = copy.deepcopy(llama)
    assert_close(loss_and_gradients(twin, batch), loss_and_gradients(llama, batch))
    remove_linear_cost(llama)
    assert type(twin(**batch).logits) is not torch.Tensor


def test_a_saved_model_loads_as_the_stock_one(llama, batch, tmp_path):
    use_linear_cost(llama)
    llama.save_pretrained(tmp_path)
    loaded = type(llama).__bases__[1].from_pretrained(tmp_path)
    assert loaded.config.architectures == ["LlamaForCausalLM"]
    assert_close(loaded(**batch).loss, llama(**batch).loss)


@pytest.mark.parametrize("tied", [False, True])
def test_a_layer_that_shares_its_weight_with_the_embedding_gets_both_gradients(
    tied, build, batch, loss_and_gradients, no_logits
):
    model = build("LlamaForCausalLM", tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    use_linear_cost(model)
    _, gradients = loss_and_gradients(model, batch)
    assert len(gradients) == 21 - tied


def test_gradient_checkpointing(llama, batch, loss_and_gradients, no_logits):
    use_linear_cost(llama)
    plain = loss_and_gradients(llama, batch)
    llama.activation_checkpointing_enable()
    assert_close(loss_and_gradients(llama, batch), plain)


def test_a_model_in_bfloat16_has_its_loss_in_float32(llama, batch, loss_and_gradients):
    exact, _ = loss_and_gradients(llama, batch)
    own, own_gradients = loss_and_gradients(llama.bfloat16(), batch)
    use_linear_cost(llama)
    loss, gradients = loss_and_gradients(llama, batch)
    assert loss.dtype == torch.float32
    assert (loss - exact).abs() <= (own - exact).abs() + 1e-2
    assert_close(gradients, own_gradients, rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_a_copy_of_a_served_model_is_served_too(copied, llama, batch, forbid_logits):
    own = llama(**batch).loss
    use_linear_cost(llama)
    model = copied(llama)
    forbid_logits()
    assert_close(model(**batch).loss, own)
    assert {type(module) for module in model.modules()} == {type(module) for module in llama.modules()}
    remove_linear_cost(model)
    assert type(llama) is not type(model)


def test_what_a_served_model_saves_is_the_models_own(llama, batch, tmp_path):
    stock, own = type(llama), llama(**batch)
    use_linear_cost(llama)
    llama.save_pretrained(tmp_path)
    loaded = stock.from_pretrained(tmp_path)
    assert type(loaded) is stock
    assert_close(loaded(**batch).logits, own.logits)
    assert_close(type(llama).from_pretrained(tmp_path)(**batch).loss, own.loss)


def test_replicas_of_data_parallel_are_served_each_by_itself(llama, batch, loss_and_gradients, monkeypatch):
    """In place of GPUs, which copy parameters, there are threads with copies of them."""
    own_loss, own = loss_and_gradients(llama, batch)
    use_linear_cost(llama)

    def copies(tensors, devices, detach):
        return [[tensor.clone() for tensor in tensors] for _ in devices]

    module = importlib.import_module("torch.nn.parallel.replicate")
    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", copies)
    replicas = module.replicate(llama, [0, 1])
    texts = [{key: value[[i]] for key, value in batch.items()} for i in range(2)]
    count = (batch["labels"][:, 1:] != -100).sum()
    with ThreadPoolExecutor(2) as threads:
        losses = threads.map(lambda model, text: model(**text, num_items_in_batch=count).loss, replicas, texts)
    loss = sum(losses)
    assert_close(loss.detach(), own_loss)
    assert_close(torch.autograd.grad(loss, [*llama.parameters()]), own)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma2ForCausalLM", "GraniteForCausalLM", "Qwen3MoeForCausalLM"])
def test_it_compiles_as_one_graph(name, build, batch, loss_and_gradients):
    torch._dynamo.reset()
    model = build(name, output_router_logits=False) if "Moe" in name else build(name)
    own = loss_and_gradients(model, batch)
    use_linear_cost(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(loss_and_gradients(compiled, batch), own, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_model_returns_logits_in_evaluation(llama, batch):
    torch._dynamo.reset()
    own = llama.eval()(**batch).logits
    use_linear_cost(llama)
    logits = torch.compile(llama, fullgraph=True, backend="eager")(**batch).logits
    assert type(logits) is torch.Tensor
    assert_close(logits, own)


def test_a_loss_that_needs_the_logits_is_refused(build, batch):
    model = build("BambaForCausalLM", z_loss_coefficient=0.1)
    use_linear_cost(model)
    with pytest.raises(
        RuntimeError, match=r"can't serve this model: its loss needs the logits themselves, for logsumexp"
    ):
        model(**batch)
    remove_linear_cost(model)
    model(**batch).loss.backward()


def test_a_loss_function_of_the_users_own_is_refused_unless_it_is_a_cross_entropy(llama, batch):
    use_linear_cost(llama)
    llama.loss_function = lambda logits, labels, **_: logits.square().mean()
    with pytest.raises(RuntimeError, match="its loss needs the logits themselves, for square"):
        llama(**batch)
    llama.loss_function = lambda logits, labels, **_: torch.zeros((), requires_grad=True)
    with pytest.raises(RuntimeError, match="its loss isn't a cross-entropy of its output layer"):
        llama(**batch)


@pytest.mark.parametrize("change", [lambda z: z.add_(1), lambda z: z.__setitem__(0, 1), lambda z: z + 1, lambda z: -z])
def test_whatever_else_is_done_to_the_logits_is_refused(change, llama, batch):
    use_linear_cost(llama)
    own = llama.loss_function
    llama.loss_function = lambda logits, *args, **kwargs: own(change(logits), *args, **kwargs)
    with pytest.raises(RuntimeError, match="its loss needs the logits themselves"):
        llama(**batch)


def test_a_loss_function_of_the_users_own_may_weigh_classes_and_smooth_labels(llama, batch):
    weight = torch.rand(96)

    def smooth(logits, labels, vocab_size, **_):
        z, y = logits[:, :-1].reshape(-1, vocab_size), labels[:, 1:].reshape(-1)
        return F.cross_entropy(input=z, target=y, weight=weight, label_smoothing=0.1)

    llama.loss_function = smooth
    own = llama(**batch).loss
    use_linear_cost(llama)
    assert_close(llama(**batch).loss, own)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (torch.nn.Linear(2, 3), "model must be a language model of transformers, got Linear"),
        ("LlamaModel", "can't serve LlamaModel: it computes no loss"),
        ("LlamaForTokenClassification", "can't serve LlamaForTokenClassification: it has no output layer"),
        ("MusicgenForCausalLM", "can't serve MusicgenForCausalLM: its output layer is a ModuleList, not an nn.Linear"),
    ],
    ids=["no language model", "no loss", "no output layer", "another layer"],
)
def test_what_cannot_be_served_is_refused(model, reason, build):
    with pytest.raises((TypeError, ValueError), match=reason):
        use_linear_cost(build(model) if isinstance(model, str) else model)


def test_a_layer_whose_forward_was_replaced_is_refused(llama):
    llama.lm_head.forward = llama.lm_head.forward
    with pytest.raises(ValueError, match="another library has replaced the forward of its output layer"):
        use_linear_cost(llama)


def test_a_model_whose_forward_was_replaced_is_refused_and_stays_as_it_is(llama):
    llama.forward = llama.forward
    with pytest.raises(ValueError, match="another library has replaced its forward, as accelerate does"):
        use_linear_cost(llama)
    assert type(llama.lm_head) is torch.nn.Linear


@pytest.mark.parametrize("loss_arguments", [{}, {"num_items_in_batch": torch.tensor(7)}, {"ignore_index": 5}])
def test_a_loss_of_logits_is_the_models_own(loss_arguments, llama, batch, loss_and_gradients):
    batch["labels"].masked_fill_(batch["labels"] == -100, loss_arguments.get("ignore_index", -100))
    own = loss_and_gradients(llama, batch | loss_arguments)
    llama.loss_function = causal_lm_loss
    assert_close(loss_and_gradients(llama, batch | loss_arguments), own)


def test_a_loss_of_outputs_is_the_models_own(llama, batch):
    own = llama(**batch, num_items_in_batch=7).loss
    assert_close(compute_loss_func(llama(batch["input_ids"]), batch["labels"], num_items_in_batch=7), own)


def test_a_loss_of_logits_in_half_precision_is_float32():
    z = torch.randn(1, 4, 6, dtype=torch.bfloat16)
    loss = causal_lm_loss(z, torch.tensor([[0, 3, 5, 1]]), vocab_size=6)
    assert_close(loss, F.cross_entropy(z[0, :-1].float(), torch.tensor([3, 5, 1])))
