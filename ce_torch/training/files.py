"""Files that are written all or not at all, by one run at a time."""

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

    A symbolic link stays, and its target is written. A file that is there keeps its permissions.

    Raises:
        FileError: the system refuses it, or what is at `path` is no regular file.
    """
    with scratch_file(path, content) as scratch:
        os.replace(scratch, target_of(path))
        sync_folder(scratch.parent)


def check_room(path: Path, content: bytes) -> None:
    """Raise `FileError` unless `content` could be written at `path` now, and leave what is there."""
    with scratch_file(path, content):
        pass


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Claim `path` for this process: until the end of the block, or of the process, nobody else can claim it.

    Raises:
        FileError: another process has claimed it, or nothing can be written there.
    """
    with ExitStack() as at_the_end:
        with errors_told(path):
            target = target_of(path)
            at_the_end.enter_context(folder_of(target))
            lock = target.with_name(f".{target.name}.lock")
            descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT, 0o666)
            at_the_end.callback(os.close, descriptor)
        # A lock file without a name is that of a process that has just removed it.
        if not (locked(descriptor) and os.fstat(descriptor).st_nlink):
            raise FileError(f"{path} is being written by another run; wait until it ends, or name another place")
        at_the_end.callback(lock.unlink, missing_ok=True)
        yield


@contextmanager
def scratch_file(path: Path, content: bytes) -> Iterator[Path]:
    """Write a file beside `path`, on the disk by then, which is removed at the end unless it has been renamed."""
    with errors_told(path), folder_of(target := target_of(path)):
        remove_scratch_files(target)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with open(scratch, "wb") as file:
                locked(file.fileno())
                if target.exists():
                    os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                yield scratch
        finally:
            with suppress(OSError):  # renamed, or never made
                scratch.unlink()


def remove_scratch_files(target: Path) -> None:
    """Remove what processes that were killed while they wrote `target` have left; a living one has its file locked."""
    for scratch in target.parent.glob(f".{glob.escape(target.name)}.*"):
        if scratch.suffix[1:].isdecimal():
            with suppress(OSError), open(scratch, "rb+") as file:  # removed meanwhile, or not ours
                if locked(file.fileno()):
                    scratch.unlink()


def locked(descriptor: int) -> bool:
    """Lock an open file until it is closed, and return True; return False if another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Where the file system has no locks, who starts two runs at one place must see to it.
        if error.errno not in LOCKS_UNKNOWN:
            raise
    return True


def target_of(path: Path) -> Path:
    """Return the path of the file itself, which `path` may be a symbolic link to."""
    if path.exists() and not path.is_file():
        raise FileError(f"{path} is a folder or a device, and cannot be written as a file; name another place")
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


@contextmanager
def folder_of(target: Path) -> Iterator[None]:
    """Make the folder that a file goes to; remove what was made if it is empty at the end."""
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # A file where a folder should be "exists" to the system.
        reason = "not a folder" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise OSError(error.errno, f"its folder cannot be made: {reason}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # something is in it
            for folder in made:
                folder.rmdir()


@contextmanager
def errors_told(path: Path) -> Iterator[None]:
    """Raise what the system says of writing at `path` as a `FileError`."""
    try:
        yield
    except OSError as error:
        remedy = "make room there, or name another place" if error.errno in FULL else "name another place"
        raise FileError(f"{path} cannot be written ({error.strerror}); {remedy}") from error


def sync_folder(folder: Path) -> None:
    """Have the folder's new entry reach the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
