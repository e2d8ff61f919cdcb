"""train.py in several processes, as torchrun starts them: networks shared out, or the mini-batches of one split."""

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
    # Of six networks the second process has three of other seeds than the first.
    "networks": ("--lr", 0.1, 0.2, 0.5, "--runs", 2, "--batch-size", 100),
    "mini-batches": ("--batch-size", 101),
}
END_OF_RUN = "-" * 10


@pytest.fixture(scope="module")
def run_alone(program, slice_of_mnist):
    """train.py as a function of its flags, in this process and on the slice of MNIST; it returns what is printed."""
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
    """A folder with what one process and two save of each kind of run, and all that they print.

    Two epochs are in one.pt and two.pt, a third in one-on.pt, which two processes make of one.pt, and in two-on.pt.
    """
    folder = tmp_path_factory.mktemp("jobs")
    alone, commands = {}, []
    for kind, flags in KINDS.items():
        (folder / kind).mkdir()
        one, two, one_on = (folder / kind / f"{name}.pt" for name in ("one", "two", "one-on"))
        alone[kind] = run_alone(*flags, "--epochs", 2, "--checkpoint", one)
        commands += [*flags, "--epochs", 2, "--checkpoint", two, ","]
        commands += ["--resume", one, "--epochs", 3, "--checkpoint", one_on, ",", "--evaluate", two, ","]
    lines = iter(finish(start_on_slice(*commands, in_two=True)))
    printed = {}
    for kind in KINDS:
        trained, _, evaluated = ([*iter(lambda: next(lines), END_OF_RUN)] for _ in range(3))
        printed[kind] = {"one": alone[kind], "two": trained, "evaluated": evaluated}
        two, two_on = (folder / kind / f"{name}.pt" for name in ("two", "two-on"))
        run_alone("--resume", two, "--epochs", 3, "--checkpoint", two_on)
    return folder, printed


def without_figures(lines):
    return [re.sub(r"\d+\.\d+", "", line) for line in lines if not line.startswith("written: ")]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_what_one_does(jobs, assert_weights, kind):
    folder, _ = jobs
    assert_weights(folder / kind / "two.pt", folder / kind / "one.pt", up_to=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_print_what_one_does(jobs, kind):
    _, printed = jobs
    assert len(printed[kind]["one"]) > 3
    assert without_figures(printed[kind]["two"]) == without_figures(printed[kind]["one"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_two_processes_goes_on_in_one_and_the_other_way_round(jobs, assert_weights, epochs_done, kind):
    folder, _ = jobs
    assert epochs_done(folder / kind / "one-on.pt") == 3
    assert_weights(folder / kind / "two-on.pt", folder / kind / "one-on.pt", up_to=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_evaluate_a_checkpoint_as_it_was_trained(jobs, kind):
    _, printed = jobs
    after_two_epochs = [line for line in printed[kind]["two"][2:] if not line.startswith("written: ")]
    assert printed[kind]["evaluated"] == after_two_epochs


@pytest.mark.slow
def test_two_processes_end_as_one_does(start_on_slice, finish, tmp_path, epochs_done):
    path = tmp_path / "run.pt"
    (line,) = finish(start_on_slice("--runs", 2, "--epochs", 1, "--checkpoint", path, "--quiet", in_two=True))
    assert line.startswith("test accuracy ")
    assert epochs_done(path) == 1


def test_a_process_that_dies_ends_the_job_and_leaves_the_last_checkpoint_good(start_on_slice, tmp_path):
    path = tmp_path / "run.pt"
    job = start_on_slice("--runs", 2, "--epochs", 1_000_000, "--checkpoint", path, in_two=True)
    second = next(number for line in job.stderr for number in re.findall(r"^rank 1 is process (\d+)$", line))
    assert job.stdout.readline().startswith("epoch 1/")  # which is saved by then
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
def test_an_error_is_told_once_and_first(start_on_slice, tmp_path, flags, message):
    job = start_on_slice("--checkpoint", tmp_path / "run.pt", *flags, in_two=True)
    out, err = job.communicate()
    assert (job.returncode, out) == (1, "")
    assert err.count(message) == 1
    ours = err.partition("torch/distributed/elastic")[0]  # where torchrun's own report begins
    assert [line.partition(message)[0] for line in ours.splitlines() if message in line] == ["train.py: "]
    assert "Traceback" not in ours
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_on_mnist_what_one_does(start, finish, assert_weights, tmp_path, kind):
    for path, words in (
        ("one.pt", ()),
        ("two.pt", ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)),
    ):
        finish(start(*words, "train.py", *KINDS[kind], "--epochs", 2, "--checkpoint", tmp_path / path))
    assert_weights(tmp_path / "two.pt", tmp_path / "one.pt", up_to=1e-3)


@pytest.fixture
def endings_raise():
    """Have the signals by which torchrun ends a process raise an error in this one."""

    def fail(number, frame):
        raise AssertionError(f"ended by signal {number}")

    before = {ending: signal.signal(ending, fail) for ending in distributed.END_SIGNALS}
    yield
    for ending, handler in before.items():
        signal.signal(ending, handler)


@pytest.mark.usefixtures("endings_raise")
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_torchrun_ends_tells_its_error_first(monkeypatch, tmp_path, ending):
    told = []

    class EndedWhileItSpeaks:
        def write(self, text):
            os.kill(os.getpid(), ending)
            told.append(text)

        def flush(self):
            pass

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "0" / "error.json"))
    monkeypatch.setattr(sys, "stderr", EndedWhileItSpeaks())
    distributed.report_error("the reason")
    assert "".join(told).endswith(": the reason\n")


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


def test_of_networks_that_have_stalled_each_process_holds_its_own_back():
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
