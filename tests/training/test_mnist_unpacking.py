"""Where packed files of MNIST are unpacked, what is said where they cannot be, and what torchvision is needed for."""

import errno
import gzip
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest

from ce_torch.training import mnist


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """The temporary folder, where files cannot be in memory."""
    monkeypatch.setattr(mnist, "IN_MEMORY", False)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def refuse_to_write(monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", refuse)


def test_where_files_cannot_be_in_memory_the_temporary_folder_is_used_and_left_empty(few_packed, on_disk):
    labels = gzip.decompress((few_packed / mnist.RAW / f"{mnist.FILES[-1]}.gz").read_bytes())[8:]
    assert mnist.load(few_packed).test.y.tolist() == list(labels)
    assert not any(on_disk.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_temporary_folder_is_named_and_what_to_do(few_packed, on_disk, monkeypatch, code):
    refuse_to_write(monkeypatch, code)
    path = few_packed / mnist.RAW / f"{mnist.FILES[0]}.gz"
    told = (
        rf"{path} cannot be unpacked in the temporary folder \({os.strerror(code)}\); make room in {on_disk}, or name "
    )
    with pytest.raises(mnist.DataError, match=f"{told}another folder in TMPDIR") as error:
        mnist.load(few_packed)
    assert not re.search("damaged|remove|replace", str(error.value))
    assert not any(on_disk.iterdir())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EFBIG])
def test_another_error_of_the_temporary_folder_is_not_called_full(few_packed, on_disk, monkeypatch, code):
    refuse_to_write(monkeypatch, code)
    with pytest.raises(mnist.DataError, match=rf"\({os.strerror(code)}\); name another folder in TMPDIR") as error:
        mnist.load(few_packed)
    assert not re.search("damaged|remove|replace|room", str(error.value))


def test_a_temporary_folder_that_is_not_there_is_named(few_packed, on_disk, monkeypatch):
    on_disk.rmdir()
    with pytest.raises(mnist.DataError, match=r"\(No such file or directory\); name another folder in TMPDIR"):
        mnist.load(few_packed)


def test_where_no_temporary_folder_can_be_had_those_tried_are_named(few_packed, on_disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(few_packed / "nowhere")])
    with pytest.raises(mnist.DataError, match=rf"{few_packed / 'nowhere'}.*; name another folder in TMPDIR"):
        mnist.load(few_packed)


@pytest.mark.skipif(not mnist.IN_MEMORY, reason="only Linux has files in memory")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_memory_that_cannot_be_had_is_not_called_a_full_folder(few_packed, monkeypatch, code):
    refuse_to_write(monkeypatch, code)
    told = rf"cannot be unpacked in memory \({os.strerror(code)}\); see to that, or unpack it where it is"
    with pytest.raises(mnist.DataError, match=told) as error:
        mnist.load(few_packed)
    assert not re.search("damaged|remove|replace|room|TMPDIR", str(error.value))


@pytest.mark.parametrize("there", [True, False], ids=["to-read", "to-download"])
@pytest.mark.parametrize("error", [ImportError("no torchvision"), RuntimeError("operator torchvision::nms")])
def test_a_torchvision_that_cannot_be_imported_says_what_to_install(error, there, packed, tmp_path, monkeypatch):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("torchvision"):
                raise error

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(mnist.DataError, match=rf"{error}.*pip install -r requirements.txt"):
        mnist.load(packed.parents[1] if there else tmp_path)


@pytest.mark.skipif(not mnist.IN_MEMORY, reason="only Linux has files in memory")
def test_no_temporary_folder_is_needed(real_mnist, packed, monkeypatch, assert_same_data):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert_same_data(mnist.load(packed.parents[1]), real_mnist)
