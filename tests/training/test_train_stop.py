"""Test train.py where Ctrl-C stops it: what it says, what it leaves, and how it goes on."""

import shlex

import pytest

from ce_torch.training.loop import Training


@pytest.fixture
def stop_after(monkeypatch):
    """Let Ctrl-C stop the training once `epochs` are done."""
    chunks = Training.chunks

    def stop_after(epochs):
        def train_or_stop(training):
            if len(training.history) == epochs:
                raise KeyboardInterrupt
            return chunks(training)

        monkeypatch.setattr(Training, "chunks", train_or_stop)

    return stop_after


NOTHING_SAVED = "stopped before an epoch was saved, and no file is changed; the same command starts again"


def test_ctrl_c_in_the_first_epoch_leaves_nothing_and_says_so(train, stop_after, tmp_path):
    stop_after(0)
    assert train() == (130, [], [NOTHING_SAVED])
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_names_a_command_that_works(train, stop_after):
    path = "my runs/it's $HOME.pt"
    train("--cost", "ll", "--epochs", 1, "--checkpoint", "other run.pt")
    stop_after(1)
    (line,) = train("--epochs", 2, "--checkpoint", path, "--plot", "other run.pt").err
    python, *flags = shlex.split(line.removeprefix("stopped after an epoch was saved; to go on: "))
    assert (python, flags) == ("python", ["train.py", "--resume", path, "--plot", "other run.pt"])
    stop_after(2)
    assert train(*flags[1:]).code == 0


def test_ctrl_c_repeats_the_place_of_the_data_and_the_device(train, stop_after, other_data):
    folder, _ = other_data
    stop_after(1)
    place = "--data-dir", str(folder), "--device", "cpu"
    (line,) = train(*place, "--batch-size", 1_000, "--epochs", 2, "--checkpoint", "run.pt").err
    flags = shlex.split(line)[-6:]
    assert flags == ["--resume", "run.pt", *place]
    stop_after(2)
    assert train(*flags).code == 0


def test_ctrl_c_before_the_first_epoch_of_a_resumed_run_says_how_to_go_on(train, stop_after):
    train("--epochs", 1, "--checkpoint", "run.pt")
    stop_after(1)
    (line,) = train("--resume", "run.pt", "--epochs", 2).err
    assert line == "stopped after an epoch was saved; to go on: python train.py --resume run.pt"


def test_overwrite_leaves_the_old_run_until_an_epoch_of_the_new_one_is_saved(train, stop_after, tmp_path):
    train("--epochs", 2, "--checkpoint", "run.pt")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    stop_after(0)
    assert train("--checkpoint", "run.pt", "--overwrite").err == [NOTHING_SAVED]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_ctrl_c_after_an_epoch_that_overwrote_says_how_to_go_on(train, stop_after, tmp_path, epochs_done):
    train("--epochs", 2, "--checkpoint", "run.pt")
    stop_after(1)
    (line,) = train("--checkpoint", "run.pt", "--overwrite").err
    assert line == "stopped after an epoch was saved; to go on: python train.py --resume run.pt"
    assert epochs_done(tmp_path / "run.pt") == 1
