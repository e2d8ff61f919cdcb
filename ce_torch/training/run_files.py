"""The files of a run: its checkpoint, written after every epoch, and what stands beside it."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ce_torch.training import checkpoint, distributed, files, settings
from ce_torch.training.checkpoint import CheckpointError
from ce_torch.training.loop import Training
from ce_torch.training.settings import Settings, UsageError

ENDINGS = (".history.json", ".curves.png", ".grid.png")  # of what stands beside a checkpoint


def place(flags: argparse.Namespace) -> Path:
    """Return where the run is written."""
    return (
        flags.checkpoint or flags.resume or Path("checkpoints") / f"{settings.run_name(settings.of_new_run(flags))}.pt"
    )


def beside(path: Path, ending: str) -> Path:
    """Return where to write what belongs to the checkpoint at `path`."""
    return path.with_name(path.name.removesuffix(".pt") + ending)


@contextmanager
def claim(path: Path, flags: argparse.Namespace) -> Iterator[None]:
    """Keep other runs away from `path`; of many processes the first does, which alone writes.

    Raises:
        UsageError: there are files that this run would replace, and was not asked to.
    """
    nothing_to_go_on_with = goes_on(path, flags) and not path.exists()  # which is told when it is read
    if distributed.rank() > 0 or nothing_to_go_on_with:
        yield
        return
    with files.claimed(path):
        there = [file for file in (path, *(beside(path, ending) for ending in ENDINGS)) if file.exists()]
        if there and not goes_on(path, flags):
            if not flags.overwrite:
                resume = f"to go on with it, --resume {path}; " if path in there else ""
                raise UsageError(
                    f"{there[0]} exists: {resume}to keep it, name another --checkpoint; to replace it, --overwrite"
                )
            if path in there:
                check_replaceable(path)
        yield


def goes_on(path: Path, flags: argparse.Namespace) -> bool:
    """Return whether the run at `path` is the one to resume."""
    return flags.resume is not None and os.path.realpath(path) == os.path.realpath(flags.resume)


def check_replaceable(path: Path) -> None:
    try:
        checkpoint.load(path)
    except CheckpointError as error:
        raise UsageError(
            f"{path} is no whole checkpoint, and --overwrite replaces nothing else; remove it, or name another "
            f"--checkpoint"
        ) from error


def stamp(path: Path) -> tuple[int, int] | None:
    """Return what is different after a file has been written at `path`."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def load(flags: argparse.Namespace, path: Path) -> tuple[Settings, dict[str, Any]]:
    """Return the settings of the run in a checkpoint, as the flags may change them, and the state of its training."""
    saved, state = distributed.from_first(lambda: read(path))
    return settings.of_saved_run(flags, saved, path), state


def read(path: Path) -> tuple[Settings, dict[str, Any]]:
    """Return what is in a checkpoint. Raises `CheckpointError`, also where it is not of a run of train.py."""
    saved, state = checkpoint.load(path)
    saved.setdefault("runs", 1)  # which a run of before there were many does not say
    try:
        settings.check_saved(saved)
    except UsageError as error:
        raise CheckpointError(f"{path} holds settings of no run: {error}; name another checkpoint") from error
    if not is_history(state.get("history"), networks=saved["runs"] * len(settings.grid(saved))):
        raise CheckpointError(f"{path} does not hold the history of a run of train.py; name another checkpoint")
    if "data" not in saved:
        print(
            f"{path} is of an older format: damage in it cannot be seen, nor which data it was trained on; "
            f"--resume writes it anew, with both",
            file=sys.stderr,
        )
    return saved, state


def is_history(history: Any, networks: int) -> bool:
    """Return whether `history` is the records of the epochs of so many networks."""
    return isinstance(history, list) and all(
        isinstance(record, dict)
        and record.get("epoch") == epoch
        and all(is_scores(record.get(name), networks) for name in ("training", "validation", "test"))
        for epoch, record in enumerate(history, start=1)
    )


def is_scores(scores: Any, networks: int) -> bool:
    if not isinstance(scores, dict) or not isinstance(scores.get("examples"), int):
        return False
    of_networks = [scores.get(measure) for measure in ("cost", "accuracy", "correct")]
    if networks == 1:
        return all(is_number(value) for value in of_networks)
    return all(
        isinstance(values, list) and len(values) == networks and all(map(is_number, values)) for values in of_networks
    )


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def restore(training: Training, state: dict[str, Any], path: Path) -> None:
    try:
        training.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: it does not hold the network of its settings") from error


def save(path: Path, run: Settings, training: Training) -> None:
    """Write the checkpoint, and the history beside it; of many processes the first does.

    Before the first epoch only look for room: an untrained network replaces nothing.
    """
    state = training.state_dict()
    if distributed.rank() > 0:
        return
    if not training.history:
        files.check_room(path, checkpoint.packed(run, state))
        return
    checkpoint.save(path, run, state)
    # JSON has no nan: where a run diverged, the cost is null.
    history = json.loads(json.dumps(training.history), parse_constant=lambda _: None)
    text = json.dumps({"settings": run, "history": history}, indent=1)
    files.write_atomically(beside(path, ".history.json"), text.encode())
