"""train.py in several processes, as torchrun starts them: networks shared out, or the mini-batches of one split."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ce_torch.training import checkpoint, distributed
from ce_torch.training.loop import Training

# Real MNIST, in mini-batches large enough for an epoch of a second.
GRID = ("--lr", 0.1, 0.5, "--runs", 2, "--batch-size", 100)
ALONE = ("--batch-size", 101)
IN_TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)


@pytest.fixture(scope="module")
def start(root):
    """Start train.py in processes of its own, which do not outlive the tests."""
    started = []

    def start(*flags, in_two=True):
        command = [sys.executable, *(IN_TWO if in_two else ()), "train.py", *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen([*map(str, command)], cwd=root, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.communicate()


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.splitlines()


@pytest.fixture(scope="module", params=[GRID, ALONE], ids=["networks", "mini-batches"])
def jobs(request, start, tmp_path_factory):
    """What two processes print and save of two epochs, and what one does."""
    folder = tmp_path_factory.mktemp("jobs")
    flags = *request.param, "--epochs", 2, "--checkpoint"
    paths = folder / "two.pt", folder / "one.pt"
    printed = [finish(start(*flags, path, in_two=in_two)) for path, in_two in zip(paths, (True, False), strict=True)]
    return paths, [[line for line in lines if not line.startswith("written: ")] for lines in printed]


def weights(path):
    return checkpoint.load(path)[1]["network"]


def assert_same_up_to_rounding(path, other):
    ours, theirs = weights(path), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-3)


def test_two_processes_train_what_one_does(jobs):
    (two, one), _ = jobs
    assert_same_up_to_rounding(two, one)


def test_two_processes_print_what_one_does(jobs):
    _, (of_two, of_one) = jobs
    without_figures = [[re.sub(r"\d+\.\d+", "", line) for line in lines] for lines in (of_two, of_one)]
    assert without_figures[0] == without_figures[1]


def test_a_checkpoint_of_two_processes_goes_on_in_one(jobs, start, tmp_path):
    (two, one), _ = jobs
    finish(start("--resume", two, "--epochs", 3, "--checkpoint", tmp_path / "a.pt", in_two=False))
    finish(start("--resume", one, "--epochs", 3, "--checkpoint", tmp_path / "b.pt"))
    assert_same_up_to_rounding(tmp_path / "a.pt", tmp_path / "b.pt")


def test_two_processes_evaluate_a_checkpoint_as_it_was_trained(jobs, start):
    (two, _), (of_two, _) = jobs
    after_two_epochs = of_two[2:]
    assert finish(start("--evaluate", two)) == after_two_epochs


def test_a_process_that_dies_ends_the_job_and_leaves_the_last_checkpoint_good(start, tmp_path):
    path = tmp_path / "run.pt"
    process = start("--runs", 2, "--batch-size", 100, "--epochs", 1000, "--checkpoint", path)
    while not path.exists() or not checkpoint.load(path)[1]["history"]:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    os.kill(process_of_rank(1, process), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"stopped after an epoch was saved; to go on: python train.py --resume {path}" in err.splitlines()
    run, state = checkpoint.load(path)
    assert state["history"]
    assert all(len(tensor) == run["runs"] for tensor in state["network"].values())


def process_of_rank(rank, torchrun):
    children = subprocess.run(["pgrep", "-P", str(torchrun.pid)], capture_output=True, text=True, check=True).stdout
    environments = {int(child): Path(f"/proc/{child}/environ").read_text().split("\0") for child in children.split()}
    (found,) = [child for child, environment in environments.items() if f"RANK={rank}" in environment]
    return found


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--compile",), "--compile goes with one process for one network, got 2; leave it out"),
        (("--resume", "nowhere.pt"), "nowhere.pt cannot be read"),
        (("--lr", "x"), "argument --lr: must be a number"),
        (("--checkpoint", "README.md/run.pt"), "README.md/run.pt cannot be written"),
    ],
    ids=["settings", "file-that-the-first-reads", "flag", "file-that-the-first-writes"],
)
def test_an_error_is_told_once_and_first(start, tmp_path, flags, message):
    process = start("--checkpoint", tmp_path / "run.pt", *flags)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert err.count(message) == 1
    ours = err.partition("torch/distributed/elastic")[0]  # where torchrun's own report begins
    assert [line.partition(message)[0] for line in ours.splitlines() if message in line] == ["train.py: "]
    assert "Traceback" not in ours
    assert list(tmp_path.iterdir()) == []


TELL_BESIDE_TORCHRUN = """
import os, signal, sys
from ce_torch.training import distributed

class EndedWhileItSpeaks:
    def write(self, text):
        os.kill(os.getpid(), signal.SIGTERM)
        sys.__stderr__.write(text)

    def flush(self):
        sys.__stderr__.flush()

sys.stderr = EndedWhileItSpeaks()
distributed.report_error("the reason")
"""


def test_a_process_that_torchrun_ends_tells_its_error_first(root, tmp_path):
    (tmp_path / "0").mkdir()
    environment = os.environ | {"TORCHELASTIC_ERROR_FILE": str(tmp_path / "0" / "error.json")}
    command = [sys.executable, "-c", TELL_BESIDE_TORCHRUN]
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert run.stderr == "-c: the reason\n"


def test_of_the_processes_of_a_job_the_first_to_fail_tells_why(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(distributed, "ignore_end_signals", lambda: None)
    for process in ("1", "0"):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / process / "error.json"))
        distributed.report_error(f"what process {process} has to say")
    assert capsys.readouterr().err.endswith(": what process 1 has to say\n")


def test_an_error_is_told_where_nobody_can_note_that_it_was(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(distributed, "ignore_end_signals", lambda: None)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "gone" / "0" / "error.json"))
    distributed.report_error("the reason")
    assert capsys.readouterr().err.endswith(": the reason\n")


@pytest.fixture
def job_of_two(monkeypatch):
    """This process as the first of a job, of which the other is silent."""
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed.distributed, "broadcast_object_list", lambda found: None)


def test_what_the_first_process_cannot_find_is_an_error_in_all(job_of_two, monkeypatch):
    def nothing():
        raise FileNotFoundError("nowhere.pt")

    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        distributed.share_from_first(nothing)
    # The others find what the first has sent them.
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    sent = FileNotFoundError("nowhere.pt")
    monkeypatch.setattr(distributed.distributed, "broadcast_object_list", lambda found: found.insert(0, sent))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        distributed.share_from_first(nothing)


@pytest.mark.parametrize(("n", "processes"), [(1, 1), (5, 2), (20, 3), (64, 64), (1000, 7)])
def test_shares_hold_every_network_once_and_differ_by_one_at_most(n, processes, monkeypatch):
    monkeypatch.setattr(distributed, "processes", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(range(n)[distributed.own_part(n)])
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_processes_than_networks_are_refused(train, monkeypatch):
    monkeypatch.setattr(distributed, "processes", lambda: 3)
    monkeypatch.setattr(distributed, "share_from_first", lambda find: find())
    outcome = train("--runs", 2)
    assert outcome.code == 2
    assert outcome.err == ["train.py: 2 networks cannot be shared out over 3 processes; start 2 at most"]


def test_processes_with_other_data_than_the_first_are_refused(train, monkeypatch):
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "share_from_first", lambda find: "data 0123456789abcdef, not MNIST")
    outcome = train("--checkpoint", "run.pt")
    assert outcome.code == 2
    assert outcome.err == [
        "train.py: the first process trains on data 0123456789abcdef, not MNIST, got MNIST; name the folder of its "
        "data by --data-dir"
    ]


def test_what_gloo_says_of_a_lost_process_is_told_with_how_to_go_on(train, monkeypatch, tmp_path):
    def lose_a_process(training):
        if training.history:
            with distributed.exchange():
                raise RuntimeError("Connection closed by peer\nand much more")
        return []

    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed, "share_from_first", lambda find: find())
    monkeypatch.setattr(Training, "chunks", lose_a_process)
    outcome = train("--checkpoint", "run.pt")
    assert outcome.code == 130
    assert outcome.err == [
        "train.py: another process is lost (Connection closed by peer)",
        "stopped after an epoch was saved; to go on: python train.py --resume run.pt",
    ]
    assert len(checkpoint.load(tmp_path / "run.pt")[1]["history"]) == 1
