"""The recipes in `examples/` against the same formulas in plain PyTorch, on whole logits."""

import os
import re
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ce_torch import softmax_statistics
from examples import dpo, grpo, multi_token_prediction
from examples.policy import Policy, answer_numbers

PROMPT, LENGTH = 3, 6


def selective_log_softmax(logits, index):
    """As TRL defines it, and verl its `logprobs_from_logits`."""
    return logits.log_softmax(-1).gather(-1, index.unsqueeze(-1)).squeeze(-1)


def entropy_from_logits(logits):
    """As verl defines it, and TRL in other words."""
    return logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)


def plain_numbers(policy, texts, prompt_length, temperature=1.0):
    logits = policy.head(policy(texts))[:, prompt_length - 1 : -1] / temperature
    return selective_log_softmax(logits, texts[:, prompt_length:]), entropy_from_logits(logits)


def gradients(C, model):
    return C.detach(), torch.autograd.grad(C, [*model.parameters()])


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return Policy(vocabulary=50, width=8)


@pytest.fixture
def texts(policy):
    return torch.randint(50, (8, PROMPT + LENGTH))


@pytest.fixture
def mask():
    return torch.arange(LENGTH) < torch.tensor([6, 1, 3, 5, 2, 6, 4, 1]).unsqueeze(-1)


def test_softmax_statistics_are_what_the_helpers_of_trl_and_verl_return():
    logits, index = torch.randn(4, 7, 50, requires_grad=True), torch.randint(50, (4, 7))
    numbers = softmax_statistics(logits, index, entropy=True)
    theirs = selective_log_softmax(logits, index), entropy_from_logits(logits)
    torch.testing.assert_close((numbers.log_prob, numbers.entropy), theirs)
    for ours, their in zip((numbers.log_prob, numbers.entropy), theirs, strict=True):
        grad = torch.autograd.grad(ours.square().sum(), logits, retain_graph=True)
        torch.testing.assert_close(grad, torch.autograd.grad(their.square().sum(), logits))


@pytest.mark.parametrize("clip", [0.2, 1e-3])
@pytest.mark.parametrize("shape", [(8, 1), (8, LENGTH)], ids=["of texts", "of words"])
@pytest.mark.parametrize("mean", ["seq-mean-token-mean", "token-mean"])
def test_the_loss_of_grpo_and_ppo_is_the_plain_formulas(policy, texts, mask, mean, shape, clip):
    old, reference = -torch.rand(8, LENGTH) * 5, -torch.rand(8, LENGTH) * 5
    advantage = torch.randn(shape)
    numbers = answer_numbers(policy, texts, PROMPT, temperature=0.7)
    losses = grpo.policy_loss(*numbers, old, reference, advantage, clip=clip, bonus=0.3, beta=0.1)
    aggregate = grpo.mean_of_words if mean == "token-mean" else grpo.mean_of_texts
    ours = gradients(aggregate(losses, mask), policy)

    log_prob, entropy = plain_numbers(policy, texts, PROMPT, temperature=0.7)
    ratio = torch.exp(log_prob - old)
    surrogate = torch.max(-advantage * ratio, -advantage * torch.clamp(ratio, 1 - clip, 1 + clip))
    divergence = torch.exp(reference - log_prob) - (reference - log_prob) - 1
    losses = surrogate + 0.1 * divergence - 0.3 * entropy
    of_texts = torch.stack([text[counts].mean() for text, counts in zip(losses, mask, strict=True)])
    plain = losses[mask].mean() if mean == "token-mean" else of_texts.mean()
    torch.testing.assert_close(ours, gradients(plain, policy))


def test_an_advantage_is_a_texts_distance_from_its_group():
    rewards = torch.rand(2 * grpo.GROUP)
    advantage = grpo.group_advantage(rewards)
    first = rewards[: grpo.GROUP]
    torch.testing.assert_close(advantage[: grpo.GROUP, 0], (first - first.mean()) / (first.std() + 1e-4))


def test_an_answer_counts_up_to_its_end():
    answers = torch.tensor([[5, grpo.END, 7, grpo.END], [grpo.END, 1, 2, 3], [1, 2, 3, 4]])
    assert grpo.count_until_end(answers).sum(-1).tolist() == [2, 1, 4]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_of_dpo_is_the_plain_formula(policy, texts, mask, label_smoothing):
    chosen, rejected = texts, texts.flip(1)
    reference = torch.randn(8), torch.randn(8)
    mask = mask[:, dpo.PROMPT_LENGTH - PROMPT :]
    log_probs = dpo.text_log_probs(policy, chosen, rejected, mask)
    ours = gradients(dpo.dpo_loss(log_probs, reference, beta=0.3, label_smoothing=label_smoothing), policy)

    of_chosen, of_rejected = (
        (plain_numbers(policy, part, dpo.PROMPT_LENGTH)[0] * mask).sum(-1) for part in (chosen, rejected)
    )
    logits = 0.3 * ((of_chosen - of_rejected) - (reference[0] - reference[1]))
    plain = -F.logsigmoid(logits) * (1 - label_smoothing) - F.logsigmoid(-logits) * label_smoothing
    torch.testing.assert_close(ours, gradients(plain.mean(), policy))


def test_the_costs_of_several_heads_are_the_plain_formulas():
    torch.manual_seed(0)
    model, words = multi_token_prediction.MultiTokenModel(50, width=8, heads=3), torch.randint(50, (4, 9))
    ours = gradients(torch.stack(multi_token_prediction.costs(model, words)).sum(), model)
    x, _ = model.recurrent(model.embedding(words))
    plain = sum(
        F.cross_entropy(F.linear(x + head(x), model.embedding.weight)[:, :-k].mT, words[:, k:])
        for k, head in enumerate(model.heads, 1)
    )
    torch.testing.assert_close(ours, gradients(plain, model))


@pytest.mark.parametrize("recipe", [grpo, dpo, multi_token_prediction], ids=lambda recipe: recipe.__name__)
def test_a_recipe_runs_as_a_program(recipe, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [recipe.__name__, "--steps", "1"])
    recipe.main()
    assert re.fullmatch(r"step 1: [\w ,.%]+\n", capsys.readouterr().out)


@pytest.mark.slow
def test_rewards_and_preferences_are_learned():
    torch.manual_seed(0)
    (first, _), *_, (last, _) = grpo.train(Policy(), 30, bonus=0.01, beta=0.02)
    assert last > first + 0.5
    *_, (_, accuracy) = dpo.train(Policy(), 60, beta=0.1, label_smoothing=0.0)
    assert accuracy > 0.7


class PlainHead(nn.Module):
    """The head and its cost in plain PyTorch."""

    def __init__(self, width, vocabulary):
        super().__init__()
        self.layer = nn.Linear(width, vocabulary)

    def forward(self, x, y, denominator):
        return F.cross_entropy(self.layer(x).flatten(0, 1).float(), y.flatten(), reduction="sum") / denominator


@pytest.fixture(scope="module")
def lightning_module():
    pytest.importorskip("lightning", reason="Lightning is not installed")
    from examples import lightning_module

    return lightning_module


def first_model(module, cost=None):
    """Return the model of a seed, with gradient descent that magnifies no rounding."""
    torch.manual_seed(0)
    model = module.LanguageModel()
    if cost is not None:
        cost.load_state_dict(model.cost.state_dict())
        model.cost = cost
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=1.0)
    return model


def trained(module, cost=None, **options):
    model = first_model(module, cost)
    module.fit(model, steps=3, **options)
    return [parameter.detach() for parameter in model.parameters()]


with_warnings_of_lightning = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


@pytest.mark.slow
@with_warnings_of_lightning
@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-5), ("bf16-mixed", 1e-2)])
def test_lightning_trains_as_with_the_plain_loss(lightning_module, precision, tolerance):
    options = {"precision": precision, "accumulate": 2}
    ours = trained(lightning_module, **options)
    plain = trained(lightning_module, PlainHead(lightning_module.WIDTH, lightning_module.VOCABULARY), **options)
    torch.testing.assert_close(ours, plain, rtol=0, atol=tolerance)


@pytest.mark.slow
@with_warnings_of_lightning
def test_batches_that_lightning_accumulates_add_up_to_the_mean_over_all_words(lightning_module):
    model = first_model(lightning_module)
    optimizer = model.configure_optimizers()
    for step in range(3):
        words, y, _ = lightning_module.collate(lightning_module.texts(3, 2)[16 * step : 16 * step + 16])
        optimizer.zero_grad()
        model.cost(model.recurrent(model.embedding(words))[0], y).backward()
        optimizer.step()
    plain = [parameter.detach() for parameter in model.parameters()]
    torch.testing.assert_close(trained(lightning_module, accumulate=2), plain, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_lightning_trains_in_two_processes_as_in_one(lightning_module, root, tmp_path):
    def cost(*flags):
        command = [sys.executable, "-m", "examples.lightning_module", "--steps", "3", "--precision", "32-true", *flags]
        run = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return float(re.search(r"cost ([\d.]+) after 3 steps", run.stdout)[1])

    in_one = cost("--accumulate", "4")
    assert cost("--devices", "2", "--accumulate", "2") == pytest.approx(in_one, abs=1e-4)
