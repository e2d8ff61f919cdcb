"""MNIST as tensors: what is in them, and what is said where the files are not as they must be."""

import errno
import gzip
import hashlib
import os
import re
import shutil
import struct
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import torchvision

from ce_torch import mnist

SHAPES = dict(zip(mnist.FILES, [(60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)], strict=True))
PARTS = ["training", "validation", "test"]
RAW = Path("MNIST", "raw")


@pytest.fixture(scope="module")
def unpacked(packed, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("unpacked")
    (data_dir / RAW).mkdir(parents=True)
    for name in mnist.FILES:
        (data_dir / RAW / name).write_bytes(gzip.decompress((packed / f"{name}.gz").read_bytes()))
    return data_dir


def write_blank(path, shape):
    """Write a file of MNIST's format, all zeros."""
    header = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)
    path.write_bytes(header)
    os.truncate(path, len(header) + torch.Size(shape).numel())


@pytest.fixture
def blank(tmp_path):
    """A folder of blank images, quick to read, to do damage to."""
    (tmp_path / RAW).mkdir(parents=True)
    for name, shape in SHAPES.items():
        write_blank(tmp_path / RAW / name, shape)
    return tmp_path


def entries(folder):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


def assert_same(ours, theirs):
    for part, other in zip(ours, theirs, strict=True):
        assert torch.equal(part.x, other.x)
        assert torch.equal(part.y, other.y)


@pytest.mark.parametrize(("part", "n"), [("training", 50_000), ("validation", 10_000), ("test", 10_000)])
def test_the_split_is_the_chapters(real_mnist, part, n):
    x, y = getattr(real_mnist, part)
    assert (x.shape, y.shape) == ((n, 784), (n,))


@pytest.mark.parametrize("part", PARTS)
def test_pixels_are_float32_from_0_to_1(real_mnist, part):
    x, _ = getattr(real_mnist, part)
    assert (x.dtype, x.min(), x.max()) == (torch.float32, 0, 1)


@pytest.mark.parametrize("part", PARTS)
def test_labels_are_the_ten_digits_as_int64(real_mnist, part):
    _, y = getattr(real_mnist, part)
    assert y.dtype == torch.int64
    assert y.unique().tolist() == list(range(10))


@pytest.mark.parametrize(("part", "digits"), [("training", [5, 0, 4, 1, 9]), ("test", [7, 2, 1, 0, 4])])
def test_the_first_digits_are_mnists(real_mnist, part, digits):
    assert getattr(real_mnist, part).y[:5].tolist() == digits


def test_training_then_validation_are_torchvisions_training_set_in_its_order(real_mnist, unpacked):
    theirs = torchvision.datasets.MNIST(unpacked)
    first, then = real_mnist.training, real_mnist.validation
    assert torch.equal(torch.cat([first.x, then.x]), theirs.data.flatten(1) / 255)
    assert torch.equal(torch.cat([first.y, then.y]), theirs.targets)


def test_the_test_set_is_torchvisions_in_its_order(real_mnist, unpacked):
    theirs = torchvision.datasets.MNIST(unpacked, train=False)
    assert torch.equal(real_mnist.test.x, theirs.data.flatten(1) / 255)
    assert torch.equal(real_mnist.test.y, theirs.targets)


def test_unpacked_files_are_read_like_packed_ones(real_mnist, unpacked):
    assert_same(mnist.load(unpacked), real_mnist)


def test_it_is_found_from_any_folder(real_mnist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_same(mnist.load(), real_mnist)


def test_where_the_projects_files_are_not_it_is_looked_for_in_the_current_folder(blank, monkeypatch):
    monkeypatch.setattr(mnist, "SHIPPED", blank / "nowhere")
    (blank / "data").symlink_to(blank)
    monkeypatch.chdir(blank)
    assert mnist.load().training.x.max() == 0


def test_no_temporary_file_is_needed(real_mnist, packed, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert_same(mnist.load(packed.parents[1]), real_mnist)


def test_a_read_only_folder_is_enough(packed, tmp_path):
    shutil.copytree(packed, tmp_path / RAW)
    folders = [tmp_path, tmp_path / "MNIST", tmp_path / RAW]
    before = entries(tmp_path)
    for folder in folders:
        folder.chmod(0o555)
    try:
        mnist.load(tmp_path)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    # Permissions do not bind root; that nothing is written shows there too.
    assert entries(tmp_path) == before


def test_other_images_under_mnists_names_are_taken_as_they_are(real_mnist, blank, unpacked):
    for name, shape in SHAPES.items():
        content = (unpacked / RAW / name).read_bytes()
        header = 4 + 4 * len(shape)
        inverted = bytes(255 - value for value in range(256)) if "images" in name else None
        (blank / RAW / name).write_bytes(content[:header] + content[header:].translate(inverted))
    for part, other in zip(mnist.load(blank), real_mnist, strict=True):
        torch.testing.assert_close(part.x, 1 - other.x)
        assert torch.equal(part.y, other.y)


def test_mnist_is_known(real_mnist):
    assert mnist.identify(real_mnist) == "MNIST"


def test_other_data_is_named_by_the_sha256_of_its_parts(blank):
    digest = hashlib.sha256()
    for n in (50_000, 10_000, 10_000):
        digest.update(bytes(n * 784))  # the images of a part, then its labels
        digest.update(bytes(n))
    assert mnist.identify(mnist.load(blank)) == f"data {digest.hexdigest()[:16]}, not MNIST"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("change", ["x", "y"])
def test_a_grey_or_a_label_that_differs_makes_other_data(real_mnist, part, change):
    examples = getattr(real_mnist, part)
    tensor = getattr(examples, change).clone()
    tensor.view(-1)[-1] += 1 / 255 if change == "x" else 1
    data = real_mnist._replace(**{part: examples._replace(**{change: tensor})})
    assert re.fullmatch("data [0-9a-f]{16}, not MNIST", mnist.identify(data))


def pack_damaged(path, packed, damage):
    """Put a damaged copy of the packed file in the place of the unpacked one."""
    path.unlink()
    path = path.with_name(f"{path.name}.gz")
    path.write_bytes(damage((packed / path.name).read_bytes()))
    return path


def flip_a_byte(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def remove(path, packed):
    path.unlink()
    return path


def cut_packed(path, packed):
    return pack_damaged(path, packed, lambda content: content[:-1_000])


def flip_packed(path, packed):
    return pack_damaged(path, packed, flip_a_byte)


def cut(path, packed):
    os.truncate(path, path.stat().st_size - 1)
    return path


def lack_an_example(path, packed):
    n, *of_each = SHAPES[path.name]
    write_blank(path, (n - 1, *of_each))
    return path


def empty(path, packed):
    path.write_bytes(b"")
    return path


def lengthen(path, packed):
    os.truncate(path, path.stat().st_size + 1)
    return path


def link_to_zeros(path, packed):
    path.unlink()
    path.symlink_to("/dev/zero")
    return path


def put_a_pipe(path, packed):
    path.unlink()
    os.mkfifo(path)
    return path


def put_a_folder(path, packed):
    path.unlink()
    path.mkdir()
    return path


DAMAGES = [cut_packed, flip_packed, cut, lack_an_example, empty, lengthen, link_to_zeros, put_a_pipe, put_a_folder]


@pytest.mark.parametrize("name", mnist.FILES)
@pytest.mark.parametrize("damage", [remove, *DAMAGES])
def test_a_file_that_is_missing_or_damaged_is_named(blank, packed, damage, name):
    path = damage(blank / RAW / name, packed)
    with pytest.raises(mnist.DataError, match=re.escape(str(path))):
        mnist.load(blank)


def test_a_missing_file_is_not_called_damaged(blank):
    path = blank / RAW / mnist.FILES[-1]
    path.unlink()
    with pytest.raises(mnist.DataError, match=rf"{re.escape(str(path))} is missing"):
        mnist.load(blank)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOSPC])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_error_of_the_system_is_told_as_what_it_is(blank, packed, monkeypatch, code, ending):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    if ending:
        shutil.copytree(packed, blank / RAW, dirs_exist_ok=True)
        for name in mnist.FILES:
            (blank / RAW / name).unlink()
    monkeypatch.setattr(gzip, "open", refuse)
    monkeypatch.setattr(mnist, "open", refuse, raising=False)
    path = blank / RAW / f"{mnist.FILES[0]}{ending}"
    with pytest.raises(mnist.DataError, match=rf"{path} cannot be read \({os.strerror(code)}\)") as told:
        mnist.load(blank)
    assert not re.search("damaged|remove|replace", str(told.value))


def test_a_folder_that_may_not_be_read_is_told_so(blank, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(mnist.DataError, match=rf"{blank / RAW} cannot be read \(Permission denied\)"):
        mnist.load(blank)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "data").write_text("no folder\n")
    with pytest.raises(mnist.DataError, match=rf"{tmp_path / 'data'} is a file; name the folder"):
        mnist.load(tmp_path / "data")


@pytest.mark.parametrize("name", [name for name in mnist.FILES if "labels" in name])
def test_a_label_that_is_no_digit_is_named(blank, name):
    path = blank / RAW / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(mnist.DataError, match=rf"{re.escape(str(path))} must hold classes from 0 to 9, got 10"):
        mnist.load(blank)


def test_files_that_are_there_are_read_without_torchvision(real_mnist, packed, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert_same(mnist.load(packed.parents[1]), real_mnist)


@pytest.mark.parametrize("error", [ImportError("no torchvision"), RuntimeError("operator torchvision::nms")])
def test_a_torchvision_that_cannot_be_imported_says_what_to_install(error, tmp_path, monkeypatch):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("torchvision"):
                raise error

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(mnist.DataError, match=rf"{error}.*pip install -r requirements.txt"):
        mnist.load(tmp_path)
