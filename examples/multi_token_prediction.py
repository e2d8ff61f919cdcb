"""Train a language model that predicts several words ahead at once: multi-token prediction (Gloeckle et al., 2024).

    python -m examples.multi_token_prediction [--steps 60] [--heads 4]

Each head predicts the word that is so many places ahead, from the same x, with the same unembedding. Its z alone would
be as large as that of the whole model; with the cost of the layer no head's z is ever held.
"""

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ce_torch import linear_log_likelihood
from examples.language_model import draw, read_text


class MultiTokenModel(nn.Module):
    """Turns words (..., length) into x (..., length, width) of each head: for one word ahead, two, and so on."""

    def __init__(self, vocabulary: int, width: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(heads))

    def forward(self, words: Tensor) -> list[Tensor]:
        x, _ = self.recurrent(self.embedding(words))
        return [x + head(x) for head in self.heads]


def costs(model: MultiTokenModel, words: Tensor) -> list[Tensor]:
    """Return the cost of each head, the mean over its words. Their sum is what is trained on.

    The slices need no copies: the kernels read x and words where they lie.
    """
    weight = model.embedding.weight
    return [
        linear_log_likelihood(x[..., :-ahead, :], weight, words[..., ahead:]) for ahead, x in enumerate(model(words), 1)
    ]


def train(model: MultiTokenModel, text: Tensor, steps: int, batch: int = 8, length: int = 32) -> Iterator[list[float]]:
    """Train the model, and yield the costs of its heads, step by step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        words, _ = draw(text, batch, length)
        of_heads = costs(model, words)
        optimizer.zero_grad()
        torch.stack(of_heads).sum().backward()
        optimizer.step()
        yield [C.item() for C in of_heads]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="steps of AdamW")
    parser.add_argument("--heads", type=int, default=4, help="how many words ahead are predicted")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    text, vocabulary = read_text()
    model = MultiTokenModel(len(vocabulary), width=64, heads=arguments.heads)
    for step, of_heads in enumerate(train(model, text, arguments.steps), 1):
        if step == 1 or step % 20 == 0:
            print(f"step {step}: costs {', '.join(f'{C:.3f}' for C in of_heads)}", flush=True)


if __name__ == "__main__":
    main()
