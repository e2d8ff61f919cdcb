"""Train the chapter's network on MNIST, with a cost whose backward pass is written by hand.

    python train.py --cost ce                                the chapter's run: 30 hidden neurons, 30 epochs
    python train.py --cost ll --hidden 100 --epochs 60       softmax and log-likelihood, a larger network
    python train.py --cost ce --runs 20                      20 networks at once: their mean, and how sure it is
    python train.py --cost ce --lr 0.25 0.5 1 --runs 5       a grid at once: the best on validation data is chosen
    torchrun --nproc-per-node 2 train.py --runs 20           in two processes: networks, or mini-batches, are shared out
    python train.py --resume checkpoints/ce-30-seed0.pt      go on after a break, or for more --epochs
    python train.py --evaluate checkpoints/ce-30-seed0.pt    the test accuracy of a trained network

A checkpoint is written after every epoch, named after the run, and beside it the history of costs and accuracies.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ce_torch import checkpoint, distributed, mnist, report, settings
from ce_torch.runs import new_training
from ce_torch.settings import COSTS, Settings, UsageError
from ce_torch.training import Record, Training


def main() -> int:
    flags = settings.parse_flags(__doc__)
    try:
        with distributed.job():
            return show(flags) if flags.evaluate else train(flags)
    except (UsageError, mnist.DataError, checkpoint.CheckpointError, OSError) as error:
        if distributed.local_rank() == 0:
            print(f"train.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def train(flags: argparse.Namespace) -> int:
    """Train the network of a new run, or of the one to resume, and print its test accuracy."""
    if flags.resume:
        run, state = load(flags, flags.resume)
    else:
        run, state = settings.of_new_run(flags), None
    path = flags.checkpoint or flags.resume or Path("checkpoints") / f"{settings.run_name(run)}.pt"
    if (before := distributed.from_first(lambda: read(path)[0] if path.exists() else None)) is not None:
        settings.check_same_run(run, before, path)
    training = prepare(run, flags)
    if state is not None:
        restore(training, state, flags.resume)
    if len(training.history) > run["epochs"]:
        raise UsageError(f"--epochs {run['epochs']} is fewer than the {len(training.history)} done in {flags.resume}")

    try:
        save(path, run, training)
        for _ in show_progress(training, run, flags.quiet):
            save(path, run, training)
    except (KeyboardInterrupt, RuntimeError) as error:
        if isinstance(error, RuntimeError):
            if distributed.processes() == 1:
                raise
            # What is told of another process that is lost.
            print(f"train.py: {mnist.first_line(error)}", file=sys.stderr)
        if distributed.rank() == 0:
            print(f"stopped after an epoch was saved; to go on: python train.py --resume {path}", file=sys.stderr)
        return 130

    if flags.plot and distributed.rank() == 0:
        plot(training, run, path)
    conclude(training.history[-1], training.history, run, flags.quiet)
    return 0


def show(flags: argparse.Namespace) -> int:
    """Print what training printed at its end."""
    run, state = load(flags, flags.evaluate)
    training = prepare(run, flags)
    restore(training, state, flags.evaluate)
    conclude(training.scores(), training.history, run, flags.quiet)
    return 0


def prepare(run: Settings, flags: argparse.Namespace) -> Training:
    device = choose_device(flags.device)
    return new_training(run, mnist.load(flags.data_dir, device))


def choose_device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise UsageError(
            f"--device {name} cannot be used here ({mnist.first_line(error)}); try --device cpu"
        ) from error
    return torch.device(name)


def load(flags: argparse.Namespace, path: Path) -> tuple[Settings, dict[str, Any]]:
    """Return the settings of the run in a checkpoint, as the flags may change them, and the state of its training."""
    saved, state = distributed.from_first(lambda: read(path))
    return settings.of_saved_run(flags, saved, path), state


def read(path: Path) -> tuple[Settings, dict[str, Any]]:
    saved, state = checkpoint.load(path)
    saved.setdefault("runs", 1)  # which a run of before there were many does not say
    if settings.DEFAULTS.keys() - saved.keys() or saved["cost"] not in COSTS or not is_history(state.get("history")):
        raise checkpoint.CheckpointError(f"{path} is damaged: its run is not complete; name another checkpoint")
    return saved, state


def is_history(history: Any) -> bool:
    return isinstance(history, list) and all(isinstance(record, dict) and "test" in record for record in history)


def beside(path: Path, ending: str) -> Path:
    """Return where to write what belongs to the checkpoint at `path`."""
    return path.with_name(path.name.removesuffix(".pt") + ending)


def restore(training: Training, state: dict[str, Any], path: Path) -> None:
    try:
        training.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise checkpoint.CheckpointError(f"{path} is damaged: it does not hold the network of its settings") from error


def save(path: Path, run: Settings, training: Training) -> None:
    """Write the checkpoint, and the history beside it; of many processes the first does."""
    state = training.state_dict()
    if distributed.rank() > 0:
        return
    checkpoint.save(path, run, state)
    # JSON has no nan: where a run diverged, the cost is null.
    history = json.loads(json.dumps(training.history), parse_constant=lambda _: None)
    text = json.dumps({"settings": run, "history": history}, indent=1)
    checkpoint.write_atomically(beside(path, ".history.json"), text.encode())


def show_progress(training: Training, run: Settings, quiet: bool) -> Iterator[Record]:
    """Train, and show each epoch once it is saved: on a bar, or as a line where the output is no terminal."""
    quiet |= distributed.rank() > 0
    on_terminal = sys.stderr.isatty()
    records = training.run(run["epochs"], run["early_stopping"])
    bar = tqdm(initial=len(training.history), total=run["epochs"], unit="epoch", disable=quiet or not on_terminal)
    with bar:
        for record in records:
            yield record
            bar.set_postfix_str(report.short_line(record, run))
            bar.update()
            if not quiet and not on_terminal:
                print(report.line(record, run), flush=True)


def conclude(scores: Record, history: list[Record], run: Settings, quiet: bool) -> None:
    """Print what the trained networks are worth: the table of a grid, and the test accuracy."""
    for row in [] if quiet else report.table(scores, run):
        print(row)
    print(report.summary(scores, run, history))


def plot(training: Training, run: Settings, path: Path) -> None:
    """Draw the curves of a run beside its checkpoint at `path`; of a grid, those of the chosen point, and the grid."""
    try:
        from ce_torch.chapter import curves
    except ImportError as error:
        raise UsageError(f"--plot needs matplotlib ({error}): pip install -r requirements.txt") from error
    last = training.history[-1]
    history = [report.of_point(record, run, report.chosen(last, run)) for record in training.history]
    checkpoint.write_atomically(beside(path, ".curves.png"), curves.draw(history))
    if len(settings.grid(run)) > 1:
        checkpoint.write_atomically(beside(path, ".grid.png"), curves.draw_grid(last, run))


if __name__ == "__main__":
    distributed.leave(main())
