"""Test train.py on data that is not MNIST."""

import json
import re

import pytest

from ce_torch.training import checkpoint


def test_other_data_is_named_in_the_last_line_and_in_the_files(train, other_data, tmp_path):
    folder, name = other_data
    flags = ("--data-dir", folder, "--batch-size", 1_000)
    trained = train(*flags, "--epochs", 1, "--checkpoint", "run.pt", "--quiet")
    assert trained.out[-1].endswith(f"; {name}")
    assert re.search(r"; data [0-9a-f]{16}, not MNIST$", trained.out[-1])
    assert train("--evaluate", "run.pt", "--data-dir", folder).out == trained.out
    assert checkpoint.load(tmp_path / "run.pt")[0]["data"] == name
    assert json.loads((tmp_path / "run.history.json").read_text())["settings"]["data"] == name


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_a_run_accepts_only_its_own_data(train, other_data, tmp_path, flag):
    folder, name = other_data
    train("--epochs", 1, "--checkpoint", "mnist.pt")
    train("--data-dir", folder, "--batch-size", 1_000, "--epochs", 1, "--checkpoint", "other.pt")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    advice = "name the folder of its data by --data-dir"
    assert train(flag, "mnist.pt", "--data-dir", folder) == (
        2,
        [],
        [f"train.py: mnist.pt was trained on MNIST, got {name}; {advice}"],
    )
    assert train(flag, "other.pt") == (2, [], [f"train.py: other.pt was trained on {name}, got MNIST; {advice}"])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_relative_data_dir_is_in_the_current_folder(train, other_data, tmp_path):
    folder, name = other_data
    (tmp_path / "mine").symlink_to(folder)
    outcome = train("--data-dir", "mine", "--batch-size", 1_000, "--epochs", 1, "--checkpoint", "run.pt")
    assert outcome.out[-1].endswith(name)
