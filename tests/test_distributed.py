"""train.py in several processes, as torchrun starts them: networks shared out, or the mini-batches of one split."""

import re
import subprocess
import sys
import time

import pytest
import torch

from ce_torch import checkpoint, distributed
from ce_torch.training import Training

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
    return paths, [
        finish(start(*flags, path, in_two=in_two)) for path, in_two in zip(paths, (True, False), strict=True)
    ]


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
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    subprocess.run(["kill", "-KILL", children.split()[-1]], check=True)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"stopped after an epoch was saved; to go on: python train.py --resume {path}" in err.splitlines()
    run, state = checkpoint.load(path)
    assert state["history"]
    assert all(len(tensor) == run["runs"] for tensor in state["network"].values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--compile",), "--compile goes with one process for one network, got 2; leave it out"),
        (("--resume", "nowhere.pt"), "nowhere.pt cannot be read"),
    ],
)
def test_an_error_is_told_once(start, tmp_path, flags, message):
    process = start(*flags, "--checkpoint", tmp_path / "run.pt")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    told = [line for line in err.splitlines() if line.startswith("train.py: ")]
    assert len(told) == 1
    assert message in told[0]
    assert not (tmp_path / "run.pt").exists()


@pytest.mark.parametrize(("n", "processes"), [(1, 1), (5, 2), (20, 3), (64, 64), (1000, 7)])
def test_shares_hold_every_network_once_and_differ_by_one_at_most(n, processes, monkeypatch):
    monkeypatch.setattr(distributed, "processes", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(range(n)[distributed.share(n)])
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_processes_than_networks_are_refused(train, monkeypatch):
    monkeypatch.setattr(distributed, "processes", lambda: 3)
    monkeypatch.setattr(distributed, "from_first", lambda find: find())
    outcome = train("--runs", 2)
    assert outcome.code == 2
    assert outcome.err == ["train.py: 2 networks cannot be shared out over 3 processes; start 2 at most"]


def test_processes_with_other_data_than_the_first_are_refused(train, monkeypatch):
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "from_first", lambda find: "data 0123456789abcdef, not MNIST")
    outcome = train("--checkpoint", "run.pt")
    assert outcome.code == 2
    assert outcome.err == [
        "train.py: the first process trains on data 0123456789abcdef, not MNIST, got MNIST; name the folder of its "
        "data by --data-dir"
    ]


def test_what_gloo_says_of_a_lost_process_is_told_with_how_to_go_on(train, monkeypatch, tmp_path):
    def lose_a_process(training):
        if training.history:
            raise RuntimeError("Connection closed by peer\nand much more")

    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed, "from_first", lambda find: find())
    monkeypatch.setattr(Training, "train_one_epoch", lose_a_process)
    outcome = train("--checkpoint", "run.pt")
    assert outcome.code == 130
    assert outcome.err == [
        "train.py: Connection closed by peer",
        "stopped after an epoch was saved; to go on: python train.py --resume run.pt",
    ]
    assert len(checkpoint.load(tmp_path / "run.pt")[1]["history"]) == 1
