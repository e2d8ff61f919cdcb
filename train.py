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
The exit code is 0, or 1 where the run diverged, 2 where it cannot go on, 130 where it was stopped.
"""

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path
from types import ModuleType

if __name__ == "__main__":
    # Read when torch is imported: threads that spin while they wait take the cores from those they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # The imports take seconds, in which Ctrl-C would end in a traceback.
    at_interrupt = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    if sys.stderr and sys.stderr.isatty():
        print("loading PyTorch ...", end="\r", file=sys.stderr, flush=True)

import torch

from ce_torch.training import distributed, files, mnist, report, run_files, settings
from ce_torch.training.loop import Record, Training
from ce_torch.training.progress import Progress, show_status, status
from ce_torch.training.runs import check_compiler, choose_threads, new_training, within_memory
from ce_torch.training.settings import Settings, UsageError
from ce_torch.training.streams import with_patient_streams

NOTHING_SAVED = "stopped before an epoch was saved, and no file is changed; the same command starts again"


def main() -> int:
    show_status("")  # the imports are done
    try:
        try:
            flags = settings.parse_flags(__doc__)
            with distributed.job(), within_memory():
                flags.quiet |= distributed.rank() > 0
                return show(flags) if flags.evaluate else train(flags)
        except (UsageError, mnist.DataError, files.FileError, OSError) as error:
            distributed.tell(str(error))
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
            with Progress(training.history, run, flags.quiet) as progress:
                training.watch = progress.watch
                for record in training.run(run["epochs"], run["early_stopping"]):
                    run_files.save(path, run, training)
                    progress.show(record)
                    if report.has_diverged(record, run):
                        break  # weights that are no numbers never are again
        except KeyboardInterrupt:
            if distributed.rank() == 0:
                is_saved = run_files.goes_on(path, flags) or run_files.stamp(path) != before
                print(farewell(path, flags) if is_saved else NOTHING_SAVED, file=sys.stderr)
            raise

        history = training.history
        if len(history) < run["epochs"] and not flags.quiet:
            print(report.early_end(history, run))
        pictures = plot(history, run, path) if flags.plot else []
    written = [path, run_files.beside(path, ".history.json"), *pictures]
    return conclude(history[-1], history, run, flags.quiet, written)


def show(flags: argparse.Namespace) -> int:
    """Print what training printed at its end, and draw what it drew."""
    run, state = run_files.load(flags, flags.evaluate)
    run, training = prepare(run, flags, flags.evaluate)
    run_files.restore(training, state, flags.evaluate)
    if flags.plot and not training.history:
        raise UsageError(f"--plot draws epochs, and there are none in {flags.evaluate}; train it first, with --resume")
    pictures = plot(training.history, run, flags.evaluate) if flags.plot else []
    return conclude(training.scores(), training.history, run, flags.quiet, pictures)


def farewell(path: Path, flags: argparse.Namespace) -> str:
    """Tell how to go on with a run that was stopped."""
    words = ["python", sys.argv[0], "--resume", str(path)]
    words += ["--data-dir", str(flags.data_dir)] if flags.data_dir else []
    words += ["--device", flags.device] if flags.device != "auto" else []
    words += ["--plot"] if flags.plot else []
    return f"stopped after an epoch was saved; to go on: {shlex.join(words)}"


def prepare(run: Settings, flags: argparse.Namespace, path: Path | None) -> tuple[Settings, Training]:
    """Return the settings of a run, its data among them, and its training; `path` is where it was saved before."""
    device = choose_device(flags.device)
    choose_threads(run)
    if flags.plot:
        import_curves()
    if run["compile"] and not flags.evaluate:
        with status("trying the compiler ...", flags.quiet):
            check_compiler(device)
    with status("reading MNIST ...", flags.quiet):
        data = mnist.load(flags.data_dir, device)
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


def conclude(scores: Record, history: list[Record], run: Settings, quiet: bool, written: list[Path]) -> int:
    """Print what the trained networks are worth: the table of a grid, and the test accuracy. Return the exit code."""
    for row in [] if quiet else report.table(scores, run):
        print(row)
    if written and not quiet:
        print("written:", ", ".join(map(str, written)))
    data = "" if run["data"] == "MNIST" else f"; {run['data']}"
    print(report.summary(scores, run, history) + data)
    return 1 if report.has_diverged(scores, run) else 0


def plot(history: list[Record], run: Settings, path: Path) -> list[Path]:
    """Draw the curves of a run beside its checkpoint at `path`; of a grid, those of the chosen point, and the grid."""
    if distributed.rank() > 0:
        return []
    curves, last = import_curves(), history[-1]
    of_chosen = [report.of_point(record, run, report.chosen(last, run)) for record in history]
    pictures = {run_files.beside(path, ".curves.png"): curves.draw(of_chosen)}
    if len(settings.grid(run)) > 1:
        pictures[run_files.beside(path, ".grid.png")] = curves.draw_grid(last, run)
    for place, picture in pictures.items():
        files.write_atomically(place, picture)
    return list(pictures)


def import_curves() -> ModuleType:
    try:
        from ce_torch.chapter import curves
    except ImportError as error:
        raise UsageError(f"--plot needs matplotlib ({error}): pip install -r requirements.txt") from error
    return curves


if __name__ == "__main__":
    signal.signal(signal.SIGINT, at_interrupt)
    distributed.leave(with_patient_streams(main))
