"""train.py as its users run it: what it prints, what it leaves, and what becomes of a run that is stopped."""

import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import time

import pytest
import torch

from ce_torch.training import checkpoint, mnist, report, settings
from ce_torch.training.loop import Training

# Real MNIST, in epochs long enough to be killed in and short enough for a test.
RUN = ("--epochs", 3, "--batch-size", 50)
LAST_LINE = (
    r"test accuracy (\d\d\.\d\d)% \((\d+)/10000\) after epoch \d+; "
    r"best validation accuracy \d\d\.\d\d% after epoch \d+, where test is \d\d\.\d\d%"
)
SHOW_OPENMP = {"OMP_DISPLAY_ENV": "verbose"}


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


def wait_for_epochs(epochs, path, process):
    """Wait until so many epochs are saved."""
    while (done := epochs_done(path)) is None or done < epochs:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


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
    assert [line for line in lines if line.startswith("epoch 1/1: ")] == lines[:1]


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


def test_a_killed_run_goes_on_to_the_weights_and_history_of_one_that_was_not(start, unbroken, tmp_path):
    path = tmp_path / "run.pt"
    process = start(*RUN, "--checkpoint", path)
    wait_for_epochs(1, path, process)
    process.kill()
    process.wait()
    finish(start("--resume", path))
    assert sorted(path.parent.iterdir()) == sorted([path, history_file(path)])
    assert_same_weights(path, unbroken[0])
    assert history_file(path).read_text() == history_file(unbroken[0]).read_text()


def test_ctrl_c_says_how_to_go_on_and_leaves_a_checkpoint_that_loads(start, tmp_path):
    path = tmp_path / "run.pt"
    process = start("--epochs", 1000, "--checkpoint", path)
    wait_for_epochs(1, path, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(err.splitlines()) == 1
    assert f"train.py --resume {path}" in err
    assert epochs_done(path) >= 1


@pytest.fixture
def stop_after(monkeypatch):
    """Have training stopped by Ctrl-C once so many epochs are done."""
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
    stop_after(1)
    (line,) = train("--epochs", 2, "--checkpoint", path, "--plot").err
    python, *flags = shlex.split(line.removeprefix("stopped after an epoch was saved; to go on: "))
    assert (python, flags) == ("python", ["train.py", "--resume", path, "--plot"])
    stop_after(2)
    assert train(*flags[1:]).code == 0


def test_ctrl_c_repeats_the_place_of_the_data_and_the_device(train, stop_after, other_data):
    folder, _ = other_data
    stop_after(1)
    (line,) = train("--data-dir", folder, "--device", "cpu", "--epochs", 2, "--checkpoint", "run.pt").err
    flags = shlex.split(line)[-6:]
    assert flags == ["--resume", "run.pt", "--data-dir", str(folder), "--device", "cpu"]
    stop_after(2)
    assert train(*flags).code == 0


def test_ctrl_c_before_the_first_epoch_of_a_resumed_run_says_how_to_go_on(train, stop_after):
    train("--epochs", 1, "--checkpoint", "run.pt")
    stop_after(1)
    (line,) = train("--resume", "run.pt", "--epochs", 2).err
    assert line == "stopped after an epoch was saved; to go on: python train.py --resume run.pt"


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_that_is_there_is_replaced_by_nothing_less(train, tmp_path, epochs):
    train("--epochs", epochs, "--checkpoint", "run.pt")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    outcome = train("--epochs", 2, "--checkpoint", "run.pt")
    assert outcome == (
        2,
        [],
        [
            "train.py: run.pt exists: to go on with it, --resume run.pt; to keep it, name another --checkpoint; to "
            "replace it, --overwrite"
        ],
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["run.history.json", "run.curves.png", "run.grid.png"])
def test_what_stands_beside_a_checkpoint_is_not_replaced_either(train, tmp_path, name):
    (tmp_path / name).write_text("mine")
    (line,) = train("--epochs", 1, "--checkpoint", "run.pt", "--plot").err
    assert line == f"train.py: {name} exists: to keep it, name another --checkpoint; to replace it, --overwrite"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_overwrite_replaces_a_run_by_another(train, tmp_path):
    train("--epochs", 2, "--checkpoint", "run.pt")
    assert train("--cost", "ll", "--epochs", 1, "--checkpoint", "run.pt", "--overwrite").code == 0
    run, state = checkpoint.load(tmp_path / "run.pt")
    assert (run["cost"], len(state["history"])) == ("ll", 1)
    assert json.loads((tmp_path / "run.history.json").read_text())["settings"] == run


def test_overwrite_leaves_the_old_run_until_an_epoch_of_the_new_one_is_saved(train, stop_after, tmp_path):
    train("--epochs", 2, "--checkpoint", "run.pt")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    stop_after(0)
    assert train("--checkpoint", "run.pt", "--overwrite").err == [NOTHING_SAVED]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_ctrl_c_after_an_epoch_that_overwrote_says_how_to_go_on(train, stop_after, tmp_path):
    train("--epochs", 2, "--checkpoint", "run.pt")
    stop_after(1)
    (line,) = train("--checkpoint", "run.pt", "--overwrite").err
    assert line == "stopped after an epoch was saved; to go on: python train.py --resume run.pt"
    assert epochs_done(tmp_path / "run.pt") == 1


@pytest.mark.parametrize(
    "flags", [("--checkpoint", "run.pt", "--overwrite"), ("--resume", "run.pt"), ("--resume", "link.pt")]
)
def test_a_second_run_at_one_place_is_refused(train, start, tmp_path, flags):
    path = tmp_path / "run.pt"
    (tmp_path / "link.pt").symlink_to(path)
    process = start(*RUN, "--epochs", 1_000, "--checkpoint", path)
    wait_for_epochs(1, path, process)
    (line,) = train(*flags).err
    assert "is being written by another run" in line
    assert train("--evaluate", path).code == 0
    process.kill()
    process.wait()
    assert train("--resume", path, "--epochs", epochs_done(path)).code == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.pt", "run.history.json", "run.pt"]


def test_a_checkpoint_that_is_a_link_stays_one_and_keeps_its_permissions(train, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "run.pt", tmp_path / "run.pt"
    train("--epochs", 1, "--checkpoint", target)
    target.chmod(0o640)
    link.symlink_to(target)
    assert train("--resume", link, "--epochs", 2).code == 0
    assert link.is_symlink()
    assert (epochs_done(target), target.stat().st_mode & 0o777) == (2, 0o640)


@pytest.fixture(scope="module")
def other_data(real_mnist, tmp_path_factory):
    """A folder with data that is not MNIST, inverted images of it, and the name of that data."""
    folder = tmp_path_factory.mktemp("other")
    raw = folder / mnist.RAW
    raw.mkdir(parents=True)
    for name, n in zip(mnist.FILES[::2], (60_000, 10_000), strict=True):
        images = (255 * (1 - real_mnist.test.x[:1_000])).round().byte().repeat(n // 1_000, 1)
        (raw / name).write_bytes(struct.pack(">4I", 0x803, n, 28, 28) + images.numpy().tobytes())
    for name, n in zip(mnist.FILES[1::2], (60_000, 10_000), strict=True):
        labels = real_mnist.test.y[:1_000].byte().repeat(n // 1_000)
        (raw / name).write_bytes(struct.pack(">2I", 0x801, n) + labels.numpy().tobytes())
    return folder, mnist.identify(mnist.load(folder))


def test_data_that_is_not_mnist_is_named_in_the_last_line_and_in_the_files(train, other_data, tmp_path):
    folder, name = other_data
    flags = ("--data-dir", folder, "--batch-size", 1_000)
    trained = train(*flags, "--epochs", 1, "--checkpoint", "run.pt", "--quiet")
    assert trained.out[-1].endswith(f"; {name}")
    assert re.search(r"; data [0-9a-f]{16}, not MNIST$", trained.out[-1])
    assert train("--evaluate", "run.pt", "--data-dir", folder).out == trained.out
    assert checkpoint.load(tmp_path / "run.pt")[0]["data"] == name
    assert json.loads((tmp_path / "run.history.json").read_text())["settings"]["data"] == name


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_a_run_goes_with_its_own_data_alone(train, other_data, tmp_path, flag):
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


def test_it_finds_mnist_from_any_folder_and_writes_to_the_current_one(root, tmp_path):
    command = [sys.executable, root / "train.py", "--epochs", "1", "--batch-size", "1000", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(LAST_LINE, done.stdout.strip())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert (tmp_path / "checkpoints" / "ce-30-batch_size1000-seed0.pt").exists()


def test_a_data_dir_is_looked_for_in_the_current_folder(train, other_data, tmp_path):
    folder, name = other_data
    (tmp_path / "mine").symlink_to(folder)
    outcome = train("--data-dir", "mine", "--batch-size", 1_000, "--epochs", 1, "--checkpoint", "run.pt")
    assert outcome.out[-1].endswith(name)


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
    assert [line for line in outcome.out if line.startswith("epoch")] == []
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


def test_the_last_line_chooses_an_epoch_on_validation_data():
    accuracies = [(0.90, 0.91), (0.95, 0.92), (0.94, 0.96)]
    history = [
        {"epoch": epoch, "validation": scores(on_validation), "test": scores(on_test)}
        for epoch, (on_validation, on_test) in enumerate(accuracies, start=1)
    ]
    assert report.summary(history[-1], settings.DEFAULTS | {"lr": 0.5}, history) == (
        "test accuracy 96.00% (9600/10000) after epoch 3; "
        "best validation accuracy 95.00% after epoch 2, where test is 92.00%"
    )


def scores(accuracy):
    return {"cost": 0.5, "accuracy": accuracy, "correct": round(10_000 * accuracy), "examples": 10_000}


def test_the_files_that_are_written_are_told(train, tmp_path):
    outcome = train("--epochs", 1, "--checkpoint", "folder/run.pt", "--plot")
    (line,) = [line for line in outcome.out if line.startswith("written: ")]
    places = line.removeprefix("written: ").split(", ")
    assert {tmp_path / place for place in places} == {*(tmp_path / "folder").iterdir()}


def test_early_stopping_is_told(train):
    outcome = train("--lr", 0, "--epochs", 9, "--early-stopping", 2, "--checkpoint", "run.pt")
    assert "stopped after epoch 3 of 9: validation accuracy has not risen for 2 epochs" in outcome.out


def test_early_stopping_stops_once_the_accuracy_has_not_risen(train, tmp_path):
    train("--lr", 0, "--epochs", 9, "--early-stopping", 2, "--checkpoint", "run.pt")
    assert epochs_done(tmp_path / "run.pt") == 3


def test_plot_writes_a_png(train, tmp_path):
    assert train("--epochs", 2, "--checkpoint", "run.pt", "--plot").code == 0
    assert (tmp_path / "run.curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_evaluate_draws_what_training_drew(train, tmp_path):
    train("--epochs", 2, "--checkpoint", "run.pt", "--plot")
    drawn = (tmp_path / "run.curves.png").rename(tmp_path / "drawn.png").read_bytes()
    outcome = train("--evaluate", "run.pt", "--plot")
    assert (outcome.code, outcome.out[0]) == (0, "written: run.curves.png")
    assert (tmp_path / "run.curves.png").read_bytes() == drawn


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
    assert sum(steps.__name__ == "descend" for steps in calls) == times


def test_a_run_is_named_after_its_settings(train, tmp_path):
    train("--cost", "ll", "--hidden", 20, 10, "--lmbda", 5, "--seed", 7, "--epochs", 1)
    assert (tmp_path / "checkpoints" / "ll-20-10-lmbda5.0-seed7.pt").exists()


def test_a_name_too_long_for_a_file_is_cut_and_still_its_own(train, tmp_path):
    rates = [0.01 * k for k in range(1, 61)]
    for last in (1, 2):
        assert train("--hidden", 1, "--lr", *rates, last, "--epochs", 1, "--batch-size", 1_000).code == 0
    names = [path.name for path in (tmp_path / "checkpoints").glob("*.pt")]
    assert len(names) == 2
    assert all(re.fullmatch(r"ce-1-batch_size1000-lr0\.01-0\.02-.*\d-etc-[0-9a-f]{8}\.pt", name) for name in names)


def test_a_network_of_many_layers_has_a_name_too(train):
    assert train("--hidden", *[5] * 200, "--epochs", 1, "--batch-size", 1_000).code == 0


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


DIVERGES = ("--cost", "ll", "--lr", 1e9, "--lmbda", 1e9, "--epochs", 5, "--checkpoint", "run.pt")


@pytest.mark.parametrize("runs", [1, 2])
def test_a_run_that_diverged_ends_with_code_1(train, runs):
    assert train(*DIVERGES, "--runs", runs).code == 1
    assert train("--evaluate", "run.pt").code == 1


def test_a_run_that_diverged_is_not_trained_on(train):
    outcome = train(*DIVERGES)
    assert "stopped after epoch 1 of 5: no weights are numbers any more" in outcome.out


def test_a_single_network_is_trained_on_one_thread(train, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    train("--epochs", 1, "--checkpoint", "run.pt")
    assert torch.get_num_threads() == 1


def test_large_mini_batches_are_trained_on_all_threads(train, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    train("--epochs", 1, "--batch-size", 1000, "--checkpoint", "run.pt")
    assert torch.get_num_threads() == 2


def test_omp_num_threads_is_obeyed(train, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    train("--epochs", 1, "--checkpoint", "run.pt")
    assert torch.get_num_threads() == 2


def test_threads_sleep_while_they_wait_for_one_another(root):
    run = subprocess.run(
        [sys.executable, "train.py", "--help"],
        cwd=root,
        env={name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | SHOW_OPENMP,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "GOMP_SPINCOUNT = '0'" in run.stderr


def test_runs_whose_names_hold_dots_keep_their_histories_apart(train, tmp_path):
    for lr in (0.25, 0.5):
        train("--lr", lr, "--epochs", 1, "--checkpoint", f"lr{lr}")
    assert len(list(tmp_path.glob("*.history.json"))) == 2


def test_a_checkpoint_of_before_there_were_many_runs_is_one_run(train, tmp_path):
    train("--epochs", 1, "--checkpoint", "run.pt")
    run, state = checkpoint.load(tmp_path / "run.pt")
    del run["runs"]
    checkpoint.save(tmp_path / "run.pt", run, state)
    assert train("--resume", "run.pt", "--epochs", 2).code == 0


def test_a_checkpoint_of_before_there_were_digests_loads_with_a_word_and_gets_one(train, tmp_path):
    train("--epochs", 1, "--checkpoint", "run.pt")
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    content["version"] = 1
    del content["settings"]["data"]
    torch.save(content, tmp_path / "run.pt")
    word = "run.pt is of an older format: damage in it cannot be seen, nor which data it was trained on; "
    word += "--resume writes it anew, with both"
    assert train("--evaluate", "run.pt").err == [word]
    outcome = train("--resume", "run.pt", "--epochs", 2)
    assert (outcome.code, outcome.err) == (0, [word])
    assert train("--evaluate", "run.pt") == (0, outcome.out[-1:], [])


def test_help_lists_the_flags(train, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        train("--help")
    assert {"--cost", "--resume", "--evaluate"} <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
