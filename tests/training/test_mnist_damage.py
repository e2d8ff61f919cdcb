"""Test files of MNIST that are missing, damaged or unreadable: an error names them, and says what to do."""

import errno
import gzip
import os
import re
from pathlib import Path

import pytest
import torchvision

from ce_torch.training import mnist


def pack(path, damage=lambda content: content, more=b""):
    """Replace a file by a packed copy, with `more` bytes after its content and with damage to the result."""
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(damage(gzip.compress(path.read_bytes() + more)))
    path.unlink()
    return packed


def flip_a_byte(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def remove(path):
    path.unlink()
    return path


def cut_packed(path):
    return pack(path, lambda content: content[:-10])


def flip_packed(path):
    return pack(path, flip_a_byte)


def cut(path):
    os.truncate(path, path.stat().st_size - 1)
    return path


def lack_an_example(path):
    content = bytearray(path.read_bytes())
    content[7] -= 1
    path.write_bytes(content[: -784 if "images" in path.name else -1])
    return path


def empty(path):
    path.write_bytes(b"")
    return path


def pack_too_much(path):
    return pack(path, more=bytes(1_000_000))


def change_header(path, place, byte):
    content = bytearray(path.read_bytes())
    content[place] = byte
    path.write_bytes(content)
    return path


def say_what_it_is_not(path):
    return change_header(path, 0, 1)


def say_another_type(path):
    return change_header(path, 2, 9)


def say_no_type(path):
    return change_header(path, 2, 10)


def say_floats(path):
    return change_header(path, 2, 13)


def say_other_dimensions(path):
    return change_header(path, 3, 2)


def say_more_examples(path):
    return change_header(path, 4, 255)


def say_another_shape_of_as_many(path):
    """Change the shape, and keep the number of values if there are several dimensions."""
    content = bytearray(path.read_bytes())
    content[7] //= 2
    if "images" in path.name:
        content[11] *= 2
    path.write_bytes(content)
    return path


def lengthen(path):
    os.truncate(path, path.stat().st_size + 1)
    return path


def link_to_zeros(path):
    path.unlink()
    path.symlink_to("/dev/zero")
    return path


def put_a_pipe(path):
    path.unlink()
    os.mkfifo(path)
    return path


def put_a_folder(path):
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
def test_a_file_that_is_missing_or_damaged_is_named(tiny_mnist, damage, name):
    path = damage(tiny_mnist / mnist.RAW / name)
    with pytest.raises(mnist.DataError, match=re.escape(str(path))):
        mnist.load(tiny_mnist)


def test_unpacking_stops_one_byte_after_the_expected_size(tiny_mnist, monkeypatch):
    pack_too_much(tiny_mnist / mnist.RAW / mnist.FILES[0])
    written = []
    monkeypatch.setattr(Path, "write_bytes", lambda _, content: written.append(len(content)))
    with pytest.raises(mnist.DataError):
        mnist.load(tiny_mnist)
    assert written == [16 + 60 * 784 + 1]


def test_an_unpacked_file_that_is_too_long_is_not_read(tiny_mnist, monkeypatch):
    lengthen(tiny_mnist / mnist.RAW / mnist.FILES[0])
    monkeypatch.setattr(torchvision.datasets.mnist, "read_image_file", lambda _: pytest.fail("it was read"))
    with pytest.raises(mnist.DataError, match="must hold"):
        mnist.load(tiny_mnist)


def test_a_missing_file_is_not_called_damaged(tiny_mnist):
    path = tiny_mnist / mnist.RAW / mnist.FILES[-1]
    path.unlink()
    with pytest.raises(mnist.DataError, match=rf"{re.escape(str(path))} is missing"):
        mnist.load(tiny_mnist)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOSPC])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_error_of_the_system_is_not_called_damage(tiny_mnist, monkeypatch, code, ending):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    if ending:
        for name in mnist.FILES:
            pack(tiny_mnist / mnist.RAW / name)
    monkeypatch.setattr(gzip, "open", refuse)
    monkeypatch.setattr(torchvision.datasets.mnist, "open", refuse, raising=False)
    path = tiny_mnist / mnist.RAW / f"{mnist.FILES[0]}{ending}"
    with pytest.raises(mnist.DataError, match=rf"{path} cannot be read \({os.strerror(code)}\)") as error:
        mnist.load(tiny_mnist)
    assert not re.search("damaged|remove|replace", str(error.value))


@pytest.mark.parametrize("name", [name for name in mnist.FILES if "labels" in name])
def test_a_label_that_is_no_digit_is_named(tiny_mnist, name):
    path = tiny_mnist / mnist.RAW / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(mnist.DataError, match=rf"{re.escape(str(path))} must hold classes from 0 to 9, got 10"):
        mnist.load(tiny_mnist)


def test_a_folder_that_may_not_be_read_is_named(tiny_mnist, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(mnist.DataError, match=rf"{tiny_mnist / mnist.RAW} cannot be read \(Permission denied\)"):
        mnist.load(tiny_mnist)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "data").write_text("no folder\n")
    with pytest.raises(mnist.DataError, match=rf"{tmp_path / 'data'} is a file; name the folder"):
        mnist.load(tmp_path / "data")
