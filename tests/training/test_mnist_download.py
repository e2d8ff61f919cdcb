"""Test downloads: torchvision downloads a missing MNIST, and a download that fails leaves nothing behind."""

import errno
import functools
import hashlib
import http.server
import os
import re
import shutil
import threading
from pathlib import Path

import pytest
import torchvision

from ce_torch.training import mnist

RAW = Path("MNIST", "raw")


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
    # torchvision knows the checksums of the original archives; those in this repository are compressed differently.
    sums = [(f"{name}.gz", hashlib.md5((packed / f"{name}.gz").read_bytes()).hexdigest()) for name in mnist.FILES]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = functools.partial(Mirror, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        yield folder
        server.shutdown()


@pytest.mark.parametrize("made_before", [Path(), RAW], ids=["no-folder", "an-empty-folder"])
def test_missing_mnist_is_downloaded(real_mnist, packed, mirror, tmp_path, made_before, assert_same_data):
    shutil.copytree(packed, mirror, dirs_exist_ok=True)
    data_dir = tmp_path / "data"
    if made_before != Path():
        (data_dir / made_before).mkdir(parents=True)
    assert_same_data(mnist.load(data_dir), real_mnist)
    shutil.rmtree(mirror)
    assert_same_data(mnist.load(data_dir), real_mnist)


def serve_nothing(mirror, packed):
    pass


def serve_half(mirror, packed):
    for name in mnist.FILES[:2]:
        shutil.copy(packed / f"{name}.gz", mirror)


def serve_damaged(mirror, packed):
    shutil.copytree(packed, mirror, dirs_exist_ok=True)
    last = mirror / f"{mnist.FILES[-1]}.gz"
    last.write_bytes(last.read_bytes()[::-1])


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


@pytest.mark.usefixtures("mirror")
def test_a_failed_download_says_what_the_mirror_said(tmp_path):
    with pytest.raises(mnist.DataError, match=r"cannot be downloaded there \(HTTP Error 404: File not found\)"):
        mnist.load(tmp_path)


@pytest.mark.parametrize(
    ("code", "remedy"), [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EACCES, "put train-images")]
)
def test_an_error_of_the_system_is_reported_with_a_remedy(tmp_path, monkeypatch, code, remedy):
    def download(self):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    with pytest.raises(mnist.DataError, match=rf"there \({os.strerror(code)}\); {remedy}"):
        mnist.load(tmp_path)


@pytest.mark.parametrize("made_before", ["", "data"], ids=["no-folder", "an-empty-folder"])
def test_an_interrupted_download_leaves_nothing_behind(tmp_path, monkeypatch, made_before):
    def download(self):
        Path(self.raw_folder).mkdir(parents=True)
        Path(self.raw_folder, mnist.FILES[0]).touch()
        raise KeyboardInterrupt

    (tmp_path / made_before).mkdir(exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    with pytest.raises(KeyboardInterrupt):
        mnist.load(tmp_path / "data")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_download_spares_what_another_run_downloaded_meanwhile(tmp_path, monkeypatch):
    other_file = tmp_path / "data" / RAW / mnist.FILES[0]

    def download(self):
        other_file.parent.mkdir(parents=True)
        other_file.touch()
        raise OSError

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    with pytest.raises(mnist.DataError):
        mnist.load(tmp_path / "data")
    assert other_file.exists()
