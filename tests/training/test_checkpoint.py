"""Test checkpoints: what was saved is loaded, and nothing else."""

import io
import os
import random
import zipfile

import pytest
import torch

from ce_torch import CrossEntropyCost
from ce_torch.training import checkpoint
from ce_torch.training.checkpoint import CheckpointError
from ce_torch.training.loop import Training
from ce_torch.training.network import MLP

SETTINGS = {"cost": "ce", "hidden": [5], "lr": 0.5, "early_stopping": None, "compile": False}


@pytest.fixture
def training():
    x, y = torch.rand(20, 4), torch.arange(20) % 3
    training = Training(MLP([4, 5, 3]), CrossEntropyCost(), x, y, lr=0.5, monitor={"test": (x, y)})
    list(training.run(2))
    return training


@pytest.fixture
def saved(training, tmp_path):
    """The path of a saved run."""
    checkpoint.save(tmp_path / "run.pt", SETTINGS, training.state_dict())
    return tmp_path / "run.pt"


def test_the_settings_come_back(training, tmp_path):
    checkpoint.save(tmp_path / "run.pt", SETTINGS, training.state_dict())
    assert checkpoint.load(tmp_path / "run.pt")[0] == SETTINGS


def test_the_state_of_the_training_comes_back(training, tmp_path):
    state = training.state_dict()
    checkpoint.save(tmp_path / "run.pt", SETTINGS, state)
    _, loaded = checkpoint.load(tmp_path / "run.pt")
    torch.testing.assert_close(loaded, state, rtol=0, atol=0)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pt cannot be read \(No such file or directory\)"):
        checkpoint.load(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 100, 1_000, -1_000, -34, -32, -1])
def test_a_truncated_file_is_called_damaged(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"run\.pt .*damaged"):
        checkpoint.load(saved)


def test_no_flipped_bit_goes_unseen(saved):
    content = saved.read_bytes()
    draw = random.Random(0)
    # Flip bits anywhere, and each byte at the end of the file, where its digest is.
    places = [draw.randrange(len(content)) for _ in range(1_000)] + list(range(len(content) - 60, len(content)))
    for place in places:
        flipped = bytes([content[place] ^ 1 << draw.randrange(8)])
        saved.write_bytes(content[:place] + flipped + content[place + 1 :])
        with pytest.raises(CheckpointError, match=r"run\.pt "):
            checkpoint.load(saved)


def test_a_checkpoint_is_a_zip_file_that_torch_reads(saved):
    assert zipfile.ZipFile(saved).testzip() is None
    assert torch.load(saved, weights_only=True)["settings"] == SETTINGS


def test_a_file_that_was_changed_and_saved_without_its_digest_is_refused(saved):
    content = torch.load(saved, weights_only=True)
    content["settings"]["lr"] = 0.25
    torch.save(content, saved)
    with pytest.raises(CheckpointError, match=r"run\.pt was changed after train\.py wrote it"):
        checkpoint.load(saved)


def pack_version_1(training):
    """Return the bytes of a checkpoint of version 1, which has no digest."""
    buffer = io.BytesIO()
    torch.save({"format": checkpoint.FORMAT, "version": 1, "settings": SETTINGS, "training": training}, buffer)
    return buffer.getvalue()


def test_a_checkpoint_of_version_1_loads(training, tmp_path):
    state = training.state_dict()
    (tmp_path / "old.pt").write_bytes(pack_version_1(state))
    settings, loaded = checkpoint.load(tmp_path / "old.pt")
    assert settings == SETTINGS
    torch.testing.assert_close(loaded, state, rtol=0, atol=0)


def test_a_checkpoint_with_a_digest_is_not_of_version_1(tmp_path):
    content = {"format": checkpoint.FORMAT, "version": 1, "settings": SETTINGS, "training": {}}
    (tmp_path / "run.pt").write_bytes(checkpoint.seal(content))
    with pytest.raises(CheckpointError, match=rf"version 1, expected {checkpoint.VERSION}"):
        checkpoint.load(tmp_path / "run.pt")


def test_a_file_without_an_end_is_not_read(tmp_path):
    (tmp_path / "run.pt").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"run\.pt is a folder or a device"):
        checkpoint.load(tmp_path / "run.pt")


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match=r"run\.pt is a folder or a device"):
        checkpoint.load(tmp_path / "run.pt")


def test_a_large_file_that_is_no_checkpoint_is_not_read_to_its_end(tmp_path):
    (tmp_path / "video").touch()
    os.truncate(tmp_path / "video", 1 << 40)  # a sparse file, which takes no room on the disk
    with pytest.raises(CheckpointError, match="video is no checkpoint"):
        checkpoint.load(tmp_path / "video")
