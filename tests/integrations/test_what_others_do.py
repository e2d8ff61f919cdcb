"""Test that what is done to a served model, its layer and its loss has the effect that it had, or is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close

from ce_torch.integrations.transformers import remove_linear_cost, use_linear_cost


@pytest.fixture
def llama(build):
    return build("LlamaForCausalLM")


def nothing(*_):
    return None


HOOKS = [
    "register_forward_pre_hook",
    "register_forward_hook",
    "register_full_backward_pre_hook",
    "register_full_backward_hook",
]


@pytest.mark.parametrize("register", HOOKS)
@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
def test_a_layer_with_hooks_is_refused(register, is_first, llama, batch):
    """It is called twice, and its outputs are neither logits nor have their gradients."""
    if not is_first:
        use_linear_cost(llama)
    handle = getattr(llama.lm_head, register)(nothing)
    with pytest.raises(
        ValueError, match="can't serve LlamaForCausalLM: its output layer has hooks, which would get no"
    ):
        use_linear_cost(llama) if is_first else llama(**batch)
    handle.remove()
    use_linear_cost(llama)
    assert llama(**batch).loss.isfinite()


def test_a_layer_whose_forward_is_replaced_later_is_refused(llama, batch):
    use_linear_cost(llama)
    own = llama.lm_head.forward
    llama.lm_head.forward = lambda *args, **kwargs: 2 * own(*args, **kwargs)
    with pytest.raises(ValueError, match="another library has replaced the forward of its output layer"):
        llama(**batch)


def test_a_layer_whose_weight_changes_whenever_it_is_read_is_refused(llama):
    parametrizations.spectral_norm(llama.lm_head)
    with pytest.raises(ValueError, match="its output layer has a parametrization, which would be computed more than"):
        use_linear_cost(llama)


class Quantized(torch.Tensor):
    """Whole numbers with a scale, which a product takes as the numbers that they stand for."""

    @staticmethod
    def __new__(cls, numbers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=scale.dtype)

    def __init__(self, numbers, scale):
        self.numbers, self.scale = numbers, scale

    def __tensor_flatten__(self):
        return ["numbers", "scale"], None

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is nn.functional.linear:
            return function(args[0], args[1].numbers * args[1].scale, *args[2:], **(kwargs or {}))
        return super().__torch_function__(function, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return cls(args[0].numbers, args[0].scale)


def test_a_weight_that_is_quantized_is_refused(llama, batch):
    numbers = torch.randint(-127, 128, (96, 32), dtype=torch.int8)
    llama.lm_head.weight = nn.Parameter(Quantized(numbers, torch.tensor(0.01)), requires_grad=False)
    assert llama(**batch).loss.isfinite()
    with pytest.raises(ValueError, match="the weight of its output layer is a Quantized, not a plain tensor"):
        use_linear_cost(llama)


def test_a_loss_under_autocast_of_a_layer_outside_of_it_is_exact(llama, batch, loss_and_gradients):
    own_loss = llama.loss_function

    def loss(*args, **kwargs):
        with torch.autocast("cpu", torch.bfloat16):
            return own_loss(*args, **kwargs)

    llama.loss_function = loss
    own = loss_and_gradients(llama, batch)
    use_linear_cost(llama)
    assert_close(loss_and_gradients(llama, batch), own)


def test_a_loss_outside_of_autocast_of_a_layer_under_it_is_as_near_as_the_models_own(llama, batch, loss_and_gradients):
    exact, _ = loss_and_gradients(llama, batch)
    own_loss = llama.loss_function

    def loss(*args, **kwargs):
        with torch.autocast("cpu", enabled=False):
            return own_loss(*args, **kwargs)

    llama.loss_function = loss
    own, own_gradients = loss_and_gradients(llama, batch, enabled=True)
    use_linear_cost(llama)
    found, gradients = loss_and_gradients(llama, batch, enabled=True)
    assert found.dtype == own.dtype
    assert (found - exact).abs() <= (own - exact).abs() + 1e-2
    assert_close(gradients, own_gradients, rtol=0.1, atol=0.02)


def test_a_loss_with_a_graph_of_a_layer_without_one_has_no_gradient(llama, batch):
    own_loss = llama.loss_function

    def loss(*args, **kwargs):
        with torch.enable_grad():
            return own_loss(*args, **kwargs)

    llama.loss_function = loss
    for serve in (lambda model: None, use_linear_cost):
        serve(llama)
        with torch.no_grad():
            assert not llama(**batch).loss.requires_grad


def test_a_vocabulary_can_grow(llama, batch, loss_and_gradients):
    grown = copy.deepcopy(llama)
    use_linear_cost(llama)
    for model in (grown, llama):
        torch.manual_seed(0)
        model.resize_token_embeddings(100, mean_resizing=False)
    assert_close(loss_and_gradients(llama, batch), loss_and_gradients(grown, batch))


def test_parameters_can_be_handed_in(llama, batch):
    parameters = {name: 1.1 * parameter.detach() for name, parameter in llama.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(llama, parameters, kwargs=batch).loss

    own = torch.func.grad_and_value(loss)(parameters)
    use_linear_cost(llama)
    assert_close(torch.func.grad_and_value(loss)(parameters), own)


def test_a_choice_of_positions_is_the_models_own(llama, batch):
    kept = {"shift_labels": batch["labels"][:, -5:].contiguous(), "logits_to_keep": 5}
    own = llama(**batch, **kept).loss
    use_linear_cost(llama)
    assert_close(llama(**batch, **kept).loss, own)


def test_labels_that_are_probabilities_are_the_models_own(llama, batch, loss_and_gradients):
    def loss(logits, labels, **_):
        soft = nn.functional.one_hot(labels.clamp(min=0), 96).float() * 0.9 + 0.1 / 96
        return nn.functional.cross_entropy(logits.view(-1, 96), soft.view(-1, 96))

    llama.loss_function = loss
    own = loss_and_gradients(llama, batch)
    use_linear_cost(llama)
    assert_close(loss_and_gradients(llama, batch), own)


@pytest.mark.parametrize("word", [96, -1])
def test_a_label_that_is_no_word_is_an_error(word, llama, batch):
    batch["labels"][0, -1] = word
    use_linear_cost(llama)
    with pytest.raises((IndexError, ValueError)):
        llama(**batch)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "LlavaForConditionalGeneration"])
def test_a_model_that_is_no_causal_one_can_be_served_too(name, build, batch, loss_and_gradients):
    changes = {"is_decoder": False} if name.startswith("Bert") else {}
    model = build(name, **changes)
    own = loss_and_gradients(model, batch)
    use_linear_cost(model)
    assert_close(loss_and_gradients(model, batch), own)


def test_dorys_head_scales_each_word(build, batch, loss_and_gradients, forbid_logits):
    model = build("DoryForCausalLM")
    nn.init.uniform_(model.lm_head.logit_scale, 0.01, 0.03)
    own = loss_and_gradients(model, batch)
    use_linear_cost(model)
    logits = model(**batch).logits
    remove_linear_cost(model)
    assert_close(logits.clone(), model(**batch).logits)
    use_linear_cost(model)
    forbid_logits()
    assert_close(loss_and_gradients(model, batch), own)
