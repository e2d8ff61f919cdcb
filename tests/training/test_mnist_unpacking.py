"""Test where packed files of MNIST are unpacked, the errors if they cannot be, and the need for torchvision."""

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
def temporary_folder(monkeypatch, tmp_path):
    """The temporary folder of a system without files in memory."""
    monkeypatch.setattr(mnist, "IN_MEMORY", False)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def refuse_to_write(monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", refuse)


def test_without_files_in_memory_the_temporary_folder_is_used_and_left_empty(tiny_mnist_packed, temporary_folder):
    labels = gzip.decompress((tiny_mnist_packed / mnist.RAW / f"{mnist.FILES[-1]}.gz").read_bytes())[8:]
    assert mnist.load(tiny_mnist_packed).test.y.tolist() == list(labels)
    assert not any(temporary_folder.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_temporary_folder_is_named_with_a_remedy(tiny_mnist_packed, temporary_folder, monkeypatch, code):
    refuse_to_write(monkeypatch, code)
    path = tiny_mnist_packed / mnist.RAW / f"{mnist.FILES[0]}.gz"
    problem = rf"{path} cannot be unpacked in the temporary folder \({os.strerror(code)}\)"
    remedy = f"make room in {temporary_folder}, or name another folder in TMPDIR"
    with pytest.raises(mnist.DataError, match=f"{problem}; {remedy}") as error:
        mnist.load(tiny_mnist_packed)
    assert not re.search("damaged|remove|replace", str(error.value))
    assert not any(temporary_folder.iterdir())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EFBIG])
def test_another_error_of_the_temporary_folder_is_not_called_full(
    tiny_mnist_packed, temporary_folder, monkeypatch, code
):
    refuse_to_write(monkeypatch, code)
    with pytest.raises(mnist.DataError, match=rf"\({os.strerror(code)}\); name another folder in TMPDIR") as error:
        mnist.load(tiny_mnist_packed)
    assert not re.search("damaged|remove|replace|room", str(error.value))


def test_a_missing_temporary_folder_is_named(tiny_mnist_packed, temporary_folder, monkeypatch):
    temporary_folder.rmdir()
    with pytest.raises(mnist.DataError, match=r"\(No such file or directory\); name another folder in TMPDIR"):
        mnist.load(tiny_mnist_packed)


def test_without_any_temporary_folder_those_tried_are_named(tiny_mnist_packed, temporary_folder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tiny_mnist_packed / "nowhere")])
    with pytest.raises(mnist.DataError, match=rf"{tiny_mnist_packed / 'nowhere'}.*; name another folder in TMPDIR"):
        mnist.load(tiny_mnist_packed)


@pytest.mark.skipif(not mnist.IN_MEMORY, reason="only Linux has files in memory")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_lack_of_memory_is_not_called_a_full_folder(tiny_mnist_packed, monkeypatch, code):
    refuse_to_write(monkeypatch, code)
    message = rf"cannot be unpacked in memory \({os.strerror(code)}\); see to that, or unpack it where it is"
    with pytest.raises(mnist.DataError, match=message) as error:
        mnist.load(tiny_mnist_packed)
    assert not re.search("damaged|remove|replace|room|TMPDIR", str(error.value))


@pytest.mark.parametrize("has_files", [True, False], ids=["to-read", "to-download"])
@pytest.mark.parametrize("error", [ImportError("no torchvision"), RuntimeError("operator torchvision::nms")])
def test_a_torchvision_that_cannot_be_imported_says_what_to_install(error, has_files, packed, tmp_path, monkeypatch):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("torchvision"):
                raise error

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(mnist.DataError, match=rf"{error}.*pip install -r requirements.txt"):
        mnist.load(packed.parents[1] if has_files else tmp_path)


@pytest.mark.skipif(not mnist.IN_MEMORY, reason="only Linux has files in memory")
def test_no_temporary_folder_is_needed(real_mnist, packed, monkeypatch, assert_same_data):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert_same_data(mnist.load(packed.parents[1]), real_mnist)
