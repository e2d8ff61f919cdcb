"""Checkpoints: what is saved is loaded, and a file is whole whatever happens."""

import os
import stat

import pytest
import torch

from ce_torch import MLP, CrossEntropyCost, checkpoint
from ce_torch.checkpoint import CheckpointError
from ce_torch.training import Training

SETTINGS = {"cost": "ce", "hidden": [5], "lr": 0.5, "early_stopping": None, "compile": False}


@pytest.fixture
def training():
    x, y = torch.rand(20, 4), torch.arange(20) % 3
    training = Training(MLP([4, 5, 3]), CrossEntropyCost(), x, y, lr=0.5, monitor={"test": (x, y)})
    list(training.run(2))
    return training


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_settings_come_back(training, tmp_path):
    checkpoint.save(tmp_path / "run.pt", SETTINGS, training.state_dict())
    assert checkpoint.load(tmp_path / "run.pt")[0] == SETTINGS


def test_the_state_of_the_training_comes_back(training, tmp_path):
    state = training.state_dict()
    checkpoint.save(tmp_path / "run.pt", SETTINGS, state)
    _, loaded = checkpoint.load(tmp_path / "run.pt")
    torch.testing.assert_close(loaded, state, rtol=0, atol=0)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pt cannot be read"):
        checkpoint.load(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("kept", [0, 1, 100, 1_000, -1_000, -1])
def test_a_truncated_file_is_told_as_damaged(training, tmp_path, kept):
    path = tmp_path / "run.pt"
    checkpoint.save(path, SETTINGS, training.state_dict())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"run\.pt .*damaged"):
        checkpoint.load(path)


def test_write_makes_the_folders_of_the_path(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_write_replaces_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a longer old one")
    checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_write_leaves_no_scratch_file(tmp_path):
    checkpoint.write_atomically(tmp_path / "file", b"new")
    assert names(tmp_path) == ["file"]


def raise_no_space(*_):
    raise OSError(28, "No space left on device")


def raise_keyboard_interrupt(*_):
    raise KeyboardInterrupt


FAILURES = [
    pytest.param(call, failure, error, id=f"{call}-{error.__name__}")
    for call in ("fsync", "replace")
    for failure, error in ((raise_no_space, CheckpointError), (raise_keyboard_interrupt, KeyboardInterrupt))
]


@pytest.mark.parametrize(("call", "failure", "error"), FAILURES)
def test_a_write_that_fails_leaves_the_old_file_and_no_scratch(tmp_path, monkeypatch, call, failure, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, failure)
    with pytest.raises(error):
        checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_write_that_fails_says_why_and_where(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", raise_no_space)
    with pytest.raises(CheckpointError, match=r"file cannot be written \(No space left on device\)"):
        checkpoint.write_atomically(tmp_path / "file", b"new")


def test_the_new_content_is_on_the_disk_before_it_takes_the_old_ones_place(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(stat.S_ISDIR(os.fstat(file).st_mode)) or fsync(file))
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("replace") or replace(*paths))
    checkpoint.write_atomically(tmp_path / "file", b"new")
    of_the_file, of_the_folder = False, True
    assert done == [of_the_file, "replace", of_the_folder]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_new_file_has_the_permissions_that_any_file_would_have(tmp_path, umask):
    previous = os.umask(umask)
    try:
        checkpoint.write_atomically(tmp_path / "file", b"new")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask
