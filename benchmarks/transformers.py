"""Measure the memory of a step of small models of transformers, by their own loss and by the linear cost.

    python -m benchmarks.transformers [--write FILE]

The memory is the most that a forward and backward pass has in use beyond the model and its gradients, and its size in
parts of the logits, which are in float32. A step has 2,048 words of a vocabulary of 32,768.
"""

import argparse
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from benchmarks.commands import measuring_parser
from benchmarks.memory import peak_memory
from benchmarks.results import Row, keep
from benchmarks.tables import contender_header, contender_line
from ce_torch.integrations.transformers import use_linear_cost

TEXTS, WORDS, VOCABULARY = 32, 64, 32768
LOGITS = TEXTS * WORDS * VOCABULARY * 4  # bytes
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
MODELS = {"Llama": {}, "Gemma2": {}, "Mixtral": {"num_local_experts": 4, "output_router_logits": True}}
LIMIT = "6 MB"


def new_model(name: str) -> nn.Module:
    import transformers  # which takes seconds

    config = getattr(transformers, f"{name}Config")(**SIZES, **MODELS[name])
    return getattr(transformers, f"{name}ForCausalLM")(config).train()


def memory(model: nn.Module, words: Tensor) -> int:
    def step() -> None:
        model(words, labels=words).loss.backward()

    step()  # from now on there are gradients
    return peak_memory(step)


def rows(name: str) -> Iterator[Row]:
    """Yield a row for a model's own loss, for the linear cost, and for that with a limit of its memory."""
    torch.manual_seed(0)
    model, words = new_model(name), torch.randint(VOCABULARY, (TEXTS, WORDS))
    ways = {
        "its own loss": lambda: None,
        "linear cost": lambda: use_linear_cost(model),
        f'max_memory="{LIMIT}"': lambda: use_linear_cost(model, max_memory=LIMIT),
    }
    for way, prepare in ways.items():
        prepare()
        taken = memory(model, words)
        row = {"benchmark": "transformers", "contender": f"{name}, {way}"}
        yield row | {"extra_memory": taken / LOGITS, "megabytes": taken / 1e6}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    return measuring_parser("benchmarks.transformers", __doc__).parse_args(words)


def run(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows of each model, which are printed as they are measured."""
    for name in MODELS:
        found = [*rows(name)]
        if name == next(iter(MODELS)):
            print(contender_header(found[0]))
        print(*map(contender_line, found), sep="\n", flush=True)
        yield found


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    keep(run(arguments), arguments.write)


if __name__ == "__main__":
    main()
