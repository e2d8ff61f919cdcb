"""Test models of transformers with the linear cost: they train as they do with their own loss."""

import pytest
import torch
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from ce_torch.integrations.transformers import remove_linear_cost, use_linear_cost


@pytest.fixture
def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=99, **sizes))


@pytest.fixture
def batch():
    words = torch.randint(99, (2, 11), generator=torch.Generator().manual_seed(1))
    return {"input_ids": words, "labels": words.masked_fill(torch.arange(11) < 4, -100)}


def loss_and_gradients(model, batch):
    loss = model(**batch).loss
    return loss, torch.autograd.grad(loss, [*model.parameters()])


def test_loss_and_gradients_are_the_models_own(llama, batch):
    own = loss_and_gradients(llama, batch)
    use_linear_cost(llama)
    assert_close(loss_and_gradients(llama, batch), own)


def test_it_can_be_undone(llama):
    use_linear_cost(llama)
    remove_linear_cost(llama)
    assert type(llama) is LlamaForCausalLM
    assert type(llama.lm_head) is torch.nn.Linear
