"""A folder of the user's that keeps files for later runs: `read` returns what was written, or nothing.

A file starts with the digest of its data. A file that is empty, cut short or damaged counts as missing, and so does one
that somebody else may have written. Files are replaced as a whole, since other processes read and write them too.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

UNFINISHED = ".kernels-"


def folder() -> Path | None:
    """Return the folder, which may not exist yet, or None if this user has no place for one."""
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # there is no home
        return None
    return caches / "ce_torch" if caches.is_absolute() else None


def why_missing() -> str:
    """Return why there is no folder."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return f"XDG_CACHE_HOME must be an absolute path, got {named!r}"
    return "this user has no home to keep files in, and XDG_CACHE_HOME, which can name a folder for them, is not set"


def read(path: Path) -> bytes | None:
    """Return the data of a file, or None if they are not what `write` wrote."""
    try:
        if not (is_ours(path.parent) and is_ours(path) and path.is_file()):
            return None
        content = path.read_bytes()
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    digest, data = content[:size], content[size:]
    return data if hashlib.sha256(data).digest() == digest else None


def write(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all; raise `OSError` if that fails."""
    with scratch(path.parent) as folder:
        if not is_ours(path.parent):
            raise PermissionError(f"others can write to {path.parent}")
        unfinished = folder / path.name
        with unfinished.open("xb") as file:
            file.write(hashlib.sha256(data).digest() + data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.chmod(0o600)
        unfinished.replace(path)


@contextlib.contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    """Make a temporary folder in `parent` or, for None, where the system has its temporary files."""
    if parent is not None:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(
        dir=parent, prefix=UNFINISHED, suffix=f".{os.getpid()}", ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


def clear(parent: Path) -> None:
    """Remove the unfinished files of processes that were killed."""
    with contextlib.suppress(OSError):
        for path in parent.glob(UNFINISHED + "*"):
            process = path.suffix[1:]
            if process.isdecimal() and not is_running(int(process)):
                remove = shutil.rmtree if path.is_dir() else os.unlink
                remove(path)


def is_running(process: int) -> bool:
    """Return True if this machine runs the process. Processes of other machines that share the home do not count."""
    if os.name != "posix":  # elsewhere signal 0 ends the process
        return True
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def is_ours(path: Path) -> bool:
    """Return True if nobody but this user and the machine's administrator can have written to the path."""
    status = path.stat()
    return not hasattr(os, "getuid") or (status.st_uid in (0, os.getuid()) and not status.st_mode & 0o022)
