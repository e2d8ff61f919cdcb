"""Test each causal language model of transformers: it is served with its own loss and gradients, or refused."""

import pytest
import table
import torch
from torch.testing import assert_close

from ce_torch.integrations.transformers import use_linear_cost

OUTCOMES = table.written()
SERVED = sorted(name for name, outcome in OUTCOMES.items() if outcome.startswith("served"))
REFUSED = sorted(name for name, outcome in OUTCOMES.items() if outcome.startswith("refused"))
# One for each way from hidden states to a loss.
FEW = [
    "BartForCausalLM",
    "BertLMHeadModel",
    "CohereForCausalLM",
    "DoryForCausalLM",
    "Gemma2ForCausalLM",
    "GraniteMoeForCausalLM",
    "InklingForCausalLM",
    "LlamaForCausalLM",
    "MixtralForCausalLM",
    "PhiForCausalLM",
    "XLMWithLMHeadModel",
]
EACH = [pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow]) for name in SERVED]


def errors(gradients, exact):
    """Return the largest error of each gradient, in parts of its largest number, or of a hundredth of that of all."""
    largest = max(gradient.abs().max() for gradient in exact if gradient is not None)
    pairs = [(gradient, true) for gradient, true in zip(gradients, exact, strict=True) if true is not None]
    found = [(gradient - true).abs().max() / torch.maximum(true.abs().max(), largest / 100) for gradient, true in pairs]
    return torch.stack(found)


@pytest.mark.parametrize("name", EACH)
def test_loss_and_gradients_are_the_models_own(name, architectures, loss_and_gradients):
    model, batch = architectures.build(name), architectures.batch(name)
    own_loss, own = loss_and_gradients(model, batch)
    use_linear_cost(model)
    loss, gradients = loss_and_gradients(model, batch)
    assert_close(loss, own_loss, rtol=1e-5, atol=0)
    assert [gradient is None for gradient in gradients] == [gradient is None for gradient in own]
    assert errors(gradients, own).max() < 1e-4


@pytest.mark.parametrize("name", EACH)
def test_the_loss_in_evaluation_is_the_models_own(name, architectures):
    model, batch = architectures.build(name).eval(), architectures.batch(name)
    with torch.no_grad():
        own = model(**batch).loss
        use_linear_cost(model)
        assert_close(model(**batch).loss, own, rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*SERVED} - {"DbrxForCausalLM", "XmodForCausalLM"}))  # their own code fails
def test_under_autocast_they_are_as_near_to_those_in_float32_as_the_models_own(name, architectures, loss_and_gradients):
    model, batch = architectures.build(name), architectures.batch(name)
    exact_loss, exact = loss_and_gradients(model, batch)
    own_loss, own = loss_and_gradients(model, batch, enabled=True)
    use_linear_cost(model)
    loss, gradients = loss_and_gradients(model, batch, enabled=True)
    assert loss.dtype == own_loss.dtype
    assert (loss - exact_loss).abs() <= (own_loss - exact_loss).abs() + 1e-2 * exact_loss
    assert (errors(gradients, exact) <= 2 * errors(own, exact) + 0.05).all()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in (*SERVED, *REFUSED)])
def test_the_docs_tell_what_becomes_of_it(name, architectures):
    assert architectures.outcome(name) == OUTCOMES[name]


def test_the_docs_tell_of_every_causal_language_model(architectures):
    assert OUTCOMES.keys() == architectures.names()
