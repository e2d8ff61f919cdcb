"""Train a tiny language model by rewards for its own texts: GRPO (Shao et al., 2024), with an entropy bonus.

    python -m examples.grpo [--steps 60] [--bonus 0.01] [--beta 0.02]

A text is rewarded by the share of its words that are small numbers. For each prompt the model writes a group of
texts, and learns from those that are better than their group's mean. PPO's loss is the same function with an
advantage for each word, from a critic, and the mean over words.
"""

import argparse
import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from examples.policy import Policy, answer_numbers, sample

PROMPTS, GROUP, PROMPT_LENGTH, LENGTH = 8, 8, 4, 12
TEMPERATURE = 0.9
END = 0  # the word that ends an answer; what follows does not count


def reward(answers: Tensor, mask: Tensor) -> Tensor:
    """Return the share of small words in each answer."""
    return ((answers < 20) & mask).sum(-1) / mask.sum(-1)


def count_until_end(answers: Tensor) -> Tensor:
    """Return True for the words up to the first that ends the answer."""
    return (answers == END).cumsum(-1) - (answers == END).int() == 0


def group_advantage(rewards: Tensor) -> Tensor:
    """Return by how many standard deviations each text is better than its group, shape (N, 1), as TRL does."""
    groups = rewards.view(-1, GROUP)
    advantage = (groups - groups.mean(-1, keepdim=True)) / (groups.std(-1, keepdim=True) + 1e-4)
    return advantage.view(-1, 1)


def policy_loss(
    log_prob: Tensor,
    entropy: Tensor,
    old_log_prob: Tensor,
    reference_log_prob: Tensor,
    advantage: Tensor,
    *,
    clip: float = 0.2,
    bonus: float = 0.01,
    beta: float = 0.02,
) -> Tensor:
    """Return the loss of each word: the clipped surrogate, less a bonus for entropy, plus β times the divergence.

    All are of shape (N, words); the advantage may be one for each text, (N, 1). The divergence from the reference is
    Schulman's estimate, which GRPO, TRL and verl use.
    """
    ratio = (log_prob - old_log_prob).exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    difference = reference_log_prob - log_prob
    divergence = difference.exp() - difference - 1
    return beta * divergence - surrogate - bonus * entropy


def mean_of_words(losses: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over all words that count: verl's "token-mean", for PPO."""
    return (losses * mask).sum() / mask.sum().clamp(min=1)


def mean_of_texts(losses: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over texts of the mean over their words that count: GRPO's, verl's "seq-mean-token-mean"."""
    return ((losses * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


def train(policy: Policy, steps: int, bonus: float, beta: float) -> Iterator[tuple[float, float]]:
    """Train the policy, and yield the mean reward and the mean entropy of each step."""
    reference = copy.deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(steps):
        prompts = torch.randint(1, policy.head.out_features, (PROMPTS, PROMPT_LENGTH)).repeat_interleave(GROUP, 0)
        texts = sample(policy, prompts, LENGTH, TEMPERATURE)
        answers = texts[:, PROMPT_LENGTH:]
        mask = count_until_end(answers)
        rewards = reward(answers, mask)
        with torch.no_grad():
            old, _ = answer_numbers(policy, texts, PROMPT_LENGTH, TEMPERATURE)
            base, _ = answer_numbers(reference, texts, PROMPT_LENGTH, TEMPERATURE)
        for _ in range(2):
            log_prob, entropy = answer_numbers(policy, texts, PROMPT_LENGTH, TEMPERATURE)
            losses = policy_loss(log_prob, entropy, old, base, group_advantage(rewards), bonus=bonus, beta=beta)
            C = mean_of_texts(losses, mask)
            optimizer.zero_grad()
            C.backward()
            optimizer.step()
        yield rewards.mean().item(), entropy[mask].mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="batches of texts")
    parser.add_argument("--bonus", type=float, default=0.01, help="the factor of the entropy")
    parser.add_argument("--beta", type=float, default=0.02, help="the factor of the divergence from the first model")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    for step, (mean_reward, entropy) in enumerate(train(Policy(), **vars(arguments)), 1):
        if step == 1 or step % 10 == 0:
            print(f"step {step}: mean reward {mean_reward:.3f}, entropy {entropy:.2f}", flush=True)


if __name__ == "__main__":
    main()
