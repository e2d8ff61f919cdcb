"""MNIST as tensors: what is in them, and what is said where the files are not as they must be."""

import functools
import gzip
import hashlib
import http.server
import os
import re
import shutil
import struct
import sys
import threading
from pathlib import Path

import pytest
import torch
import torchvision

from ce_torch import mnist

SHAPES = dict(zip(mnist.FILES, [(60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)], strict=True))
PARTS = ["training", "validation", "test"]
RAW = Path("MNIST", "raw")


@pytest.fixture(scope="module")
def packed(root):
    """The project's own files of MNIST."""
    return root / "data" / RAW


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


@pytest.mark.parametrize("name", mnist.FILES)
@pytest.mark.parametrize("damage", [remove, cut_packed, flip_packed, cut, lack_an_example, empty])
def test_a_file_that_is_missing_or_damaged_is_named(blank, packed, damage, name):
    path = damage(blank / RAW / name, packed)
    with pytest.raises(mnist.DataError, match=re.escape(str(path))):
        mnist.load(blank)


@pytest.mark.parametrize("name", [name for name in mnist.FILES if "labels" in name])
def test_a_label_that_is_no_digit_is_named(blank, name):
    path = blank / RAW / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(mnist.DataError, match=rf"{re.escape(str(path))} must hold classes from 0 to 9, got 10"):
        mnist.load(blank)


class Mirror(http.server.SimpleHTTPRequestHandler):
    speaks_http = True

    def do_GET(self):
        if self.speaks_http:
            super().do_GET()
        else:
            self.wfile.write(b"no HTTP\r\n\r\n")

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch, packed):
    """A folder that torchvision downloads MNIST from."""
    # The repository's archives are not compressed as the original ones, whose checksums torchvision knows.
    sums = [(f"{name}.gz", hashlib.md5((packed / f"{name}.gz").read_bytes()).hexdigest()) for name in mnist.FILES]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = functools.partial(Mirror, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        yield folder
        server.shutdown()


@pytest.mark.parametrize("made_before", [Path(), RAW], ids=["no-folder", "an-empty-folder"])
def test_where_there_is_no_mnist_it_is_downloaded(real_mnist, packed, mirror, tmp_path, made_before):
    shutil.copytree(packed, mirror, dirs_exist_ok=True)
    data_dir = tmp_path / "data"
    if made_before != Path():
        (data_dir / made_before).mkdir(parents=True)
    assert_same(mnist.load(data_dir), real_mnist)
    shutil.rmtree(mirror)
    assert_same(mnist.load(data_dir), real_mnist)


def serve_nothing(mirror, packed):
    pass


def serve_half(mirror, packed):
    for name in mnist.FILES[:2]:
        shutil.copy(packed / f"{name}.gz", mirror)


def serve_damaged(mirror, packed):
    shutil.copytree(packed, mirror, dirs_exist_ok=True)
    last = mirror / f"{mnist.FILES[-1]}.gz"
    last.write_bytes(flip_a_byte(last.read_bytes()))


@pytest.fixture(params=[serve_nothing, serve_half, serve_damaged])
def bad_mirror(request, mirror, packed):
    request.param(mirror, packed)


@pytest.mark.usefixtures("bad_mirror")
def test_a_failed_download_names_the_folder(tmp_path):
    with pytest.raises(mnist.DataError, match=re.escape(str(tmp_path / "data" / RAW))):
        mnist.load(tmp_path / "data")


@pytest.mark.usefixtures("bad_mirror")
def test_a_failed_download_leaves_nothing_behind(tmp_path):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(mnist.DataError):
        mnist.load(tmp_path / "data")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("mirror")
def test_a_mirror_that_does_not_speak_http_is_a_failed_download(tmp_path, monkeypatch):
    monkeypatch.setattr(Mirror, "speaks_http", False)
    with pytest.raises(mnist.DataError, match=re.escape(str(tmp_path / RAW))):
        mnist.load(tmp_path)


def test_an_interrupted_download_leaves_nothing_behind(tmp_path, monkeypatch):
    def download(self):
        Path(self.raw_folder).mkdir(parents=True)
        Path(self.raw_folder, mnist.FILES[0]).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    with pytest.raises(KeyboardInterrupt):
        mnist.load(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ImportError("no torchvision"), RuntimeError("operator torchvision::nms")])
def test_a_torchvision_that_cannot_be_imported_says_what_to_install(error, root, monkeypatch):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("torchvision"):
                raise error

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(mnist.DataError, match=rf"{error}.*pip install -r requirements.txt"):
        mnist.load(root / "data")
