"""The files of a run: its checkpoint, written after every epoch, its history and its pictures."""

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

# Names of the files next to a checkpoint.
ENDINGS = tuple(
    f".{name}" for name in ("history.json", "curves.png", "grid.png", "saturation.png", "surprises.png", "weights.png")
)


def checkpoint_path(flags: argparse.Namespace) -> Path:
    """Return the path to write the run to."""
    return (
        flags.checkpoint
        or flags.resume
        or Path("checkpoints") / f"{settings.run_name(settings.new_settings(flags))}.pt"
    )


def sibling(path: Path, ending: str) -> Path:
    """Return the path of a file that belongs to the checkpoint at `path`."""
    return path.with_name(path.name.removesuffix(".pt") + ending)


@contextmanager
def claim(path: Path, flags: argparse.Namespace) -> Iterator[None]:
    """Keep other runs away from `path`. Only the first of many processes writes, so only it claims the path.

    Raises:
        UsageError: this run would replace files, and the flags do not ask for that.
    """
    is_missing = is_resumed(path, flags) and not path.exists()  # reading it raises the error
    if distributed.rank() > 0 or is_missing:
        yield
        return
    with files.claim(path):
        existing = [file for file in (path, *(sibling(path, ending) for ending in ENDINGS)) if file.exists()]
        if existing and not is_resumed(path, flags):
            if not flags.overwrite:
                resume = f"to go on with it, --resume {path}; " if path in existing else ""
                raise UsageError(
                    f"{existing[0]} exists: {resume}to keep it, name another --checkpoint; to replace it, --overwrite"
                )
            if path in existing:
                check_replaceable(path)
        yield


def is_resumed(path: Path, flags: argparse.Namespace) -> bool:
    """Return True if the run at `path` is the one to resume."""
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
    """Return numbers that change whenever a file is written at `path`; None if there is none."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def load(flags: argparse.Namespace, path: Path) -> tuple[Settings, dict[str, Any]]:
    """Return the settings of the run in a checkpoint, as flags change them, and the state of its training."""
    saved, state = distributed.share_from_first(lambda: read(path))
    return settings.resumed_settings(flags, saved, path), state


def read(path: Path) -> tuple[Settings, dict[str, Any]]:
    """Return the content of a checkpoint. Raises `CheckpointError`, also if it does not come from train.py."""
    saved, state = checkpoint.load(path)
    saved.setdefault("runs", 1)  # the first checkpoints lack it
    try:
        settings.check_saved(saved)
    except UsageError as error:
        raise CheckpointError(f"{path} holds settings of no run: {error}; name another checkpoint") from error
    if not is_history(state.get("history"), networks=saved["runs"] * len(settings.grid(saved))):
        raise CheckpointError(f"{path} does not hold the history of a run of train.py; name another checkpoint")
    if "data" not in saved:
        print(
            f"{path} has an older format, without a digest that shows damage and without the name of its data; "
            f"--resume adds both",
            file=sys.stderr,
        )
    return saved, state


def is_history(history: Any, networks: int) -> bool:
    """Return True if `history` holds the records of epochs of that many networks."""
    return isinstance(history, list) and all(
        isinstance(record, dict)
        and record.get("epoch") == epoch
        and all(is_scores(record.get(name), networks) for name in ("training", "validation", "test"))
        for epoch, record in enumerate(history, start=1)
    )


def is_scores(scores: Any, networks: int) -> bool:
    if not isinstance(scores, dict) or not isinstance(scores.get("examples"), int):
        return False
    measures = [scores.get(measure) for measure in ("cost", "accuracy", "correct")]
    if networks == 1:
        return all(is_number(value) for value in measures)
    return all(
        isinstance(values, list) and len(values) == networks and all(map(is_number, values)) for values in measures
    )


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def restore(training: Training, state: dict[str, Any], path: Path) -> None:
    try:
        training.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: it does not hold the network of its settings") from error


def save(path: Path, run: Settings, training: Training) -> None:
    """Write the checkpoint and the history next to it, in the first process.

    Before the first epoch only check that there is room: an untrained network replaces nothing.
    """
    state = training.state_dict()
    if distributed.rank() > 0:
        return
    if not training.history:
        files.check_room(path, checkpoint.pack(run, state))
        return
    checkpoint.save(path, run, state)
    # JSON has no nan: the cost of a run that diverged is null.
    history = json.loads(json.dumps(training.history), parse_constant=lambda _: None)
    text = json.dumps({"settings": run, "history": history}, indent=1)
    files.write_atomically(sibling(path, ".history.json"), text.encode())
