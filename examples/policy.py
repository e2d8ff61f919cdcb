"""A tiny language model to be trained by its own texts or by preferences, and the numbers of its words."""

import torch
from torch import Tensor, nn

from ce_torch import linear_softmax_statistics


class Policy(nn.Module):
    """Turns words (..., length) into x (..., length, width), of which `head` makes z of each next word."""

    def __init__(self, vocabulary: int = 100, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, words: Tensor) -> Tensor:
        return self.recurrent(self.embedding(words))[0]


@torch.no_grad()
def sample(policy: Policy, prompts: Tensor, length: int, temperature: float) -> Tensor:
    """Return texts (N, prompt and answer): each next word is drawn with its probability a."""
    texts = prompts
    for _ in range(length):
        z = policy.head(policy(texts)[:, -1]) / temperature
        texts = torch.cat([texts, torch.softmax(z, -1).multinomial(1)], -1)
    return texts


def answer_numbers(
    policy: Policy, texts: Tensor, prompt_length: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return log-probability and entropy of each word of the answers, shape (N, words), without z of all words.

    They are what TRL's `selective_log_softmax` and `entropy_from_logits`, and verl's `logprobs_from_logits` and
    `entropy_from_logits`, return for the logits divided by the temperature.
    """
    x = policy(texts[:, :-1])[:, prompt_length - 1 :]
    answers = texts[:, prompt_length:]
    numbers = linear_softmax_statistics(x, policy.head.weight, answers, temperature=temperature, entropy=True)
    assert numbers.log_prob is not None
    assert numbers.entropy is not None
    return numbers.log_prob, numbers.entropy
