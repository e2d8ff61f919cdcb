"""train.py as its users run it: what it prints, what it leaves, and what becomes of a run that is stopped."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from ce_torch import checkpoint
from ce_torch.training import Training

# Real MNIST, in epochs long enough to be killed in and short enough for a test.
RUN = ("--epochs", 3, "--batch-size", 50)
LAST_LINE = r"test accuracy (\d\d\.\d\d)% \((\d+)/10000\), best \d\d\.\d\d% after epoch \d+"


@pytest.fixture(scope="module")
def start(root):
    """Start train.py in a process of its own, which does not outlive the tests."""
    processes = []

    def start(*flags):
        # What pytest ignores, its children would ignore: Ctrl-C, where a shell runs pytest in the background.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            [sys.executable, "train.py", *map(str, flags)],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        signal.signal(signal.SIGINT, handler)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.splitlines()


def epochs_done(path):
    """The epochs in a checkpoint, which is whole at every moment; None if there is none yet."""
    return len(checkpoint.load(path)[1]["history"]) if path.exists() else None


def wait_for_epoch_after(epochs, path, process):
    """Wait until so many epochs are saved and the next is running."""
    while (done := epochs_done(path)) is None or done < epochs:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    time.sleep(0.1)


def weights(path):
    return checkpoint.load(path)[1]["network"]


def history_file(path):
    return path.with_suffix(".history.json")


def assert_same_weights(path, other):
    ours, theirs = weights(path), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def one_epoch(start, tmp_path_factory):
    """The checkpoint and the lines of the chapter's run, one epoch long."""
    path = tmp_path_factory.mktemp("one_epoch") / "run.pt"
    return path, finish(start("--cost", "ce", "--epochs", 1, "--checkpoint", path))


@pytest.fixture(scope="module")
def unbroken(start, tmp_path_factory):
    """The checkpoints of two runs that are the same and that nothing stopped."""
    paths = [tmp_path_factory.mktemp("unbroken") / "run.pt" for _ in range(2)]
    for process in [start(*RUN, "--checkpoint", path) for path in paths]:
        finish(process)
    return paths


def test_an_epoch_is_shown_as_a_line(one_epoch):
    _, lines = one_epoch
    assert [line for line in lines if line.startswith("epoch 1/1: ")] == lines[:-1]


def test_the_last_line_is_the_test_accuracy(one_epoch):
    _, lines = one_epoch
    percent, correct = re.fullmatch(LAST_LINE, lines[-1]).groups()
    assert float(percent) == int(correct) / 100


def test_one_epoch_of_the_chapters_run_recognizes_nine_digits_of_ten(one_epoch):
    _, lines = one_epoch
    assert float(re.fullmatch(LAST_LINE, lines[-1])[1]) > 90


def test_a_run_leaves_its_checkpoint_and_its_history_and_nothing_else(one_epoch):
    path, _ = one_epoch
    assert sorted(path.parent.iterdir()) == sorted([path, history_file(path)])


def test_the_history_is_the_checkpoints_as_json(one_epoch):
    path, _ = one_epoch
    settings, state = checkpoint.load(path)
    assert json.loads(history_file(path).read_text()) == {"settings": settings, "history": state["history"]}


def test_the_same_seed_gives_the_same_weights_bit_for_bit(unbroken):
    assert_same_weights(*unbroken)


@pytest.mark.parametrize("epochs", [0, 1], ids=["before-the-first-epoch-is-done", "in-a-later-epoch"])
def test_a_killed_run_goes_on_to_the_weights_and_history_of_one_that_was_not(epochs, start, unbroken, tmp_path):
    path = tmp_path / "run.pt"
    process = start(*RUN, "--checkpoint", path)
    wait_for_epoch_after(epochs, path, process)
    process.kill()
    process.wait()
    assert epochs <= epochs_done(path) < 3
    finish(start("--resume", path))
    assert_same_weights(path, unbroken[0])
    assert history_file(path).read_text() == history_file(unbroken[0]).read_text()


def test_ctrl_c_says_how_to_go_on_and_leaves_a_checkpoint_that_loads(start, tmp_path):
    path = tmp_path / "run.pt"
    process = start(*RUN, "--checkpoint", path)
    wait_for_epoch_after(1, path, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(err.splitlines()) == 1
    assert f"train.py --resume {path}" in err
    assert 1 <= epochs_done(path) < 3


def test_ctrl_c_in_the_first_epoch_leaves_a_checkpoint_too(train, monkeypatch, tmp_path):
    def interrupted(training):
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "train_one_epoch", interrupted)
    assert train("--checkpoint", "run.pt").code == 130
    assert epochs_done(tmp_path / "run.pt") == 0


def test_another_seed_gives_other_weights(train, tmp_path):
    for seed in (0, 1):
        train("--seed", seed, "--epochs", 1, "--checkpoint", f"{seed}.pt")
    first, second = weights(tmp_path / "0.pt"), weights(tmp_path / "1.pt")
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_evaluate_prints_the_last_line_of_training(train):
    trained = train("--epochs", 2, "--checkpoint", "run.pt")
    assert train("--evaluate", "run.pt") == (0, trained.out[-1:], [])


def test_evaluate_leaves_the_files_as_they_are(train, tmp_path):
    train("--epochs", 1, "--checkpoint", "run.pt")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    train("--evaluate", "run.pt", "--epochs", 2)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_quiet_prints_only_the_last_line(train):
    loud = train("--epochs", 2, "--checkpoint", "loud.pt")
    assert train("--epochs", 2, "--checkpoint", "quiet.pt", "--quiet") == (0, loud.out[-1:], [])


def test_on_a_terminal_the_epochs_are_a_bar_beside_the_output(train, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    outcome = train("--epochs", 2, "--checkpoint", "run.pt")
    assert len(outcome.out) == 1
    assert "2/2" in outcome.err[-1]


@pytest.mark.parametrize("cost", ["quadratic", "ce", "ll"])
def test_every_cost_learns(train, cost):
    outcome = train("--cost", cost, "--epochs", 3, "--checkpoint", "run.pt")
    (accuracy,) = re.findall(r"^test accuracy (\S+)%", outcome.out[-1])
    assert float(accuracy) > 50


def test_hidden_gives_the_hidden_layers(train, tmp_path):
    assert train("--hidden", 20, 10, "--epochs", 1, "--checkpoint", "run.pt").code == 0
    shapes = [tuple(tensor.shape) for tensor in weights(tmp_path / "run.pt").values() if tensor.ndim == 2]
    assert shapes == [(20, 784), (10, 20), (10, 10)]


def test_early_stopping_stops_once_the_accuracy_has_not_risen(train, tmp_path):
    train("--lr", 0, "--epochs", 9, "--early-stopping", 2, "--checkpoint", "run.pt")
    assert epochs_done(tmp_path / "run.pt") == 3


def test_plot_writes_a_png(train, tmp_path):
    assert train("--epochs", 2, "--checkpoint", "run.pt", "--plot").code == 0
    assert (tmp_path / "run.curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_compile_trains_to_nearly_the_same_weights(train, tmp_path):
    flags = ("--epochs", 1, "--batch-size", 20)
    assert train(*flags, "--checkpoint", "plain.pt").code == 0
    assert train(*flags, "--checkpoint", "compiled.pt", "--compile").code == 0
    plain, compiled = weights(tmp_path / "plain.pt"), weights(tmp_path / "compiled.pt")
    torch.testing.assert_close(compiled, plain, rtol=0, atol=0.01)


@pytest.mark.parametrize(("flags", "times"), [([], 0), (["--compile"], 1)])
def test_the_step_is_compiled_where_compile_says_so(train, monkeypatch, flags, times):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda steps, **_: calls.append(steps) or steps)
    train("--epochs", 1, "--checkpoint", "run.pt", *flags)
    assert len(calls) == times


def test_a_run_is_named_after_its_settings(train, tmp_path):
    train("--cost", "ll", "--hidden", 20, 10, "--lmbda", 5, "--seed", 7, "--epochs", 1)
    assert (tmp_path / "checkpoints" / "ll-20-10-lmbda5.0-seed7.pt").exists()


def test_a_finished_run_goes_on_for_more_epochs(train, tmp_path):
    train("--epochs", 3, "--checkpoint", "long.pt")
    train("--epochs", 1, "--checkpoint", "short.pt")
    train("--resume", "short.pt", "--epochs", 3)
    assert_same_weights(tmp_path / "short.pt", tmp_path / "long.pt")


def test_resume_with_another_checkpoint_leaves_the_first_as_it_is(train, tmp_path):
    train("--epochs", 1, "--checkpoint", "run.pt")
    before = (tmp_path / "run.pt").read_bytes()
    train("--resume", "run.pt", "--epochs", 2, "--checkpoint", "longer.pt")
    assert (tmp_path / "run.pt").read_bytes() == before
    assert epochs_done(tmp_path / "longer.pt") == 2


def test_flags_that_agree_with_the_checkpoint_may_be_repeated(train):
    train("--lr", 0.25, "--hidden", 20, "--epochs", 1, "--checkpoint", "run.pt")
    assert train("--resume", "run.pt", "--lr", 0.25, "--hidden", 20).code == 0


def test_the_history_of_a_run_that_diverged_is_still_json(train, tmp_path):
    train("--cost", "ll", "--lr", 1e9, "--lmbda", 1e9, "--epochs", 1, "--checkpoint", "run.pt")
    history = json.loads((tmp_path / "run.history.json").read_text(), parse_constant=pytest.fail)["history"]
    assert history[0]["test"]["cost"] is None


def test_runs_whose_names_hold_dots_keep_their_histories_apart(train, tmp_path):
    for lr in (0.25, 0.5):
        train("--lr", lr, "--epochs", 1, "--checkpoint", f"lr{lr}")
    assert len(list(tmp_path.glob("*.history.json"))) == 2


def test_a_checkpoint_of_before_there_were_many_runs_is_one_run(train, tmp_path):
    train("--epochs", 1, "--checkpoint", "run.pt")
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    del saved["settings"]["runs"]
    torch.save(saved, tmp_path / "run.pt")
    assert train("--resume", "run.pt", "--epochs", 2).code == 0


def test_help_lists_the_flags(train, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        train("--help")
    assert {"--cost", "--resume", "--evaluate"} <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
