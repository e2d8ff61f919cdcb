"""Test that files are always whole, keep their links and permissions, and are written by one run at a time."""

import contextlib
import errno
import fcntl
import os
import signal
import stat
import subprocess

import pytest

from ce_torch.training import files
from ce_torch.training.files import FileError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_makes_the_folders_of_the_path(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    files.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_write_replaces_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a longer old one")
    files.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_write_leaves_no_scratch_file(tmp_path):
    files.write_atomically(tmp_path / "file", b"new")
    assert names(tmp_path) == ["file"]


def refusing(code):
    """Return a function that refuses a call, as the system does."""

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    return refuse


raise_no_space = refusing(errno.ENOSPC)


def raise_keyboard_interrupt(*_):
    raise KeyboardInterrupt


FAILURES = [
    pytest.param(call, failure, error, id=f"{call}-{error.__name__}")
    for call in ("fsync", "replace")
    for failure, error in ((raise_no_space, FileError), (raise_keyboard_interrupt, KeyboardInterrupt))
]


@pytest.mark.parametrize(("call", "failure", "error"), FAILURES)
def test_a_write_that_fails_leaves_the_old_file_and_no_scratch(tmp_path, monkeypatch, call, failure, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, failure)
    with pytest.raises(error):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_the_error_of_a_full_disk_says_to_make_room(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", refusing(code))
    with pytest.raises(FileError, match=rf"file cannot be written \({os.strerror(code)}\); make room"):
        files.write_atomically(tmp_path / "file", b"new")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EIO])
def test_any_other_error_says_to_name_another_place(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", refusing(code))
    with pytest.raises(FileError, match=rf"file cannot be written \({os.strerror(code)}\); name another place"):
        files.write_atomically(tmp_path / "file", b"new")


@pytest.mark.parametrize("place", ["text/file", "text/folder/file"])
def test_a_folder_that_cannot_be_made_is_reported(tmp_path, place):
    (tmp_path / "text").write_text("a file, where a folder should be\n")
    with pytest.raises(FileError, match=rf"{place} cannot be written \(its folder cannot be made: not a folder\)"):
        files.write_atomically(tmp_path / place, b"new")


def test_the_new_content_is_on_the_disk_before_it_replaces_the_old(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        done.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("replace") or replace(*paths))
    files.write_atomically(tmp_path / "file", b"new")
    assert done == ["sync file", "replace", "sync folder"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_new_file_has_the_permissions_that_any_file_would_have(tmp_path, umask):
    previous = os.umask(umask)
    try:
        files.write_atomically(tmp_path / "file", b"new")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_a_file_keeps_its_permissions(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    files.write_atomically(path, b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", mode)


@pytest.mark.parametrize("exists", [True, False], ids=["to-a-file", "to-nothing-yet"])
def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path, exists):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to("elsewhere/target")
    files.write_atomically(link, b"new")
    assert os.readlink(link) == "elsewhere/target"
    assert target.read_bytes() == b"new"
    assert (names(tmp_path), names(tmp_path / "elsewhere")) == (["elsewhere", "link"], ["target"])


def test_links_that_lead_to_one_another_are_reported_and_stay(tmp_path):
    path, other = tmp_path / "a", tmp_path / "b"
    path.symlink_to(other)
    other.symlink_to(path)
    with pytest.raises(FileError, match=rf"a cannot be written \({os.strerror(errno.ELOOP)}\)"):
        files.write_atomically(path, b"new")
    assert path.is_symlink()
    assert other.is_symlink()


def make_fifo(path):
    os.mkfifo(path)


def link_to_a_device(path):
    path.symlink_to(os.devnull)


def write(path):
    files.write_atomically(path, b"new")


def claim(path):
    with files.claim(path):
        pass


def identity(path):
    """All that a write would change; not the time of access, which following a link changes too."""
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@pytest.mark.parametrize("make", [os.mkdir, make_fifo, link_to_a_device])
@pytest.mark.parametrize("use", [write, claim])
def test_a_place_that_is_no_file_is_reported_and_stays(tmp_path, make, use):
    path = tmp_path / "place"
    make(path)
    before = identity(path)
    with pytest.raises(FileError, match=r"place is a folder or a device"):
        use(path)
    assert identity(path) == before
    assert names(tmp_path) == ["place"]


@pytest.fixture
def python(root, start, tmp_path):
    """Start Python on lines of code that can use `files` and `path`, a file run.pt in the folder of the test."""

    def python(code, path=tmp_path / "run.pt"):
        code = f"import os, pathlib, signal, sys, files\npath = pathlib.Path({str(path)!r})\n{code}"
        # In this folder files.py can be imported alone, without torch.
        return start("-c", code, cwd=root / "ce_torch" / "training", stdin=subprocess.PIPE)

    return python


DIE_WHILE_WRITING = """
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(path, b"half")
"""
WAIT_WHILE_WRITING = """
os.fsync = lambda _: print("writing", flush=True) or sys.stdin.read()
files.write_atomically(path, b"slow")
"""
CLAIM_AND_WAIT = """
with files.claim(path):
    print("claimed", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["run.pt", "run[1]*.pt"])
def test_the_scratch_file_of_a_killed_process_is_removed(python, tmp_path, name):
    path = tmp_path / name
    assert python(DIE_WHILE_WRITING, path).wait() == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    files.write_atomically(path, b"whole")
    assert names(tmp_path) == [name]


def test_the_scratch_file_of_a_living_process_stays(python, tmp_path):
    process = python(WAIT_WHILE_WRITING)
    assert process.stdout.readline() == "writing\n"
    files.write_atomically(tmp_path / "run.pt", b"fast")
    process.communicate()
    assert process.returncode == 0
    assert (tmp_path / "run.pt").read_bytes() == b"slow"
    assert names(tmp_path) == ["run.pt"]


@pytest.mark.parametrize("name", [".run.pt.backup", ".run.pt", "run.pt.1", ".run.pt2.1", ".another.pt.1"])
def test_a_file_that_only_looks_like_a_scratch_file_stays(tmp_path, name):
    (tmp_path / name).write_text("mine")
    files.write_atomically(tmp_path / "run.pt", b"new")
    assert (tmp_path / name).read_text() == "mine"


def test_check_room_leaves_what_is_there(tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    for name in ("old", "new"):
        files.check_room(tmp_path / name, b"new")
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_check_room_raises_on_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", raise_no_space)
    with pytest.raises(FileError, match="make room"):
        files.check_room(tmp_path / "file", b"new")


@pytest.mark.parametrize("name", ["run.pt", "link.pt"])
def test_a_place_that_another_process_has_claimed_is_refused(python, tmp_path, name):
    (tmp_path / "link.pt").symlink_to("run.pt")
    process = python(CLAIM_AND_WAIT)
    assert process.stdout.readline() == "claimed\n"
    with pytest.raises(FileError, match=rf"{name} is being written by another run"), files.claim(tmp_path / name):
        pass
    process.communicate()
    with files.claim(tmp_path / name):
        pass


def test_neighbouring_places_can_be_claimed_at_once(tmp_path):
    with files.claim(tmp_path / "a.pt"), files.claim(tmp_path / "b.pt"):
        assert len(list(tmp_path.iterdir())) == 2


def test_a_claim_outlives_a_write(tmp_path):
    path = tmp_path / "run.pt"
    with files.claim(path):
        files.write_atomically(path, b"new")
        with pytest.raises(FileError, match="another run"), files.claim(path):
            pass


def test_a_claim_ends_with_a_killed_process(python, tmp_path):
    process = python(CLAIM_AND_WAIT)
    assert process.stdout.readline() == "claimed\n"
    process.kill()
    process.wait()
    with files.claim(tmp_path / "run.pt"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, FileError])
def test_a_claim_leaves_nothing_behind(tmp_path, error):
    with contextlib.suppress(*[error] if error else []), files.claim(tmp_path / "run.pt"):
        if error:
            raise error
    assert names(tmp_path) == []


def test_a_claim_is_refused_if_its_lock_file_was_just_removed(tmp_path, monkeypatch):
    """The run before may end in between. Then the next run could make and lock a new file."""
    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda *call: (tmp_path / ".run.pt.lock").unlink() or flock(*call))
    with pytest.raises(FileError, match="another run"), files.claim(tmp_path / "run.pt"):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_can_still_be_written(tmp_path, monkeypatch, code):
    monkeypatch.setattr(fcntl, "flock", refusing(code))
    with files.claim(tmp_path / "run.pt"):
        files.write_atomically(tmp_path / "run.pt", b"new")
    assert names(tmp_path) == ["run.pt"]
