"""Train the chapter's network on MNIST, with a cost whose backward pass is written by hand.

    python train.py --cost ce                                the chapter's run: 30 hidden neurons, 30 epochs
    python train.py --cost ll --hidden 100 --epochs 60       softmax and log-likelihood, a larger network
    python train.py --cost ce --runs 20                      20 networks at once: their mean and its margin
    python train.py --cost ce --lr 0.25 0.5 1 --runs 5       a grid at once: the best on validation data is chosen
    torchrun --nproc-per-node 2 train.py --runs 20           two processes, which share the networks or mini-batches
    python train.py --resume checkpoints/ce-30-seed0.pt      go on after a break, or for more --epochs
    python train.py --evaluate checkpoints/ce-30-seed0.pt    the test accuracy of a trained network; --plot draws it

The program writes a checkpoint after every epoch, and the history of costs and accuracies beside it. Both are named
after the run. It starts from any folder, finds its own MNIST, and writes to checkpoints/ in the current folder. It
never replaces a run unasked: --resume that run, name another --checkpoint, or --overwrite it.
The exit code is 0; 1 if the run diverged; 2 if it cannot go on; 130 if it was stopped.
"""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":
    # Torch reads this when it is imported. Threads that spin while they wait take the cores from those they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # The imports take seconds, and Ctrl-C would end them with a traceback.
    interrupt_handler = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    if sys.stderr and sys.stderr.isatty():
        print("loading PyTorch ...", end="\r", file=sys.stderr, flush=True)

import torch

from ce_torch.training import distributed, files, mnist, report, run_files, settings
from ce_torch.training.loop import Record, Training
from ce_torch.training.progress import Progress, show_status, status
from ce_torch.training.runs import check_compiler, choose_threads, explain_memory_errors, new_training
from ce_torch.training.settings import Settings, UsageError
from ce_torch.training.streams import run_with_tolerant_streams

NOT_COUNTED = "not drawn: saturated output neurons; the program that trained this run did not count them"
NOTHING_SAVED = "stopped before an epoch was saved, and no file is changed; the same command starts again"


def main() -> int:
    show_status("")  # the imports are done
    try:
        try:
            flags = settings.parse_flags(__doc__ or "")
            with distributed.job(), explain_memory_errors():
                flags.quiet |= distributed.rank() > 0
                return show(flags) if flags.evaluate else train(flags)
        except (UsageError, mnist.DataError, files.FileError, OSError) as error:
            distributed.report_error(str(error))
            return 2
    except KeyboardInterrupt:
        return 130


def train(flags: argparse.Namespace) -> int:
    """Train the network of a new or a resumed run, and print its test accuracy."""
    path = run_files.checkpoint_path(flags)
    plot = prepare_plot(flags)
    with run_files.claim(path, flags):
        run, training = resume(flags, flags.resume) if flags.resume else start(flags)
        if len(training.history) > run["epochs"]:
            raise UsageError(
                f"--epochs {run['epochs']} is fewer than the {len(training.history)} done in {flags.resume}"
            )
        with explain_interrupt(path, flags):
            run_files.save(path, run, training)
            descend(run, training, path, flags.quiet)
        history = training.history
        if len(history) < run["epochs"] and not flags.quiet:
            print(report.early_end(history, run))
        lines = [f"written: {path}, {run_files.sibling(path, '.history.json')}"]
        lines += plot(training, run, path)
    return conclude(history[-1], history, run, flags.quiet, lines)


def descend(run: Settings, training: Training, path: Path, quiet: bool) -> None:
    """Train by stochastic gradient descent, and save and show every epoch."""
    with Progress(training.history, run, quiet) as progress:
        for _ in training.epochs(run["epochs"], run["early_stopping"]):
            for examples in training.chunks():  # some mini-batches at a time, in a new order
                training.descend(examples)  # a step for each: z = network(x), δ = ∂C/∂z, backpropagation, update
                progress.advance(examples.shape[-1] / len(training.x))
            record = training.record_epoch()
            run_files.save(path, run, training)
            progress.show(record)
            if report.has_diverged(record, run):
                break  # weights that are nan stay nan


def show(flags: argparse.Namespace) -> int:
    """Print and draw again what training printed and drew at its end."""
    plot = prepare_plot(flags)
    run, training = resume(flags, flags.evaluate)
    if flags.plot is not None and not training.history:
        raise UsageError(f"--plot draws epochs, and there are none in {flags.evaluate}; train it first, with --resume")
    lines = plot(training, run, flags.evaluate)
    return conclude(training.scores(), training.history, run, flags.quiet, lines)


@contextmanager
def explain_interrupt(path: Path, flags: argparse.Namespace) -> Iterator[None]:
    """Print how to go on with the run if Ctrl-C stops it."""
    before = run_files.stamp(path)
    try:
        yield
    except KeyboardInterrupt:
        if distributed.rank() == 0:
            is_saved = run_files.is_resumed(path, flags) or run_files.stamp(path) != before
            print(resume_hint(path, flags) if is_saved else NOTHING_SAVED, file=sys.stderr)
        raise


def resume_hint(path: Path, flags: argparse.Namespace) -> str:
    words = ["python", sys.argv[0], "--resume", str(path)]
    words += ["--data-dir", str(flags.data_dir)] if flags.data_dir else []
    words += ["--device", flags.device] if flags.device != "auto" else []
    words += ["--plot", *map(str, flags.plot)] if flags.plot is not None else []
    return f"stopped after an epoch was saved; to go on: {shlex.join(words)}"


def start(flags: argparse.Namespace) -> tuple[Settings, Training]:
    """Return the settings of a new run, and its training."""
    return prepare(settings.new_settings(flags), flags, None)


def resume(flags: argparse.Namespace, path: Path) -> tuple[Settings, Training]:
    """Return the settings of the run in the checkpoint at `path`, and its training as it was saved."""
    run, state = run_files.load(flags, path)
    run, training = prepare(run, flags, path)
    run_files.restore(training, state, path)
    return run, training


def prepare(run: Settings, flags: argparse.Namespace, path: Path | None) -> tuple[Settings, Training]:
    """Return the settings of a run, with the name of its data, and its training before any state is loaded.

    `path` is the checkpoint of the run, if it has one.
    """
    device = choose_device(flags.device)
    choose_threads(run)
    if run["compile"] and not flags.evaluate:
        with status("trying the compiler ...", flags.quiet):
            check_compiler(device)
    with status("reading MNIST ...", flags.quiet):
        data = mnist.load(flags.data_dir, device)
    name = mnist.identify(data)
    run = {"data": distributed.share_from_first(lambda: name)} | run
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


def conclude(scores: Record, history: list[Record], run: Settings, quiet: bool, lines: list[str]) -> int:
    """Print the results: the table of a grid, the files written and the test accuracy. Return the exit code."""
    for line in [] if quiet else [*report.grid_table(scores, run), *lines]:
        print(line)
    data = "" if run["data"] == "MNIST" else f"; {run['data']}"
    print(report.summary(scores, run, history) + data)
    return 1 if report.has_diverged(scores, run) else 0


def prepare_plot(flags: argparse.Namespace) -> Callable[[Training, Settings, Path], list[str]]:
    """Return the function that draws a run next to its checkpoint, and returns a line about each picture.

    What it needs is read now, since a training may take hours.
    """
    if flags.plot is None:
        return lambda training, run, path: []
    try:
        from ce_torch.chapter import run_pictures
    except ImportError as error:
        raise UsageError(f"--plot needs matplotlib ({error}): pip install -r requirements.txt") from error
    others = [run_pictures.read_run(path) for path in flags.plot]

    def plot(training: Training, run: Settings, path: Path) -> list[str]:
        state = training.state_dict()  # each process has its part
        if distributed.rank() > 0:
            return []
        pictures = run_pictures.draw_all(training, state, run, others)
        places = [run_files.sibling(path, picture.ending) for picture in pictures]
        for place, picture in zip(places, pictures, strict=True):
            files.write_atomically(place, picture.png)
        lines = [f"drawn: {place}: {picture.shows}" for place, picture in zip(places, pictures, strict=True)]
        return lines if run_pictures.is_counted(training.history[-1]) else [*lines, NOT_COUNTED]

    return plot


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupt_handler)  # pyright: ignore[reportPossiblyUnboundVariable] (bound above, where this is main)
    distributed.exit_process(run_with_tolerant_streams(main))
