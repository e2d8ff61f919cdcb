"""Train a small language model of words. Its head, the output layer and the log-likelihood, is one cost.

    python -m examples.language_model [--steps 500] [--batch 16] [--length 64] [--width 128] [--head ce]

The model learns the reference pages that come with Python, in about a minute on two cores. Then the program measures
the head alone, beside `nn.Linear` with `F.cross_entropy`: the median time of forward and backward, and the peak memory
of tensors beyond the inputs and gradients, as PyTorch's profiler counts it.
"""

import argparse
import itertools
import os
import re
import statistics
import time
from collections.abc import Iterator
from pydoc_data.topics import topics

# Threads that spin while they wait slow one another down tenfold where other programs share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from ce_torch import LinearLogLikelihoodCost


class LanguageModel(nn.Module):
    """Turns words (..., length) into x (..., length, width), the input of the cost, which predicts each next word."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        # With small weights all words are about equally likely, so the perplexity starts at the size of the vocabulary.
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.dropout = nn.Dropout(0.3)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.cost = LinearLogLikelihoodCost(width, vocabulary)
        self.cost.layer.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.dropout(self.recurrent(self.dropout(self.embedding(words)))[0])

    def ordinary_cost(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.cost.layer(x).flatten(0, -2), y.flatten())


def read_text() -> tuple[Tensor, list[str]]:
    """Return the text, as indices of its words in the vocabulary, and the vocabulary."""
    # Pages repeat one another. Keep each paragraph once, so that none is in both training and validation data.
    paragraphs = dict.fromkeys(re.split(r"\n\s*\n", "\n\n".join(topics.values())))
    words = re.findall(r"\w+|[^\w\s]+", "\n".join(paragraphs))
    vocabulary = sorted(set(words))
    indices = {word: index for index, word in enumerate(vocabulary)}
    return torch.tensor([indices[word] for word in words]), vocabulary


def draw(text: Tensor, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Return random windows of the text, (batch, length), and the word y that follows each word."""
    words = text.unfold(0, length + 1, 1)[torch.randint(len(text) - length, (batch,))]
    return words[:, :-1], words[:, 1:]


def train(model: LanguageModel, text: Tensor, head: str, steps: int, batch: int, length: int) -> Iterator[float]:
    """Train the model and yield C, step by step."""
    cost = {"ce": model.cost, "linear": model.ordinary_cost}[head]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(steps):
        words, y = draw(text, batch, length)
        C = cost(model(words), y)
        optimizer.zero_grad()
        C.backward()
        optimizer.step()
        yield C.item()


@torch.no_grad()
def perplexity(model: LanguageModel, text: Tensor, length: int) -> float:
    """Return exp(C) over the text, window by window."""
    model.eval()
    words = text.unfold(0, length + 1, length)
    return model.cost(model(words[:, :-1]), words[:, 1:]).exp().item()


@torch.no_grad()
def sample(model: LanguageModel, vocabulary: list[str], count: int) -> str:
    """Return words that follow a full stop, each drawn with its probability a after the words before it."""
    model.eval()
    words = torch.tensor([vocabulary.index(".")])
    for _ in range(count):
        a = model.cost.activation(model(words)[-1])
        words = torch.cat([words, torch.multinomial(a, 1)])
    return " ".join(vocabulary[index] for index in words[1:])


def measure(model: LanguageModel, words: Tensor, y: Tensor, rounds: int = 15) -> Iterator[tuple[str, float, float]]:
    """Yield each head's name, its median seconds of forward and backward, and its bytes beyond inputs and gradients."""
    inputs = [model(words).detach().requires_grad_(), *model.cost.layer.parameters()]
    heads = {"LinearLogLikelihoodCost": model.cost, "nn.Linear, F.cross_entropy": model.ordinary_cost}
    steps = {name: lambda cost=cost: torch.autograd.grad(cost(inputs[0], y), inputs) for name, cost in heads.items()}
    seconds = {name: [] for name in heads}
    # The heads take turns, so that a slow spell of the machine hits both.
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    for name, step in steps.items():
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
            step()
        events = recorded.profiler.kineto_results.events()
        in_use = itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]")
        yield name, statistics.median(seconds[name]), max(in_use) - sum(tensor.nbytes for tensor in inputs)


def whole_number(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 5000):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 5000, got {text!r}")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=whole_number, default=500, help="steps of AdamW")
    parser.add_argument("--batch", type=whole_number, default=16, help="windows of text in a step")
    parser.add_argument("--length", type=whole_number, default=64, help="words in a window")
    parser.add_argument("--width", type=whole_number, default=128, help="numbers in the embedding of a word")
    parser.add_argument("--head", choices=["ce", "linear"], default="ce", help="linear: train with the ordinary head")
    steps, batch, length, width, head = vars(parser.parse_args()).values()

    torch.manual_seed(0)
    text, vocabulary = read_text()
    training, validation = text.tensor_split([len(text) * 9 // 10])
    model = LanguageModel(len(vocabulary), width)

    print(f"{len(training)} words to train on, {len(validation)} to validate with; {len(vocabulary)} different ones")
    print(f"validation perplexity before: {perplexity(model, validation, length):.1f}")
    for step, C in enumerate(train(model, training, head, steps, batch, length), 1):
        if step % max(steps // 10, 1) == 0:
            print(f"step {step}/{steps}: cost {C:.4f}", flush=True)
    print(f"validation perplexity after: {perplexity(model, validation, length):.1f}")
    print(f"sample: {sample(model, vocabulary, count=25)}\n")

    print(f"the heads alone, forward and backward for {batch} × {length} words of {len(vocabulary)} classes:")
    for name, seconds, memory in measure(model, *draw(training, batch, length)):
        print(f"{name:27} {seconds * 1e3:8.1f} ms {memory / 1e6:8.1f} MB beyond inputs and gradients")


if __name__ == "__main__":
    main()
