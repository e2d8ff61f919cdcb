"""train.py where it cannot go on: exit code 2, one line that says why, and every file as it was."""

import contextlib
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from ce_torch.training import checkpoint, files, mnist
from ce_torch.training.loop import Training


@pytest.fixture
def fails(train):
    """train.py as a function of flags that it must refuse: returns the one line that it prints to stderr."""

    def fails(*flags):
        with warnings.catch_warnings(record=True) as printed:
            # As users see them: pytest would raise them, and the program might take them for an error that it expects.
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)
            outcome = train(*flags)
        assert outcome.code == 2
        assert [str(warning.message) for warning in printed] == []
        (line,) = outcome.err
        assert line.startswith("train.py: ")
        return line

    return fails


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Where the first test that needs a checkpoint leaves it for the others."""
    return tmp_path_factory.mktemp("trained") / "run.pt"


@pytest.fixture
def saved(train, trained, tmp_path):
    """The checkpoint of a run of cross-entropy, 30 hidden neurons, two epochs."""
    if not trained.exists():
        assert train("--epochs", 2, "--checkpoint", trained).code == 0
    return shutil.copy(trained, tmp_path / "saved.pt")


def files_under(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
def test_a_missing_checkpoint_is_named(fails, flag):
    assert "nowhere/run.pt" in fails(flag, "nowhere/run.pt")


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_what_is_no_checkpoint_is_named(fails, no_checkpoint, flag):
    assert str(no_checkpoint) in fails(flag, no_checkpoint)


@pytest.mark.parametrize("flags", [("--resume",), ("--checkpoint",), ("--overwrite", "--checkpoint")])
def test_what_is_no_checkpoint_stays_byte_for_byte(fails, no_checkpoint, flags, tmp_path):
    before = files_under(tmp_path)
    assert str(no_checkpoint) in fails(*flags, no_checkpoint)
    assert files_under(tmp_path) == before


@pytest.mark.parametrize("flags", [("--resume",), ("--evaluate",), ("--checkpoint",), ("--overwrite", "--checkpoint")])
@pytest.mark.parametrize("path", ["/dev/full", "/dev/zero", "/dev/null", "pipe", "."])
def test_a_device_a_pipe_or_a_folder_is_told_at_once(fails, flags, path, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    beside = set(Path(path).absolute().parent.iterdir())
    assert f"{path} is a folder or a device" in fails(*flags, path)
    assert set(Path(path).absolute().parent.iterdir()) == beside


def test_a_run_that_is_refused_leaves_no_folder(fails, tmp_path):
    (tmp_path / "file").write_text("no folder with MNIST\n")
    fails("--data-dir", "file", "--checkpoint", tmp_path / "a" / "b" / "run.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("flags", [("--resume",), ("--checkpoint", "b.pt", "--resume")])
def test_a_run_that_is_not_there_leaves_no_folder(fails, flags, tmp_path):
    assert "nowhere/run.pt cannot be read (No such file or directory)" in fails(*flags, "nowhere/run.pt")
    assert list(tmp_path.iterdir()) == []


# Of every type and range that a flag refuses, and of types that no flag gives.
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
def test_a_setting_that_no_run_has_is_named(fails, saved, name, value, flag, tmp_path):
    changed(saved, lambda content: content["settings"].update({name: value}))
    before = files_under(tmp_path)
    line = fails(flag, saved)
    assert str(saved) in line
    assert name.replace("_", "-") in line.replace("_", "-")
    assert files_under(tmp_path) == before


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_without_all_its_content_is_named(fails, saved, damage, flag):
    changed(saved, DAMAGES[damage])
    assert str(saved) in fails(flag, saved)


def test_a_newer_checkpoint_is_told_by_its_version(fails, saved):
    NO_CHECKPOINTS["newer-version"](saved)
    assert f"version {checkpoint.VERSION + 1}" in fails("--resume", saved)


class Code:
    """Makes a folder when it is unpickled by who trusts it."""

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


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
@pytest.mark.parametrize(
    "contradiction",
    ["--cost ll", "--hidden 20", "--batch-size 20", "--lr 0.3", "--lmbda 5.0", "--init scaled", "--seed 1"],
)
def test_a_flag_that_contradicts_the_checkpoint_is_named(fails, saved, flag, contradiction):
    assert f"{contradiction} contradicts {saved}" in fails(flag, saved, *contradiction.split())


def test_fewer_epochs_than_done_are_refused(fails, saved):
    assert "--epochs 1 is fewer than the 2" in fails("--resume", saved, "--epochs", 1)


@pytest.mark.parametrize("flags", ["", "--cost ll", "--hidden 20 10", "--resume other.pt"])
def test_another_run_is_not_overwritten(train, fails, saved, flags, tmp_path):
    train("--seed", 1, "--epochs", 1, "--checkpoint", "other.pt")
    before = files_under(tmp_path)
    assert str(saved) in fails(*flags.split(), "--checkpoint", saved)
    assert files_under(tmp_path) == before


@pytest.mark.parametrize(
    "path",
    ["file/run.pt", "folder", "x" * 255, "x" * 256],
    ids=["in-a-file", "a-folder", "no-room-for-the-name-of-a-scratch-file", "name-too-long"],
)
def test_a_place_that_cannot_be_written_is_named(fails, tmp_path, path):
    (tmp_path / "file").write_text("a file, where a folder should be\n")
    (tmp_path / "folder").mkdir()
    before = files_under(tmp_path)
    assert path in fails("--checkpoint", path)
    assert files_under(tmp_path) == before


@contextlib.contextmanager
def room_for(size):
    """Have the system refuse to write more to a file than `size` bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_previous_checkpoint_and_no_scratch(fails, saved, tmp_path):
    before = files_under(tmp_path)
    with room_for(10_000):
        line = fails("--resume", saved, "--epochs", 3)
    assert str(saved) in line
    assert files_under(tmp_path) == before


def test_a_full_disk_is_told_before_the_first_epoch(fails, tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "chunks", pytest.fail)
    with room_for(10_000):
        assert "run.pt cannot be written" in fails("--checkpoint", tmp_path / "run.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_while_training_leaves_the_last_epoch_saved(train, fails, tmp_path, monkeypatch):
    path, write, writes = tmp_path / "run.pt", files.write_atomically, []

    def fill_up(place, content):
        writes.append(place)
        with room_for(10_000) if writes.count(path) == 2 else contextlib.nullcontext():
            write(place, content)

    monkeypatch.setattr(files, "write_atomically", fill_up)
    fails("--epochs", 9, "--checkpoint", path)
    assert len(checkpoint.load(path)[1]["history"]) == 1


@pytest.mark.parametrize("device", ["nonsense", "meta", "hpu"])
def test_a_device_that_cannot_be_used_is_named(fails, saved, device):
    assert f"--device {device}" in fails("--evaluate", saved, "--device", device)


@pytest.mark.parametrize("cut", [None, 1_000], ids=["missing", "truncated"])
def test_a_file_of_mnist_that_is_missing_or_damaged_is_named(fails, root, tmp_path, cut):
    raw = tmp_path / "data" / "MNIST" / "raw"
    shutil.copytree(root / "data" / "MNIST" / "raw", raw)
    packed = raw / f"{mnist.FILES[0]}.gz"
    if cut:
        os.truncate(packed, cut)
    else:
        packed.unlink()
    assert str(raw / mnist.FILES[0]) in fails("--data-dir", tmp_path / "data", "--checkpoint", "run.pt")


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
def test_a_flag_that_cannot_be_understood_is_named(fails, tmp_path, flags):
    line = fails(*flags.split())
    assert flags.split()[0] in line
    assert "train.py --help" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags", ["--hidden 4294967295", "--hidden 4294967295 4294967295", f"--runs {2**32 - 1}", "--hidden 10000000000"]
)
def test_a_network_that_no_memory_holds_is_named(fails, tmp_path, flags):
    assert flags.split()[0] in fails(*flags.split())
    assert list(tmp_path.iterdir()) == []


NO_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["python", "cpu", "accelerator"])
def test_memory_that_runs_out_is_told_as_that(fails, monkeypatch, error):
    def run_out(training):
        raise error

    monkeypatch.setattr(Training, "chunks", run_out)
    assert "not enough memory" in fails("--checkpoint", "run.pt")


def test_other_errors_are_not_told_as_missing_memory(train, monkeypatch):
    def fail(training):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Training, "chunks", fail)
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"):
        train("--checkpoint", "run.pt")


@pytest.mark.parametrize("compiler", ["nowhere/g++", "false"])
def test_a_compiler_that_does_not_work_is_found_before_anything_is_written(root, tmp_path, compiler):
    run = subprocess.run(
        [sys.executable, "train.py", "--compile", "--checkpoint", tmp_path / "run.pt"],
        cwd=root,
        env=os.environ | {"CXX": compiler},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (2, "")
    (line,) = run.stderr.splitlines()
    assert re.match(r"train.py: --compile .* g\+\+, .* CXX", line)
    assert list(tmp_path.iterdir()) == []


def test_plot_without_matplotlib_is_refused_before_anything_is_written(fails, monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.startswith("ce_torch.chapter")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "--plot needs matplotlib" in fails("--plot", "--checkpoint", "run.pt")
    assert list(tmp_path.iterdir()) == []


def test_there_is_nothing_to_draw_of_a_run_without_an_epoch(fails, saved):
    changed(saved, lambda content: content["training"].update(history=[]))
    assert "none in saved.pt" in fails("--evaluate", saved.name, "--plot")


def test_ctrl_c_in_any_import_leaves_no_traceback(train, monkeypatch):
    def interrupted(data_dir, device):
        raise KeyboardInterrupt

    monkeypatch.setattr(mnist, "load", interrupted)
    assert train("--checkpoint", "run.pt") == (130, [], [])
