"""Checkpoints: written all or not at all, read without trust."""

import contextlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import torch

FORMAT = "ce_torch checkpoint"
VERSION = 1


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message says why, and what to do."""


def save(path: Path, settings: dict[str, Any], training: dict[str, Any]) -> None:
    """Write a run's settings and the `state_dict` of its training. Raises `CheckpointError`."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, "settings": settings, "training": training}, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the state that `save` wrote. Raises `CheckpointError`."""
    try:
        file = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); name a checkpoint that train.py wrote"
        ) from error
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch warns of in a foreign file is refused below
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint can fail in any way
        raise CheckpointError(
            f"{path} is no checkpoint of ce_torch, or is damaged; name one that train.py wrote"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of ce_torch; name one that train.py wrote")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is of format version {content.get('version')}, expected {VERSION}; use the ce_torch that wrote it"
        )
    if not all(isinstance(content.get(part), dict) for part in ("settings", "training")):
        raise CheckpointError(f"{path} is damaged: a part of it is missing; name another checkpoint")
    return content["settings"], content["training"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at every moment, whatever happens, it is the whole old one or the whole new one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
        sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror}); make room, or name another place with --checkpoint"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # renamed, or never made
            scratch.unlink()


def sync_folder(folder: Path) -> None:
    """Have the folder's new entry reach the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
