"""Test train.py with files that are no checkpoints of its own: it names them in one line, and changes no file."""

import os
import pickle

import pytest
import torch

from ce_torch.training import checkpoint


def changed(path, change):
    """Write the checkpoint at `path` again, its content changed and its digest right."""
    content = torch.load(path, weights_only=True)
    change(content)
    path.write_bytes(checkpoint.seal(content))


NO_CHECKPOINTS = {
    "text": lambda path: path.write_text("no checkpoint\n"),
    "empty": lambda path: path.write_bytes(b""),
    "tensor": lambda path: torch.save(torch.zeros(3), path),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "cut-in-half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "last-byte-lost": lambda path: os.truncate(path, path.stat().st_size - 1),
    "another-programs": lambda path: changed(path, lambda content: content.update(format="another")),
    "newer-version": lambda path: changed(path, lambda content: content.update(version=checkpoint.VERSION + 1)),
}
DAMAGES = {
    "no-settings": lambda content: content.pop("settings"),
    "empty-settings": lambda content: content["settings"].clear(),
    "unknown-cost": lambda content: content["settings"].update(cost="unknown"),
    "another-network": lambda content: content["settings"].update(hidden=[31]),
    "no-training": lambda content: content.pop("training"),
    "empty-training": lambda content: content["training"].clear(),
    "no-generator": lambda content: content["training"].pop("generator"),
    "history-of-no-records": lambda content: content["training"].update(history=[1, 2]),
    "history-of-other-records": lambda content: content["training"]["history"][0].update(test=5),
    "history-of-no-numbers": lambda content: content["training"]["history"][1]["test"].update(accuracy="high"),
    "history-of-many-networks": lambda content: content["training"]["history"][0]["test"].update(correct=[1, 2]),
    "history-without-an-epoch": lambda content: content["training"]["history"].pop(0),
}


@pytest.fixture(params=NO_CHECKPOINTS)
def no_checkpoint(request, saved):
    NO_CHECKPOINTS[request.param](saved)
    return saved


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_a_missing_checkpoint_is_named(refusal, flag):
    assert "nowhere/run.pt" in refusal(flag, "nowhere/run.pt")


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_a_file_that_is_no_checkpoint_is_named(refusal, no_checkpoint, flag):
    assert str(no_checkpoint) in refusal(flag, no_checkpoint)


@pytest.mark.parametrize("flags", [("--resume",), ("--checkpoint",), ("--overwrite", "--checkpoint")])
def test_a_file_that_is_no_checkpoint_stays_byte_for_byte(refusal, no_checkpoint, flags, tmp_path, files_under):
    before = files_under(tmp_path)
    assert str(no_checkpoint) in refusal(*flags, no_checkpoint)
    assert files_under(tmp_path) == before


# Values of every type and range that a flag refuses, and of types that no flag gives.
EDITS = [
    ("cost", "hinge"),
    ("cost", 3),
    ("cost", "--lr"),
    ("hidden", "x"),
    ("hidden", 30),
    ("hidden", []),
    ("hidden", [0]),
    ("hidden", [30.0]),
    ("hidden", [[30]]),
    ("hidden", "30 --epochs 3"),
    ("batch_size", 0),
    ("batch_size", True),
    ("lr", -1),
    ("lr", float("nan")),
    ("lr", float("inf")),
    ("lr", "fast"),
    ("lr", None),
    ("lr", []),
    ("lr", [0.5, 0.5]),
    ("lr", torch.tensor(0.5)),
    ("lmbda", {"a": 1}),
    ("init", "small"),
    ("seed", -1),
    ("seed", 0.5),
    ("runs", 0),
    ("runs", None),
    ("epochs", "many"),
    ("epochs", None),
    ("early_stopping", 0),
    ("compile", "yes"),
    ("data", 5),
    ("data", "Fashion-MNIST"),
]


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
@pytest.mark.parametrize(("name", "value"), EDITS)
def test_a_setting_that_no_run_has_is_named(refusal, saved, name, value, flag, tmp_path, files_under):
    changed(saved, lambda content: content["settings"].update({name: value}))
    before = files_under(tmp_path)
    line = refusal(flag, saved)
    assert str(saved) in line
    assert name.replace("_", "-") in line.replace("_", "-")
    assert files_under(tmp_path) == before


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_without_all_its_content_is_named(refusal, saved, damage, flag):
    changed(saved, DAMAGES[damage])
    assert str(saved) in refusal(flag, saved)


def test_the_version_of_a_newer_checkpoint_is_named(refusal, saved):
    NO_CHECKPOINTS["newer-version"](saved)
    assert f"version {checkpoint.VERSION + 1}" in refusal("--resume", saved)


class Code:
    """Makes a folder when a trusting program unpickles it."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("flag", ["--resume", "--evaluate", "--checkpoint"])
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("dump", ["pickle", "torch"])
def test_code_in_a_file_does_not_run(train, tmp_path, flag, protocol, dump):
    path, folder = tmp_path / "run.pt", tmp_path / "made-by-code"
    if dump == "pickle":
        path.write_bytes(pickle.dumps(Code(folder), protocol=protocol))
    else:
        torch.save(Code(folder), path, pickle_protocol=protocol)
    assert train(flag, path).code == 2
    assert not folder.exists()


def test_plot_is_refused_for_a_run_without_an_epoch(refusal, saved):
    changed(saved, lambda content: content["training"].update(history=[]))
    assert "none in saved.pt" in refusal("--evaluate", saved.name, "--plot")
