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

from ce_torch.training import mnist

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


@pytest.mark.skipif(not mnist.IN_MEMORY, reason="only Linux has files in memory")
def test_no_temporary_folder_is_needed(real_mnist, packed, monkeypatch):
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


def pack_too_much(path, packed):
    content = path.read_bytes()
    path.unlink()
    path = path.with_name(f"{path.name}.gz")
    path.write_bytes(gzip.compress(content + bytes(100_000_000)))
    return path


def change_header(path, place, byte):
    content = bytearray(path.read_bytes())
    content[place] = byte
    path.write_bytes(content)
    return path


def say_what_it_is_not(path, packed):
    return change_header(path, 0, 1)


def say_another_type(path, packed):
    return change_header(path, 2, 9)


def say_no_type(path, packed):
    return change_header(path, 2, 10)


def say_floats(path, packed):
    return change_header(path, 2, 13)


def say_other_dimensions(path, packed):
    return change_header(path, 3, 2)


def say_more_examples(path, packed):
    return change_header(path, 4, 255)


def say_another_shape_of_as_many(path, packed):
    """Keep the number of values, where there are several dimensions."""
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack(">I", SHAPES[path.name][0] // 2)
    if len(SHAPES[path.name]) > 1:
        content[8:12] = struct.pack(">I", 56)
    path.write_bytes(content)
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


HEADERS = [
    say_what_it_is_not,
    say_another_type,
    say_no_type,
    say_floats,
    say_other_dimensions,
    say_more_examples,
    say_another_shape_of_as_many,
]
DAMAGES = [
    cut_packed,
    flip_packed,
    pack_too_much,
    cut,
    lack_an_example,
    empty,
    lengthen,
    link_to_zeros,
    put_a_pipe,
    put_a_folder,
    *HEADERS,
]


@pytest.mark.parametrize("name", mnist.FILES)
@pytest.mark.parametrize("damage", [remove, *DAMAGES])
def test_a_file_that_is_missing_or_damaged_is_named(blank, packed, damage, name):
    path = damage(blank / RAW / name, packed)
    with pytest.raises(mnist.DataError, match=re.escape(str(path))):
        mnist.load(blank)


def test_of_a_packed_file_no_more_is_unpacked_than_shows_that_it_is_too_long(blank, packed, monkeypatch):
    pack_too_much(blank / RAW / mnist.FILES[0], packed)
    written = []
    monkeypatch.setattr(Path, "write_bytes", lambda _, content: written.append(len(content)))
    with pytest.raises(mnist.DataError):
        mnist.load(blank)
    assert written == [16 + 60_000 * 784 + 1]


def test_an_unpacked_file_that_is_too_long_is_not_read(blank, monkeypatch):
    lengthen(blank / RAW / mnist.FILES[0], None)
    monkeypatch.setattr(torchvision.datasets.mnist, "read_image_file", lambda _: pytest.fail("it was read"))
    with pytest.raises(mnist.DataError, match="must hold"):
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
    monkeypatch.setattr(torchvision.datasets.mnist, "open", refuse, raising=False)
    path = blank / RAW / f"{mnist.FILES[0]}{ending}"
    with pytest.raises(mnist.DataError, match=rf"{path} cannot be read \({os.strerror(code)}\)") as told:
        mnist.load(blank)
    assert not re.search("damaged|remove|replace", str(told.value))


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


def test_where_files_cannot_be_in_memory_the_temporary_folder_is_used_and_left_empty(real_mnist, packed, on_disk):
    assert_same(mnist.load(packed.parents[1]), real_mnist)
    assert not any(on_disk.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_temporary_folder_is_named_and_what_to_do(packed, on_disk, monkeypatch, code):
    refuse_to_write(monkeypatch, code)
    path = packed / f"{mnist.FILES[0]}.gz"
    told = (
        rf"{path} cannot be unpacked in the temporary folder \({os.strerror(code)}\); make room in {on_disk}, or name "
    )
    with pytest.raises(mnist.DataError, match=f"{told}another folder in TMPDIR") as error:
        mnist.load(packed.parents[1])
    assert not re.search("damaged|remove|replace", str(error.value))
    assert not any(on_disk.iterdir())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EFBIG])
def test_another_error_of_the_temporary_folder_is_not_called_full(packed, on_disk, monkeypatch, code):
    refuse_to_write(monkeypatch, code)
    with pytest.raises(mnist.DataError, match=rf"\({os.strerror(code)}\); name another folder in TMPDIR") as error:
        mnist.load(packed.parents[1])
    assert not re.search("damaged|remove|replace|room", str(error.value))


def test_a_temporary_folder_that_is_not_there_is_named(packed, on_disk, monkeypatch):
    on_disk.rmdir()
    with pytest.raises(mnist.DataError, match=r"\(No such file or directory\); name another folder in TMPDIR"):
        mnist.load(packed.parents[1])


def test_where_no_temporary_folder_can_be_had_those_tried_are_named(packed, on_disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(packed / "nowhere")])
    with pytest.raises(mnist.DataError, match=rf"{packed / 'nowhere'}.*; name another folder in TMPDIR"):
        mnist.load(packed.parents[1])


@pytest.mark.skipif(not mnist.IN_MEMORY, reason="only Linux has files in memory")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_memory_that_cannot_be_had_is_not_called_a_full_folder(packed, monkeypatch, code):
    refuse_to_write(monkeypatch, code)
    told = rf"cannot be unpacked in memory \({os.strerror(code)}\); see to that, or unpack it where it is"
    with pytest.raises(mnist.DataError, match=told) as error:
        mnist.load(packed.parents[1])
    assert not re.search("damaged|remove|replace|room|TMPDIR", str(error.value))


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
