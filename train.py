"""Train the chapter's network on MNIST, with a cost whose backward pass is written by hand.

    python train.py --cost ce                                the chapter's run: 30 hidden neurons, 30 epochs
    python train.py --cost ll --hidden 100 --epochs 60       softmax and log-likelihood, a larger network
    python train.py --cost ce --runs 20                      20 networks at once: their mean, and how sure it is
    python train.py --cost ce --lr 0.25 0.5 1 --runs 5       a grid at once: the best on validation data is chosen
    torchrun --nproc-per-node 2 train.py --runs 20           in two processes: networks, or mini-batches, are shared out
    python train.py --resume checkpoints/ce-30-seed0.pt      go on after a break, or for more --epochs
    python train.py --evaluate checkpoints/ce-30-seed0.pt    the test accuracy of a trained network

A checkpoint is written after every epoch, named after the run, and beside it the history of costs and accuracies.
Started from any folder, it finds its own MNIST, and writes to checkpoints/ in that folder. Where a run is already it
trains nothing, unless it is told to --resume that one, to write to another --checkpoint, or to --overwrite.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from ce_torch import distributed, files, mnist, report, run_files, settings
from ce_torch.runs import new_training
from ce_torch.settings import Settings, UsageError
from ce_torch.training import Record, Training

NOTHING_SAVED = "stopped before an epoch was saved, and no file is changed; the same command starts again"


def main() -> int:
    flags = settings.parse_flags(__doc__)
    try:
        with distributed.job():
            return show(flags) if flags.evaluate else train(flags)
    except (UsageError, mnist.DataError, files.FileError, OSError) as error:
        if distributed.local_rank() == 0:
            print(f"train.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def train(flags: argparse.Namespace) -> int:
    """Train the network of a new run, or of the one to resume, and print its test accuracy."""
    path = run_files.place(flags)
    with run_files.claim(path, flags):
        if flags.resume:
            run, state = run_files.load(flags, flags.resume)
        else:
            run, state = settings.of_new_run(flags), None
        run, training = prepare(run, flags, flags.resume)
        if state is not None:
            run_files.restore(training, state, flags.resume)
        if len(training.history) > run["epochs"]:
            raise UsageError(
                f"--epochs {run['epochs']} is fewer than the {len(training.history)} done in {flags.resume}"
            )

        before = run_files.stamp(path)
        try:
            run_files.save(path, run, training)
            for _ in show_progress(training, run, flags.quiet):
                run_files.save(path, run, training)
        except (KeyboardInterrupt, RuntimeError) as error:
            if isinstance(error, RuntimeError):
                if distributed.processes() == 1:
                    raise
                # What is told of another process that is lost.
                print(f"train.py: {mnist.first_line(error)}", file=sys.stderr)
            if distributed.rank() == 0:
                is_saved = run_files.goes_on(path, flags) or run_files.stamp(path) != before
                print(farewell(path, flags) if is_saved else NOTHING_SAVED, file=sys.stderr)
            return 130

        if flags.plot and distributed.rank() == 0:
            plot(training, run, path)
    conclude(training.history[-1], training.history, run, flags.quiet)
    return 0


def show(flags: argparse.Namespace) -> int:
    """Print what training printed at its end."""
    run, state = run_files.load(flags, flags.evaluate)
    run, training = prepare(run, flags, flags.evaluate)
    run_files.restore(training, state, flags.evaluate)
    conclude(training.scores(), training.history, run, flags.quiet)
    return 0


def farewell(path: Path, flags: argparse.Namespace) -> str:
    """Tell how to go on with a run that was stopped."""
    words = ["python", sys.argv[0], "--resume", str(path)]
    words += ["--data-dir", str(flags.data_dir)] if flags.data_dir else []
    words += ["--device", flags.device] if flags.device != "auto" else []
    words += ["--plot"] if flags.plot else []
    return f"stopped after an epoch was saved; to go on: {shlex.join(words)}"


def prepare(run: Settings, flags: argparse.Namespace, path: Path | None) -> tuple[Settings, Training]:
    """Return the settings of a run, its data among them, and its training; `path` is where it was saved before."""
    data = mnist.load(flags.data_dir, choose_device(flags.device))
    name = mnist.identify(data)
    run = {"data": distributed.from_first(lambda: name)} | run
    if run["data"] != name:
        owner = f"{path} was trained" if path else "the first process trains"
        raise UsageError(f"{owner} on {run['data']}, got {name}; name the folder of its data by --data-dir")
    return run, new_training(run, data)


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
    data = "" if run["data"] == "MNIST" else f"; {run['data']}"
    print(report.summary(scores, run, history) + data)


def plot(training: Training, run: Settings, path: Path) -> None:
    """Draw the curves of a run beside its checkpoint at `path`; of a grid, those of the chosen point, and the grid."""
    try:
        from ce_torch.chapter import curves
    except ImportError as error:
        raise UsageError(f"--plot needs matplotlib ({error}): pip install -r requirements.txt") from error
    last = training.history[-1]
    history = [report.of_point(record, run, report.chosen(last, run)) for record in training.history]
    files.write_atomically(run_files.beside(path, ".curves.png"), curves.draw(history))
    if len(settings.grid(run)) > 1:
        files.write_atomically(run_files.beside(path, ".grid.png"), curves.draw_grid(last, run))


if __name__ == "__main__":
    distributed.leave(main())
