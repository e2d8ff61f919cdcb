"""Train a tiny language model by preferences: direct preference optimization, DPO (Rafailov et al., 2023).

    python -m examples.dpo [--steps 60] [--beta 0.1] [--label-smoothing 0]

Of two answers to a prompt the one with more small numbers is chosen. The model learns to find the chosen answers more
likely, relative to a reference, than those that were rejected.
"""

import argparse
import copy
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from examples.policy import Policy, answer_numbers

BATCH, PROMPT_LENGTH, LENGTH = 32, 4, 12


def draw(vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return texts that were chosen, those that were rejected, and which words of the answers count."""
    prompts = torch.randint(vocabulary, (BATCH, PROMPT_LENGTH))
    answers = torch.randint(vocabulary, (2, BATCH, LENGTH))
    mask = torch.arange(LENGTH) < torch.randint(LENGTH // 2, LENGTH + 1, (BATCH, 1))
    small = ((answers < 20) & mask).sum(-1)
    is_better = (small[0] >= small[1]).unsqueeze(-1)
    chosen, rejected = torch.where(is_better, *answers), torch.where(is_better, *answers.flip(0))
    return torch.cat([prompts, chosen], -1), torch.cat([prompts, rejected], -1), mask


def text_log_probs(policy: Policy, chosen: Tensor, rejected: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each chosen answer, shape (N,), and of each that was rejected, from one pass."""
    log_prob, _ = answer_numbers(policy, torch.cat([chosen, rejected]), PROMPT_LENGTH)
    sums = (log_prob * mask.repeat(2, 1)).sum(-1)
    return sums[: len(chosen)], sums[len(chosen) :]


def dpo_loss(
    log_probs: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor], beta: float = 0.1, label_smoothing: float = 0.0
) -> Tensor:
    """Return the loss of chosen and rejected texts, as TRL's "sigmoid": smoothing trusts fewer of the preferences."""
    margin = beta * ((log_probs[0] - reference[0]) - (log_probs[1] - reference[1]))
    return -((1 - label_smoothing) * logsigmoid(margin) + label_smoothing * logsigmoid(-margin)).mean()


def train(policy: Policy, steps: int, beta: float, label_smoothing: float) -> Iterator[tuple[float, float]]:
    """Train the policy, and yield of each step C, and how often the chosen text gained more than the rejected one."""
    reference = copy.deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
    for _ in range(steps):
        batch = draw(policy.head.out_features)
        with torch.no_grad():
            base = text_log_probs(reference, *batch)
        log_probs = text_log_probs(policy, *batch)
        C = dpo_loss(log_probs, base, beta, label_smoothing)
        optimizer.zero_grad()
        C.backward()
        optimizer.step()
        gains = log_probs[0] - base[0], log_probs[1] - base[1]
        yield C.item(), (gains[0] > gains[1]).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="batches of pairs")
    parser.add_argument("--beta", type=float, default=0.1, help="how far the model may move from the reference")
    parser.add_argument("--label-smoothing", type=float, default=0.0, help="the share of preferences that are wrong")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    for step, (C, accuracy) in enumerate(train(Policy(), **vars(arguments)), 1):
        if step == 1 or step % 10 == 0:
            print(f"step {step}: cost {C:.4f}, accuracy {accuracy:.0%}", flush=True)


if __name__ == "__main__":
    main()
