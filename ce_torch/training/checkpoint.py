"""Checkpoints: files with a run's settings and the state of its training, which are read as untrusted.

A checkpoint is a zip file that torch.save makes. The comment at its end is the SHA-256 of all bytes before it, which
reveals damage. Files of version 1 have none: they load, but damage in them may go unnoticed.
"""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from ce_torch.training import files

FORMAT = "ce_torch checkpoint"
VERSION = 2

ZIP_START, ZIP_END, ZIP_END_SIZE = b"PK\3\4", b"PK\5\6", 22
DIGEST_SIZE = hashlib.sha256().digest_size


class CheckpointError(files.FileError):
    """A file is not a checkpoint, or is damaged. The message says so, and what to do."""


def save(path: Path, settings: dict[str, Any], training: dict[str, Any]) -> None:
    """Write a run's settings and the `state_dict` of its training. Raises `FileError`."""
    files.write_atomically(path, pack(settings, training))


def pack(settings: dict[str, Any], training: dict[str, Any]) -> bytes:
    """Return the bytes of a checkpoint."""
    return seal({"format": FORMAT, "version": VERSION, "settings": settings, "training": training})


def seal(content: dict[str, Any]) -> bytes:
    """Return the bytes that torch.save makes of `content`, followed by their digest."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    # A zip file ends with the length of its comment, and the comment.
    buffer.seek(-2, io.SEEK_END)
    buffer.write(DIGEST_SIZE.to_bytes(2, "little"))
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    return buffer.getvalue()


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the state that `save` wrote.

    Raises:
        CheckpointError: the file cannot be read, is no checkpoint, or was changed since.
    """
    file = read(path)
    no_checkpoint = f"{path} is no checkpoint of ce_torch, or is damaged; name one that train.py wrote"
    has_digest = hashlib.sha256(file[:-DIGEST_SIZE]).digest() == file[-DIGEST_SIZE:]
    if not (has_digest or ends_without_comment(file)):
        raise CheckpointError(no_checkpoint)
    try:
        with warnings.catch_warnings(action="ignore"):  # a foreign file that torch warns about is refused below
            content = torch.load(io.BytesIO(file), map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint can fail in any way
        raise CheckpointError(no_checkpoint) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(no_checkpoint)
    check_version(path, content.get("version"), has_digest)
    if not all(isinstance(content.get(part), dict) for part in ("settings", "training")):
        raise CheckpointError(f"{path} is damaged: a part of it is missing; name another checkpoint")
    return content["settings"], content["training"]


def read(path: Path) -> bytes:
    """Return the bytes of a zip file, or the first few of any other file, which may be of any size."""
    try:
        if path.exists() and not path.is_file():  # a device may have no end
            raise CheckpointError(f"{path} is a folder or a device; name a checkpoint that train.py wrote")
        with open(path, "rb") as file:
            start = file.read(len(ZIP_START))
            return start + file.read() if start == ZIP_START else start
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); name a checkpoint that is there and may be read"
        ) from error


def ends_without_comment(file: bytes) -> bool:
    end = file[-ZIP_END_SIZE:]
    return end.startswith(ZIP_END) and end.endswith(bytes(2))


def check_version(path: Path, version: Any, has_digest: bool) -> None:
    if version == 1 and not has_digest:
        return
    if version != VERSION:
        raise CheckpointError(
            f"{path} is of format version {version}, expected {VERSION}; use the ce_torch that wrote it"
        )
    if not has_digest:
        raise CheckpointError(
            f"{path} was changed after train.py wrote it: it lacks its digest; name another checkpoint"
        )
