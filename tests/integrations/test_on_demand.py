"""Test that the logits of a served model are those of the model, with their gradients, and made only if asked for."""

import copy
import pickle

import pytest
import torch
from torch.autograd import forward_ad
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from ce_torch.integrations.transformers import use_linear_cost


@pytest.fixture
def llama(build):
    return build("LlamaForCausalLM")


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma2ForCausalLM", "GraniteForCausalLM", "InklingForCausalLM"])
def test_logits_are_made_when_something_takes_them(name, build, batch):
    model = build(name)
    own = model(**batch).logits
    use_linear_cost(model)
    logits = model(**batch).logits
    assert isinstance(logits, torch.Tensor)
    assert (logits.shape, logits.dtype, logits.device) == (own.shape, own.dtype, own.device)
    assert_close(logits.softmax(-1), own.softmax(-1))
    assert_close(logits[:, -1], own[:, -1])
    assert_close(torch.cat([logits, logits]), torch.cat([own, own]))


class MeanSquare(torch.autograd.Function):
    """A loss of the user's own, which also works under `torch.func`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z):
        return z.square().mean()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_output):
        (z,) = ctx.saved_tensors
        return 2 / z.numel() * z * grad_output


def mean_square(z):
    return z.square().mean()


def mean_square_after_metrics(z):
    with torch.no_grad():
        z.argmax(-1)
    return mean_square(z)


def mean_square_after_a_change(z):
    return MeanSquare.apply(z.mul_(2))


def mean_square_after_an_assignment(z):
    z[:, 0] = 3
    z[:, 1].mul_(2)
    return MeanSquare.apply(z)


LOSSES = {
    "plain": mean_square,
    "after metrics": mean_square_after_metrics,
    "function": MeanSquare.apply,
    "function of float": lambda z: MeanSquare.apply(z.float()),
    "function of a part": lambda z: MeanSquare.apply(z[:, -1]),
    "function of a copy": lambda z: MeanSquare.apply(z.clone()),
    "function after a change": mean_square_after_a_change,
    "function after an assignment": mean_square_after_an_assignment,
    "function twice": lambda z: MeanSquare.apply(z) + MeanSquare.apply(z),
    "function and more": lambda z: MeanSquare.apply(z) + (z.detach() * z).mean(),
    "vmap": lambda z: torch.vmap(mean_square)(z).sum(),
    "checkpoint": lambda z: checkpoint(mean_square, z, use_reentrant=False),
    "checkpoint by reentry": lambda z: checkpoint(mean_square, z, use_reentrant=True),
}


def gradients_of(model, batch, loss):
    """Return the gradients of the model's loss and one of its logits."""
    model.zero_grad()
    outputs = model(**batch)
    (outputs.loss + loss(outputs.logits)).backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_of_logits_has_its_gradients(loss, llama, batch):
    own = gradients_of(llama, batch, loss)
    use_linear_cost(llama)
    assert_close(gradients_of(llama, batch, loss), own)


@pytest.mark.parametrize("name", ["Gemma2ForCausalLM", "GraniteForCausalLM", "InklingForCausalLM", "PhiForCausalLM"])
def test_a_function_of_autograd_has_its_gradients_with_a_bias_a_scale_or_a_softcap(name, build, batch):
    model = build(name)
    own = gradients_of(model, batch, MeanSquare.apply)
    use_linear_cost(model)
    assert_close(gradients_of(model, batch, MeanSquare.apply), own)


def test_gradients_of_logits_can_be_differentiated(llama, batch):
    weight = llama.lm_head.weight

    def second():
        z = llama(**batch).logits
        (first,) = torch.autograd.grad(z.exp().sum(), weight, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [*llama.parameters()], allow_unused=True)

    own = second()
    use_linear_cost(llama)
    assert_close(second(), own)


class AsItIs(torch.autograd.Function):
    """What DeepSpeed's ZeRO-3 puts on each tensor that a module returns."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.detach()

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output


def test_a_hook_that_puts_functions_on_outputs_passes_their_gradients(llama, batch, forbid_logits):
    def hook(model, args, outputs):
        outputs["logits"] = AsItIs.apply(outputs["logits"])

    llama.register_forward_hook(hook)
    own = gradients_of(llama, batch, MeanSquare.apply)
    use_linear_cost(llama)
    assert_close(gradients_of(llama, batch, MeanSquare.apply), own)
    forbid_logits()
    llama(**batch).loss.backward()


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma2ForCausalLM", "DoryForCausalLM"])
@pytest.mark.parametrize("half", ["bfloat16", "autocast"])
def test_gradients_of_logits_in_half_precision_are_as_near_as_the_models_own(half, name, build, batch):
    exact, model = gradients_of(build(name), batch, MeanSquare.apply), build(name)
    if half == "bfloat16":
        model.bfloat16()

    def error():
        with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast"):
            gradients = gradients_of(model, batch, MeanSquare.apply)
        return sum((gradient - other).norm() / other.norm() for gradient, other in zip(gradients, exact, strict=True))

    own = error()
    use_linear_cost(model)
    assert error() < 1.2 * own


def test_tensors_that_a_step_saves_are_no_more_for_logits_that_nobody_takes(llama, batch):
    use_linear_cost(llama)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(type(tensor)) or tensor, lambda t: t):
        llama(**batch).loss.backward()
    assert {*saved} <= {torch.Tensor, torch.nn.Parameter}


def test_only_what_is_trained_gets_gradients_of_logits(llama, batch):
    llama.requires_grad_(False).lm_head.requires_grad_(True)
    own = gradients_of(llama, batch, MeanSquare.apply)
    use_linear_cost(llama)
    assert_close(gradients_of(llama, batch, MeanSquare.apply), own)


def test_logits_have_their_gradients_under_transforms(llama, batch):
    parameters = {name: 1.1 * parameter.detach() for name, parameter in llama.named_parameters()}

    def loss(parameters):
        return MeanSquare.apply(torch.func.functional_call(llama, parameters, kwargs=batch).logits)

    own = torch.func.grad(loss)(parameters)
    use_linear_cost(llama)
    assert_close(torch.func.grad(loss)(parameters), own)


def test_logits_have_their_tangents_in_forward_mode(build, batch):
    model = build("LlamaForCausalLM", attn_implementation="eager")

    def tangents():
        weight = model.lm_head.weight.detach()
        with forward_ad.dual_level():
            dual = {"lm_head.weight": forward_ad.make_dual(weight, weight.sin())}
            outputs = torch.func.functional_call(model, dual, kwargs=batch)
            return [forward_ad.unpack_dual(outputs[name]).tangent for name in ("loss", "logits")]

    own = tangents()
    use_linear_cost(model)
    assert_close(tangents(), own)


@pytest.mark.slow
def test_logits_of_a_compiled_model_have_their_gradients_or_are_refused(llama, batch):
    torch._dynamo.reset()
    own = gradients_of(llama, batch, mean_square)
    use_linear_cost(llama)
    compiled = torch.compile(llama, fullgraph=True, backend="aot_eager")
    assert_close(gradients_of(compiled, batch, mean_square), own, rtol=1e-4, atol=1e-6)
    assert_close(gradients_of(compiled, batch, lambda z: MeanSquare.apply(z.clone())), own, rtol=1e-4, atol=1e-6)
    logits = compiled(**batch).logits
    with pytest.raises(RuntimeError, match="logits of a compiled model would lose their graph under no_grad, or in a"):
        MeanSquare.apply(logits)
    assert not MeanSquare.apply(logits.detach()).requires_grad


READERS = {
    "numpy": lambda z: torch.from_numpy(z.numpy()),
    "list": lambda z: torch.tensor(z.tolist()),
    "dlpack": torch.from_dlpack,
    "pickle": lambda z: pickle.loads(pickle.dumps(z)),
    "deepcopy": copy.deepcopy,
    "data": lambda z: z.data + 0,
    "iteration": lambda z: torch.stack([*z]),
    "out": lambda z: torch.add(z, 0, out=torch.empty(z.shape)),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_whatever_reads_the_memory_of_logits_finds_their_numbers(read, llama, batch):
    own = llama(**batch).logits.detach()
    use_linear_cost(llama)
    found = read(llama(**batch).logits.detach())
    assert type(found) is torch.Tensor
    assert_close(found, own)


def test_logits_look_like_logits(llama, batch):
    use_linear_cost(llama)
    logits = llama(**batch).logits
    assert logits.requires_grad
    assert logits.is_contiguous()
    assert repr(logits.detach()) == repr(logits.detach() + 0)
    with pytest.raises(RuntimeError, match="detach"):  # as of any tensor with a graph
        logits.numpy()


def test_logits_that_are_assigned_to_keep_it(llama, batch):
    use_linear_cost(llama)
    with torch.no_grad():
        logits = llama(**batch).logits
    logits[:] = 3
    logits.add_(1)
    assert (logits == 4).all()


def test_logits_that_are_detached_are_not_made_for_that(llama, batch):
    own = llama(**batch).logits
    use_linear_cost(llama)
    logits = llama(**batch).logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", None)
        detached = logits.detach()
    assert_close(detached.softmax(-1), own.detach().softmax(-1))
    assert not detached.softmax(-1).requires_grad
    assert logits.softmax(-1).requires_grad
    assert_close(logits.detach() + 0, own.detach())


def test_logits_that_become_float32_are_not_made_for_that(llama, batch, forbid_logits):
    """As accelerate and DDP do with whatever a model returns."""
    forbid_logits()
    use_linear_cost(llama.bfloat16())
    logits = llama(**batch).logits
    for converted in (logits.float(), logits.to(torch.float32)):
        assert converted.dtype == torch.float32
        assert converted.requires_grad


@pytest.mark.parametrize("has_graph", [True, False])
def test_a_clone_of_logits_outlives_a_change_of_the_weights(has_graph, llama, batch):
    with torch.set_grad_enabled(has_graph):
        own = llama(**batch).logits.clone()
        use_linear_cost(llama)
        logits = llama(**batch).logits.clone()
    with torch.no_grad():
        llama.lm_head.weight.mul_(2)
    assert_close(logits, own)


def write_to_data(llama):
    """As optimizers written long ago do, which autograd does not count."""
    for parameter in llama.parameters():
        parameter.data.add_(parameter.grad, alpha=-0.1)


@pytest.mark.parametrize(
    "step", [lambda llama: torch.optim.SGD(llama.parameters(), lr=0.1).step(), write_to_data], ids=["counted", "data"]
)
def test_logits_that_would_be_those_of_changed_weights_are_refused(step, llama, batch):
    use_linear_cost(llama)
    outputs = llama(**batch)
    outputs.loss.backward()
    step(llama)
    for logits in (outputs.logits, outputs.logits.float()):
        with pytest.raises(RuntimeError, match="the weight of their layer has been changed, or its adapters; take"):
            logits.argmax(-1)


def test_logits_that_would_be_those_of_other_parameters_are_refused(llama, batch):
    llama = copy.deepcopy(llama)  # whose parameters nothing has changed, like those that follow
    use_linear_cost(llama)
    parameters = {name: 1.1 * parameter.detach() for name, parameter in llama.named_parameters()}
    logits = torch.func.functional_call(llama, parameters, kwargs=batch).logits
    with pytest.raises(RuntimeError, match="logits can't be made any more"):
        logits.argmax(-1)


def test_logits_are_those_of_autocast_outside_of_it_too(llama, batch):
    use_linear_cost(llama)
    with torch.autocast("cpu", torch.bfloat16):
        logits = llama(**batch).logits
    assert logits.dtype == logits.clone().dtype == torch.bfloat16
    assert logits.float().clone().dtype == torch.float32


@pytest.mark.parametrize("ask", [lambda z: z.retain_grad(), lambda z: z.register_hook(print)], ids=["grad", "hook"])
def test_the_gradient_of_the_loss_by_the_logits_is_refused(ask, llama, batch):
    use_linear_cost(llama)
    with pytest.raises(RuntimeError, match="would miss the gradient of the loss, which is computed without logits"):
        ask(llama(**batch).logits)
