"""Test train.py in several processes that torchrun starts: they share networks, or the mini-batches of one network."""

import os
import re
import signal
import sys
from contextlib import redirect_stdout
from io import StringIO

import pytest
import torch

from ce_torch import CrossEntropyCost
from ce_torch.training import checkpoint, distributed
from ce_torch.training.loop import Training
from ce_torch.training.network import MLPs

KINDS = {
    # The second process has three of six networks, with other learning rates and seeds than the first.
    "networks": ("--lr", 0.1, 0.2, 0.5, "--runs", 2, "--batch-size", 100),
    "mini-batches": ("--batch-size", 101),
}
END_OF_RUN = "-" * 10


@pytest.fixture(scope="module")
def run_alone(program, slice_of_mnist):
    """Run train.py with flags, in this process and on the slice of MNIST, and return the lines that it prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ce_torch.training.mnist.load", lambda *_: slice_of_mnist)
        patch.setattr("ce_torch.training.mnist.identify", lambda _: "MNIST")

        def run_alone(*flags):
            patch.setattr(sys, "argv", ["train.py", *map(str, flags)])
            with redirect_stdout(StringIO()) as out:
                assert program.main() == 0
            return out.getvalue().splitlines()

        yield run_alone


@pytest.fixture(scope="module")
def jobs(run_alone, start_on_slice, finish, tmp_path_factory):
    """A folder with the checkpoints of each kind of run, in one process and in two, and all that they print.

    One process writes two epochs to one.pt, two processes write two epochs to two.pt. Two processes resume one.pt for a
    third epoch in one-resumed.pt; one process resumes two.pt in two-resumed.pt.
    """
    folder = tmp_path_factory.mktemp("jobs")
    alone, commands = {}, []
    for kind, flags in KINDS.items():
        (folder / kind).mkdir()
        one, two, one_resumed = (folder / kind / f"{name}.pt" for name in ("one", "two", "one-resumed"))
        alone[kind] = run_alone(*flags, "--epochs", 2, "--checkpoint", one)
        commands += [*flags, "--epochs", 2, "--checkpoint", two, ","]
        commands += ["--resume", one, "--epochs", 3, "--checkpoint", one_resumed, ",", "--evaluate", two, ","]
    lines = iter(finish(start_on_slice(*commands, two_processes=True)))
    printed = {}
    for kind in KINDS:
        trained, _, evaluated = ([*iter(lambda: next(lines), END_OF_RUN)] for _ in range(3))
        printed[kind] = {"one": alone[kind], "two": trained, "evaluated": evaluated}
        two, two_resumed = (folder / kind / f"{name}.pt" for name in ("two", "two-resumed"))
        run_alone("--resume", two, "--epochs", 3, "--checkpoint", two_resumed)
    return folder, printed


def remove_figures(lines):
    return [re.sub(r"\d+\.\d+", "", line) for line in lines if not line.startswith("written: ")]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_the_same_weights_as_one(jobs, assert_weights, kind):
    folder, _ = jobs
    assert_weights(folder / kind / "two.pt", folder / kind / "one.pt", tolerance=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_print_the_same_lines_as_one(jobs, kind):
    _, printed = jobs
    assert len(printed[kind]["one"]) > 3
    assert remove_figures(printed[kind]["two"]) == remove_figures(printed[kind]["one"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_two_processes_resumes_in_one_and_vice_versa(jobs, assert_weights, epochs_done, kind):
    folder, _ = jobs
    assert epochs_done(folder / kind / "one-resumed.pt") == 3
    assert_weights(folder / kind / "two-resumed.pt", folder / kind / "one-resumed.pt", tolerance=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_evaluate_a_checkpoint_as_it_was_trained(jobs, kind):
    _, printed = jobs
    after_two_epochs = [line for line in printed[kind]["two"][2:] if not line.startswith("written: ")]
    assert printed[kind]["evaluated"] == after_two_epochs


@pytest.mark.slow
def test_two_processes_end_as_one_does(start_on_slice, finish, tmp_path, epochs_done):
    path = tmp_path / "run.pt"
    (line,) = finish(start_on_slice("--runs", 2, "--epochs", 1, "--checkpoint", path, "--quiet", two_processes=True))
    assert line.startswith("test accuracy ")
    assert epochs_done(path) == 1


def test_a_process_that_dies_ends_the_job_and_leaves_the_last_checkpoint_good(start_on_slice, tmp_path):
    path = tmp_path / "run.pt"
    job = start_on_slice("--runs", 2, "--epochs", 1_000_000, "--checkpoint", path, two_processes=True)
    second = next(number for line in job.stderr for number in re.findall(r"rank 1 is process (\d+)$", line))
    assert job.stdout.readline().startswith("epoch 1/")  # this epoch is saved by then
    os.kill(int(second), signal.SIGKILL)
    _, err = job.communicate()
    assert job.returncode != 0
    assert f"stopped after an epoch was saved; to go on: python train.py --resume {path}" in err.splitlines()
    run, state = checkpoint.load(path)
    assert state["history"]
    assert all(len(tensor) == run["runs"] for tensor in state["network"].values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(
            ("--compile",), "--compile goes with one process for one network", id="settings", marks=pytest.mark.slow
        ),
        pytest.param(("--resume", "nowhere.pt"), "nowhere.pt cannot be read", id="file-that-the-first-reads"),
        pytest.param(("--lr", "x"), "argument --lr: must be a number", id="flag", marks=pytest.mark.slow),
        pytest.param(
            ("--checkpoint", "README.md/run.pt"),
            "README.md/run.pt cannot be written",
            id="file-that-the-first-writes",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_error_is_reported_once_and_first(start_on_slice, tmp_path, flags, message):
    job = start_on_slice("--checkpoint", tmp_path / "run.pt", *flags, two_processes=True)
    out, err = job.communicate()
    assert (job.returncode, out) == (1, "")
    assert err.count(message) == 1
    ours = err.partition("torch/distributed/elastic")[0]  # where torchrun's own report begins
    assert [line.partition(message)[0] for line in ours.splitlines() if message in line] == ["train.py: "]
    assert "Traceback" not in ours
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_the_same_weights_on_mnist_as_one(start, finish, assert_weights, tmp_path, kind):
    for path, words in (
        ("one.pt", ()),
        ("two.pt", ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)),
    ):
        finish(start(*words, "train.py", *KINDS[kind], "--epochs", 2, "--checkpoint", tmp_path / path))
    assert_weights(tmp_path / "two.pt", tmp_path / "one.pt", tolerance=1e-3)


@pytest.fixture
def endings_raise():
    """Let the signals by which torchrun ends a process raise an error in this one."""

    def fail(number, frame):
        raise AssertionError(f"ended by signal {number}")

    before = {ending: signal.signal(ending, fail) for ending in distributed.END_SIGNALS}
    yield
    for ending, handler in before.items():
        signal.signal(ending, handler)


@pytest.mark.usefixtures("endings_raise")
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_torchrun_ends_reports_its_error_first(monkeypatch, tmp_path, ending):
    written = []

    class InterruptedStream:
        def write(self, text):
            os.kill(os.getpid(), ending)
            written.append(text)

        def flush(self):
            pass

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "0" / "error.json"))
    monkeypatch.setattr(sys, "stderr", InterruptedStream())
    distributed.report_error("the reason")
    assert "".join(written).endswith(": the reason\n")


def test_only_the_first_process_of_a_job_to_fail_reports_its_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(distributed, "ignore_end_signals", lambda: None)
    for process in ("1", "0"):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / process / "error.json"))
        distributed.report_error(f"what process {process} has to say")
    assert capsys.readouterr().err.endswith(": what process 1 has to say\n")


def test_an_error_is_reported_even_if_no_process_can_note_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(distributed, "ignore_end_signals", lambda: None)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "gone" / "0" / "error.json"))
    distributed.report_error("the reason")
    assert capsys.readouterr().err.endswith(": the reason\n")


@pytest.fixture
def job_of_two(monkeypatch):
    """Make this process the first of two; the other is silent."""
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed.distributed, "broadcast_object_list", lambda found: None)


def test_an_error_of_the_first_process_is_raised_in_all(job_of_two, monkeypatch):
    def nothing():
        raise FileNotFoundError("nowhere.pt")

    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        distributed.share_from_first(nothing)
    # The others receive what the first has sent.
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    sent = FileNotFoundError("nowhere.pt")
    monkeypatch.setattr(distributed.distributed, "broadcast_object_list", lambda found: found.insert(0, sent))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        distributed.share_from_first(nothing)


@pytest.mark.parametrize(("n", "processes"), [(1, 1), (5, 2), (20, 3), (64, 64), (1000, 7)])
def test_parts_hold_every_network_once_and_their_sizes_differ_by_one_at_most(n, processes, monkeypatch):
    monkeypatch.setattr(distributed, "processes", lambda: processes)
    parts = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(range(n)[distributed.own_part(n)])
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_each_process_stops_its_own_stalled_networks():
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    x, y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    networks = MLPs([3, 2], generators=generators)
    second = slice(2, 4)
    training = distributed.NetworkParallel(
        networks, CrossEntropyCost(), x, y, lr=0.5, generator=generators, part=second
    )
    training.set_rates([False, False, True, False])
    assert training.eta.flatten().tolist() == [0, 0.5]


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


def test_a_lost_process_is_reported_with_how_to_go_on(train, monkeypatch, tmp_path):
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
