"""Test train.py where it cannot go on: it returns 2, says why in one line, and changes no file."""

import contextlib
import os
import re
import resource
import shutil
import sys
from pathlib import Path

import pytest
import torch

from ce_torch.training import checkpoint, files, mnist
from ce_torch.training.loop import Training


@pytest.mark.parametrize("flags", [("--resume",), ("--evaluate",), ("--checkpoint",), ("--overwrite", "--checkpoint")])
@pytest.mark.parametrize("path", ["/dev/full", "/dev/zero", "/dev/null", "pipe", "."])
def test_a_device_a_pipe_or_a_folder_is_named_at_once(refusal, flags, path, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    beside = set(Path(path).absolute().parent.iterdir())
    assert f"{path} is a folder or a device" in refusal(*flags, path)
    assert set(Path(path).absolute().parent.iterdir()) == beside


def test_a_run_that_is_refused_leaves_no_folder(refusal, tmp_path):
    (tmp_path / "file").write_text("no folder with MNIST\n")
    refusal("--data-dir", "file", "--checkpoint", tmp_path / "a" / "b" / "run.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("flags", [("--resume",), ("--checkpoint", "b.pt", "--resume")])
def test_a_missing_run_leaves_no_folder(refusal, flags, tmp_path):
    assert "nowhere/run.pt cannot be read (No such file or directory)" in refusal(*flags, "nowhere/run.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
@pytest.mark.parametrize(
    "contradiction",
    ["--cost ll", "--hidden 20", "--batch-size 20", "--lr 0.3", "--lmbda 5.0", "--init scaled", "--seed 1"],
)
def test_a_flag_that_contradicts_the_checkpoint_is_named(refusal, saved, flag, contradiction):
    assert f"{contradiction} contradicts {saved}" in refusal(flag, saved, *contradiction.split())


def test_fewer_epochs_than_done_are_refused(refusal, saved):
    assert "--epochs 1 is fewer than the 2" in refusal("--resume", saved, "--epochs", 1)


@pytest.mark.parametrize("flags", ["", "--cost ll", "--hidden 20 10", "--resume other.pt"])
def test_another_run_is_not_overwritten(train, refusal, saved, flags, tmp_path, files_under):
    train("--seed", 1, "--epochs", 1, "--checkpoint", "other.pt")
    before = files_under(tmp_path)
    assert str(saved) in refusal(*flags.split(), "--checkpoint", saved)
    assert files_under(tmp_path) == before


@pytest.mark.parametrize(
    "path",
    ["file/run.pt", "folder", "x" * 255, "x" * 256],
    ids=["in-a-file", "a-folder", "no-room-for-the-name-of-a-scratch-file", "name-too-long"],
)
def test_a_place_that_cannot_be_written_is_named(refusal, tmp_path, path, files_under):
    (tmp_path / "file").write_text("a file, where a folder should be\n")
    (tmp_path / "folder").mkdir()
    before = files_under(tmp_path)
    assert path in refusal("--checkpoint", path)
    assert files_under(tmp_path) == before


@contextlib.contextmanager
def room_for(size):
    """Let the system refuse to write more than `size` bytes to a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_previous_checkpoint_and_no_scratch(refusal, saved, tmp_path, files_under):
    before = files_under(tmp_path)
    with room_for(10_000):
        line = refusal("--resume", saved, "--epochs", 3)
    assert str(saved) in line
    assert files_under(tmp_path) == before


def test_a_full_disk_is_reported_before_the_first_epoch(refusal, tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "chunks", pytest.fail)
    with room_for(10_000):
        assert "run.pt cannot be written" in refusal("--checkpoint", tmp_path / "run.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_while_training_leaves_the_last_epoch_saved(train, refusal, tmp_path, monkeypatch):
    path, write, writes = tmp_path / "run.pt", files.write_atomically, []

    def fill_up(place, content):
        writes.append(place)
        with room_for(10_000) if writes.count(path) == 2 else contextlib.nullcontext():
            write(place, content)

    monkeypatch.setattr(files, "write_atomically", fill_up)
    refusal("--epochs", 9, "--checkpoint", path)
    assert len(checkpoint.load(path)[1]["history"]) == 1


@pytest.mark.parametrize("device", ["nonsense", "meta", "hpu"])
def test_a_device_that_cannot_be_used_is_named(refusal, saved, device):
    assert f"--device {device}" in refusal("--evaluate", saved, "--device", device)


@pytest.mark.parametrize("cut", [None, 1_000], ids=["missing", "truncated"])
def test_a_file_of_mnist_that_is_missing_or_damaged_is_named(refusal, root, tmp_path, cut):
    raw = tmp_path / "data" / "MNIST" / "raw"
    shutil.copytree(root / "data" / "MNIST" / "raw", raw)
    packed = raw / f"{mnist.FILES[0]}.gz"
    if cut:
        os.truncate(packed, cut)
    else:
        packed.unlink()
    assert str(raw / mnist.FILES[0]) in refusal("--data-dir", tmp_path / "data", "--checkpoint", "run.pt")


@pytest.mark.parametrize("flag", ["--epochs", "--batch-size", "--early-stopping"])
def test_the_largest_number_that_a_flag_takes_can_be_used(train, flag):
    flags = {"--lr": 0, "--epochs": 1, "--early-stopping": 1, flag: 2**32 - 1}
    assert train(*(word for pair in flags.items() for word in pair), "--checkpoint", "run.pt").code == 0


@pytest.mark.parametrize(
    "flags",
    [
        "--lr -1",
        "--lr nan",
        "--lr inf",
        "--lr 0.5 0.5",
        "--lmbda x",
        "--epochs 0",
        "--epochs 1.5",
        "--batch-size x",
        "--batch-size -1",
        f"--batch-size {2**63}",
        "--hidden",
        "--hidden 0",
        "--seed -1",
        "--early-stopping 0",
        "--cost hinge",
        "--init small",
        "--resume a.pt --evaluate a.pt",
        "--unknown",
    ],
)
def test_a_flag_that_cannot_be_understood_is_named(refusal, tmp_path, flags):
    line = refusal(*flags.split())
    assert flags.split()[0] in line
    assert "train.py --help" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags", ["--hidden 4294967295", "--hidden 4294967295 4294967295", f"--runs {2**32 - 1}", "--hidden 10000000000"]
)
def test_a_network_too_large_for_memory_is_named(refusal, tmp_path, flags):
    assert flags.split()[0] in refusal(*flags.split())
    assert list(tmp_path.iterdir()) == []


NO_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["python", "cpu", "accelerator"])
def test_lack_of_memory_is_reported(refusal, monkeypatch, error):
    def run_out(training):
        raise error

    monkeypatch.setattr(Training, "chunks", run_out)
    assert "not enough memory" in refusal("--checkpoint", "run.pt")


def test_other_errors_are_not_called_lack_of_memory(train, monkeypatch):
    def fail(training):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Training, "chunks", fail)
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"):
        train("--checkpoint", "run.pt")


def test_a_missing_compiler_is_reported_before_anything_is_written(refusal, tmp_path):
    torch.compiler.reset()  # forget what earlier tests have compiled
    with torch._inductor.config.patch({"cpp.cxx": (None, "nowhere/g++")}):
        line = refusal("--compile", "--checkpoint", "run.pt")
    assert re.match(r"train.py: --compile .* g\+\+, .* CXX", line)
    assert list(tmp_path.iterdir()) == []


def test_plot_without_matplotlib_is_refused_before_anything_is_written(refusal, monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.startswith("ce_torch.chapter")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "--plot needs matplotlib" in refusal("--plot", "--checkpoint", "run.pt")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_mnist_is_read_leaves_no_traceback(train, monkeypatch):
    def interrupted(data_dir, device):
        raise KeyboardInterrupt

    monkeypatch.setattr(mnist, "load", interrupted)
    assert train("--checkpoint", "run.pt") == (130, [], [])
