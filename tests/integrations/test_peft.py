"""Test the linear cost on models that PEFT has given adapters, also to the output layer."""

import pytest
import torch
from test_on_demand import MeanSquare, gradients_of
from torch.testing import assert_close

from ce_torch.integrations.transformers import remove_linear_cost, use_linear_cost

# PEFT's own, of transformers
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture
def adapt(build):
    """Return a function: Phi, whose layer has a bias, with adapters whose numbers are not 0."""
    import peft

    def adapt(prepare=lambda model: None, **options):
        model = build("PhiForCausalLM")
        prepare(model)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=2, **options))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        return adapted

    return adapt


OPTIONS = [
    {"target_modules": ["q_proj"]},
    {"target_modules": ["lm_head"]},
    {"target_modules": ["lm_head"], "lora_bias": True},
    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_loss_and_gradients_are_the_models_own(options, adapt, batch, loss_and_gradients, forbid_logits):
    model = adapt(**options)
    own = loss_and_gradients(model, batch)
    use_linear_cost(model)
    forbid_logits()
    assert_close(loss_and_gradients(model, batch), own)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_adapters_may_come_after_the_cost(options, adapt, batch, loss_and_gradients, forbid_logits):
    own = loss_and_gradients(adapt(**options), batch)
    model = adapt(use_linear_cost, **options)
    forbid_logits()
    assert_close(loss_and_gradients(model, batch), own)


def test_several_adapters_of_the_layer_add_up(adapt, batch, loss_and_gradients, forbid_logits):
    import peft

    model = adapt(target_modules=["lm_head"])
    model.add_adapter("second", peft.LoraConfig(r=2, lora_alpha=2, target_modules=["lm_head"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    own = loss_and_gradients(model, batch)
    use_linear_cost(model)
    forbid_logits()
    assert_close(loss_and_gradients(model, batch), own)


@pytest.mark.parametrize("state", ["disabled", "merged"])
def test_adapters_that_are_not_in_force_are_left_out(state, adapt, batch):
    model = adapt(target_modules=["lm_head"])
    use_linear_cost(model)
    if state == "merged":
        own = model(**batch).loss
        model.merge_adapter()
        assert_close(model(**batch).loss, own)
    else:
        with model.disable_adapter():
            loss = model(**batch).loss
            remove_linear_cost(model)
            assert_close(loss, model(**batch).loss)


def test_logits_that_would_be_those_of_other_adapters_are_refused(adapt, batch):
    model = adapt(target_modules=["lm_head"])
    use_linear_cost(model)
    with model.disable_adapter():
        logits = model(**batch).logits
        own = model(batch["input_ids"]).logits
        taken = model(**batch).logits.clone()
    assert_close(taken, own)
    with pytest.raises(RuntimeError, match="its adapters; take them before the backward pass, with the adapters that"):
        logits.argmax(-1)


def test_adapters_that_are_merged_and_disabled_are_taken_out_again(adapt, batch):
    model = adapt(target_modules=["lm_head"])
    with model.disable_adapter():
        own = model(**batch).loss
    use_linear_cost(model)
    model.merge_adapter()
    with model.disable_adapter():
        assert_close(model(**batch).loss, own)


def test_a_function_of_autograd_has_its_gradients(adapt, batch):
    model = adapt(target_modules=["lm_head"])
    torch.nn.init.normal_(model.base_model.model.lm_head.lora_B["default"].weight)
    own = gradients_of(model, batch, MeanSquare.apply)
    use_linear_cost(model)
    assert_close(gradients_of(model, batch, MeanSquare.apply), own)


def test_an_adapter_for_each_text_generates_as_before_and_is_refused_in_a_loss(adapt, batch):
    model = adapt(target_modules=["lm_head"]).eval()
    each = {"input_ids": batch["input_ids"], "adapter_names": ["default", "__base__"]}
    own = model(**each).logits
    use_linear_cost(model)
    assert_close(model(**each).logits, own)
    with pytest.raises(ValueError, match="its output layer has hooks"):
        model(**each, labels=batch["labels"])


def test_it_can_be_undone(adapt, batch):
    model = adapt(use_linear_cost, target_modules=["lm_head"])
    model(**batch)
    remove_linear_cost(model)
    assert type(model(**batch).logits) is torch.Tensor
    assert not [module for module in model.modules() if "ce_torch" in str(type(module).__mro__)]


MORE = pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"lora_dropout": 0.1}, "drops inputs; set lora_dropout to 0"),
        ({"use_dora": True}, "a variant of LoRA, such as DoRA"),
    ],
    ids=["dropout", "variant"],
)


@MORE
def test_an_adapter_of_the_layer_that_does_more_is_refused(option, reason, adapt):
    with pytest.raises(ValueError, match=f"can't serve PhiForCausalLM: the adapter of its output layer .*{reason}"):
        use_linear_cost(adapt(target_modules=["lm_head"], **option))


@MORE
def test_it_is_refused_if_it_comes_later_too(option, reason, adapt, batch):
    import peft

    model = adapt(use_linear_cost, target_modules=["lm_head"])
    assert model(**batch).loss.isfinite()
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["lm_head"], **option))
    model.set_adapter("second")
    with pytest.raises(ValueError, match=f"can't serve PhiForCausalLM: the adapter of its output layer .*{reason}"):
        model(**batch)


def test_an_adapter_of_a_head_that_does_more_is_refused(build):
    import peft

    model = peft.get_peft_model(build("DoryForCausalLM"), peft.LoraConfig(target_modules=["lm_head"]))
    with pytest.raises(ValueError, match="the base of its output layer is a DoryLMHead"):
        use_linear_cost(model)


def test_adapters_in_float32_of_a_model_in_bfloat16(adapt, batch, loss_and_gradients):
    model = adapt(lambda model: model.bfloat16(), target_modules=["lm_head"])
    own = loss_and_gradients(model, batch)
    use_linear_cost(model)
    assert_close(loss_and_gradients(model, batch), own, rtol=0.1, atol=0.02)
