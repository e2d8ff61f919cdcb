"""Later runs use the kernels that a run compiled, if they are still as they were written."""

import ctypes
import errno
import logging
import math
import os
import pwd
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ce_torch.costs.kernels import compiler, store

pytestmark = pytest.mark.usefixtures("needs_a_compiler")


@pytest.fixture(autouse=True)
def backend() -> None:
    """Run the kernels, as users do."""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder in which the system has its temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def forbid_programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no program be loaded from a folder, as from a file system mounted with noexec."""

    class CDLL(ctypes.CDLL):
        def __init__(self, name: str) -> None:
            if Path(name).is_relative_to(folder):
                raise OSError(f"{name}: failed to map segment from shared object")
            super().__init__(name)

    monkeypatch.setattr(ctypes, "CDLL", CDLL)


def the_only_file_in(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_a_second_run_takes_what_the_first_has_compiled(has_kernels, compilations):
    assert has_kernels()
    compilations.clear()
    assert has_kernels()
    assert not compilations


def test_what_is_kept_is_the_users_alone(cache, has_kernels):
    assert has_kernels()
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (cache, the_only_file_in(cache))} == {0}


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = {
    "empty": lambda kept, content: kept.write_bytes(b""),
    "cut short": lambda kept, content: kept.write_bytes(content[: len(content) // 3]),
    "shorter than a digest": lambda kept, content: kept.write_bytes(content[:20]),
    "longer": lambda kept, content: kept.write_bytes(content + b"\0"),
    "a bit of the digest flipped": lambda kept, content: kept.write_bytes(flipped(content, 5)),
    "a bit of the code flipped": lambda kept, content: kept.write_bytes(flipped(content, len(content) // 2)),
    "zeros": lambda kept, content: kept.write_bytes(bytes(len(content))),
    "unreadable": lambda kept, content: (kept.write_bytes(b""), kept.chmod(0o000)),
    "a link to nowhere": lambda kept, content: (kept.unlink(), kept.symlink_to("nowhere")),
    "a link to itself": lambda kept, content: (kept.unlink(), kept.symlink_to(kept)),
    "a pipe": lambda kept, content: (kept.unlink(), os.mkfifo(kept)),
    "whole, but for another machine": lambda kept, content: store.write(kept, b"another machine's"),
    "writable for others": lambda kept, content: kept.chmod(0o666),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_kept_file_that_is_not_as_it_was_written_is_compiled_anew(cache, has_kernels, damage, compilations):
    assert has_kernels()
    kept = the_only_file_in(cache)
    damage(kept, kept.read_bytes())
    compilations.clear()
    assert has_kernels()
    assert compilations
    compilations.clear()
    assert has_kernels()
    assert not compilations
    assert the_only_file_in(cache) == kept


@pytest.mark.parametrize("names", [[], ["a file"]], ids=["empty", "not empty"])
def test_a_folder_in_the_place_of_the_kept_file_is_left_alone(cache, has_kernels, names, caplog):
    assert has_kernels()
    kept = the_only_file_in(cache)
    kept.unlink()
    kept.mkdir()
    for name in names:
        (kept / name).touch()
    with caplog.at_level(logging.INFO):
        assert has_kernels()
    assert [path.name for path in kept.iterdir()] == names
    assert the_only_file_in(cache) == kept
    assert "can't be kept" in caplog.text


@pytest.mark.slow
def test_a_run_that_has_loaded_the_kernels_does_not_see_what_becomes_of_the_kept_file(cache):
    script = (
        "import os, sys, torch; from pathlib import Path; from ce_torch.costs.kernels import compiler;"
        "from ce_torch.functional import log_likelihood; arguments = torch.zeros(2, 4), torch.tensor([0, 1]);"
        "compiler.library(); compiler.library.cache_clear(); log_likelihood(*arguments);"
        "[os.truncate(file, 0) for file in Path(sys.argv[1]).iterdir()]; print(log_likelihood(*arguments).item())"
    )
    command = [sys.executable, "-c", script, str(cache)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(output) == pytest.approx(math.log(4))
    assert the_only_file_in(cache).stat().st_size == 0


def test_what_others_could_have_written_is_not_loaded_nor_is_anything_kept_beside_it(cache, has_kernels, compilations):
    assert has_kernels()
    the_only_file_in(cache).unlink()
    cache.chmod(0o777)
    assert has_kernels()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("fact", ["read_sources", "FLAGS", "instructions"])
def test_another_source_or_processor_has_kernels_of_its_own(fact, monkeypatch):
    before = compiler.file_name(["c++"])
    other = {"read_sources": lambda: {"other.cpp": ""}, "FLAGS": ("-O1",), "instructions": lambda: "flags: other"}
    monkeypatch.setattr(compiler, fact, other[fact])
    assert compiler.file_name(["c++"]) != before


def test_where_no_program_may_be_loaded_from_temporary_files_the_cache_serves(
    cache, has_kernels, temporary, compilations, monkeypatch
):
    forbid_programs(temporary, monkeypatch)
    assert has_kernels()
    compilations.clear()
    assert has_kernels()
    assert not compilations
    the_only_file_in(cache)


def test_where_no_program_may_be_loaded_from_the_cache_temporary_files_serve(
    cache, has_kernels, temporary, compilations, monkeypatch
):
    forbid_programs(cache, monkeypatch)
    assert has_kernels()
    compilations.clear()
    assert has_kernels()
    assert not compilations
    assert list(temporary.iterdir()) == []


def test_where_no_program_may_be_loaded_at_all_the_log_says_so(
    cache, has_kernels, temporary, tmp_path, monkeypatch, caplog
):
    forbid_programs(tmp_path, monkeypatch)
    assert not has_kernels()
    (line,) = caplog.messages
    assert "failed to map segment" in line
    assert list(cache.iterdir()) == list(temporary.iterdir()) == []


def test_without_a_place_for_temporary_files_the_cache_serves(cache, has_kernels, temporary):
    temporary.rmdir()
    assert has_kernels()
    the_only_file_in(cache)


def test_without_room_for_temporary_files_the_cache_serves(cache, has_kernels, temporary, monkeypatch, tmp_path):
    script = tmp_path / "compiler"
    full = f'case "$TMPDIR" in {shlex.quote(str(temporary))}*) echo "No space left on device" >&2; exit 1; esac'
    script.write_text(f'#!/bin/sh\n{full}\nexec {os.environ.get("CXX") or "c++"} "$@"\n')
    script.chmod(0o700)
    monkeypatch.setenv("CXX", str(script))
    assert has_kernels()
    the_only_file_in(cache)


def test_without_a_folder_for_the_cache_every_run_compiles(cache, has_kernels):
    cache.write_text("a file where the folder should be")
    assert has_kernels()
    assert cache.is_file()


def test_with_a_full_cache_every_run_compiles_and_leaves_nothing_unfinished(cache, has_kernels, monkeypatch):
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    assert has_kernels()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("home", [None, "not/absolute"])
def test_a_user_without_home_and_name_has_kernels(has_kernels, home, monkeypatch, tmp_path):
    def nameless(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(pwd, "getpwuid", nameless)
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    assert has_kernels()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_relative_is_no_place_for_the_cache(has_kernels, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert has_kernels()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_a_process_that_was_killed_left_unfinished_is_cleared(cache, has_kernels):
    script = (
        "import os, signal; from ce_torch.costs.kernels import compiler;"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL); compiler.library()"
    )
    killed = subprocess.run([sys.executable, "-c", script])
    assert killed.returncode == -signal.SIGKILL
    assert the_only_file_in(cache).name.startswith(".")
    older = cache / f".kernels-0123456789abcdef.so.{the_only_file_in(cache).suffix[1:]}"
    older.touch()
    assert has_kernels()
    assert not the_only_file_in(cache).name.startswith(".")


def test_what_a_process_is_writing_is_not_cleared(cache, has_kernels):
    with store.scratch(cache) as unfinished:
        assert has_kernels()
        assert unfinished.is_dir()


def test_threads_that_compile_at_the_same_time_all_have_kernels(cache):
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: compiler.library(), range(4)))
    assert {type(library) for library in found} == {ctypes.CDLL}
    the_only_file_in(cache)


def test_processes_that_compile_at_the_same_time_all_have_kernels(cache, has_kernels, compilations):
    script = (
        "import sys; from ce_torch.costs.kernels import compiler, cpp;"
        "compiler.read_sources = lambda: {'small.cpp': sys.argv[1]};"
        "print('ready', flush=True); sys.stdin.read(); print(cpp.has_kernels())"
    )
    command = [sys.executable, "-c", script, compiler.read_sources()["small.cpp"]]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 4
    for process in processes:
        process.stdin.close()
    assert [process.stdout.read() for process in processes] == ["True\n"] * 4
    for process in processes:
        process.stdout.close()
        process.wait()
    the_only_file_in(cache)
    assert has_kernels()
    assert not compilations
