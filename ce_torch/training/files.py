"""Write files whole or not at all, and by one run at a time."""

import errno
import fcntl
import glob
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT}
LOCKS_UNKNOWN = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


class FileError(Exception):
    """A file cannot be written or read; the message says why, and what to do."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at every moment, whatever happens, it is the whole old one or the whole new one.

    A symbolic link stays, and its target is written. An existing file keeps its permissions.

    Raises:
        FileError: the system refuses it, or what is at `path` is no regular file.
    """
    with scratch_file(path, content) as scratch:
        os.replace(scratch, resolve_target(path))
        sync_folder(scratch.parent)


def check_room(path: Path, content: bytes) -> None:
    """Raise `FileError` unless `content` could be written at `path` now, and leave what is there."""
    with scratch_file(path, content):
        pass


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Claim `path` for this process: until the end of the block, or of the process, nobody else can claim it.

    Raises:
        FileError: another process has claimed it, or nothing can be written there.
    """
    with ExitStack() as cleanup:
        with explain_errors(path):
            target = resolve_target(path)
            cleanup.enter_context(make_folder(target))
            lock = target.with_name(f".{target.name}.lock")
            descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT, 0o666)
            cleanup.callback(os.close, descriptor)
        # If the lock file has lost its name, the process that held it has just removed it.
        if not (try_lock(descriptor) and os.fstat(descriptor).st_nlink):
            raise FileError(f"{path} is being written by another run; wait until it ends, or name another place")
        cleanup.callback(lock.unlink, missing_ok=True)
        yield


@contextmanager
def scratch_file(path: Path, content: bytes) -> Iterator[Path]:
    """Write a file beside `path`, and yield its path once it is on the disk. Remove it at the end, unless renamed."""
    with explain_errors(path), make_folder(target := resolve_target(path)):
        remove_scratch_files(target)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with open(scratch, "wb") as file:
                try_lock(file.fileno())
                copy_mode(target, file.fileno())
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                yield scratch
        finally:
            with suppress(OSError):  # renamed, or never made
                scratch.unlink()


def copy_mode(path: Path, descriptor: int) -> None:
    """Give an open file the permissions of the file at `path`, if there is one."""
    if path.exists():
        os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))


def remove_scratch_files(target: Path) -> None:
    """Remove the scratch files of `target` that killed processes left. A living process holds a lock on its own."""
    for scratch in target.parent.glob(f".{glob.escape(target.name)}.*"):
        if not scratch.suffix[1:].isdecimal():
            continue
        with suppress(OSError), open(scratch, "rb+") as file:  # removed meanwhile, or not ours
            if try_lock(file.fileno()):
                scratch.unlink()


def try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed, and return True; return False if another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some file systems have no locks. There the user must not start two runs at one place.
        if error.errno not in LOCKS_UNKNOWN:
            raise
    return True


def resolve_target(path: Path) -> Path:
    """Return the path of the file itself; `path` may be a symbolic link to it."""
    if path.exists() and not path.is_file():
        raise FileError(f"{path} is a folder or a device, and cannot be written as a file; name another place")
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


@contextmanager
def make_folder(target: Path) -> Iterator[None]:
    """Make the folder of a file; at the end, remove the folders that were made and are still empty."""
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # If a file is in the place of a folder, the system only says that it exists.
        reason = "not a folder" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise OSError(error.errno, f"its folder cannot be made: {reason}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # something is in it
            for folder in made:
                folder.rmdir()


@contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` in the block into a `FileError` that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        remedy = "make room there, or name another place" if error.errno in FULL else "name another place"
        raise FileError(f"{path} cannot be written ({error.strerror}); {remedy}") from error


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
