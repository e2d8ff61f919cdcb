"""Train a language model with Lightning: mixed precision, accumulated gradients and several processes.

    python -m examples.lightning_module [--steps 20] [--precision bf16-mixed] [--accumulate 2] [--devices 2]

It needs Lightning: pip install lightning. The cost stands where a loss would; nothing else is particular to it.
Lightning divides by the number of batches whose gradients are accumulated, and DDP by the number of processes. Texts
differ in length here, so means over the words of each batch would not add up to the mean over all words. Each batch
brings the number of words that are its share of a step, and the cost divides by that.
"""

import argparse

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from ce_torch import LinearLogLikelihoodCost

VOCABULARY, WIDTH, LENGTH, BATCH = 200, 32, 16, 8
PADDING = -100

Batch = tuple[Tensor, Tensor, Tensor]


class LanguageModel(lightning.LightningModule):
    """A language model whose head and cost are one; `cost` is called with x, y and `denominator`."""

    def __init__(self, cost: nn.Module | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.recurrent = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.cost = cost or LinearLogLikelihoodCost(WIDTH, VOCABULARY, ignore_index=PADDING, out_dtype=torch.float32)

    def training_step(self, batch: Batch) -> Tensor:
        words, y, share = batch
        x, _ = self.recurrent(self.embedding(words))
        C = self.cost(x, y, denominator=share)
        self.log("cost", C, sync_dist=True, prog_bar=True)
        return C

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def texts(steps: int, batches: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return, for each example, words, the word y that follows each, and the words of its step by batch.

    The words count up from a random one, by 1 or by 2, to a random length; what is behind it does not count.
    """
    generator = torch.Generator().manual_seed(0)
    examples = []
    for _ in range(steps):
        shape = (batches * BATCH, 1)
        start = torch.randint(VOCABULARY, shape, generator=generator)
        step = torch.randint(1, 3, shape, generator=generator)
        words = (start + step * torch.arange(LENGTH + 1)) % VOCABULARY
        lengths = torch.randint(2, LENGTH + 1, shape, generator=generator)
        y = words[:, 1:].masked_fill(torch.arange(LENGTH) >= lengths, PADDING)
        share = (y != PADDING).sum() / batches
        examples += [(w, target, share) for w, target in zip(words[:, :-1], y, strict=True)]
    return examples


def collate(examples: list[tuple[Tensor, Tensor, Tensor]]) -> Batch:
    words, y, shares = (torch.stack(part) for part in zip(*examples, strict=True))
    return words, y, shares[0]


def fit(model: LanguageModel, steps: int, *, precision: str = "32-true", accumulate: int = 1, devices: int = 1) -> None:
    """Train the model; each step takes `accumulate` batches of every process."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision=precision,  # pyright: ignore[reportArgumentType]
        accumulate_grad_batches=accumulate,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # it would shuffle the texts of different steps
    )
    examples = texts(steps, accumulate * devices)
    sampler = DistributedSampler(examples, devices, trainer.global_rank, shuffle=False)
    trainer.fit(model, DataLoader(examples, BATCH, sampler=sampler, collate_fn=collate))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps of gradient descent")
    parser.add_argument("--precision", default="bf16-mixed", help="as Lightning's: 32-true, bf16-mixed or 16-mixed")
    parser.add_argument("--accumulate", type=int, default=2, help="batches of a process for each step")
    parser.add_argument("--devices", type=int, default=1, help="processes")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = LanguageModel()
    fit(model, **vars(arguments))
    if model.global_rank == 0:
        with torch.no_grad():
            words, y, _ = collate(texts(1, 4))
            C = model.cost(model.recurrent(model.embedding(words))[0], y)
        print(f"cost {C:.6f} after {arguments.steps} steps")


if __name__ == "__main__":
    main()
