"""Test train.py as users start it: in any folder, stopped by Ctrl-C, killed, beside another run, without a compiler."""

import os
import re
import signal

import pytest

MNIST_LINE = (
    r"test accuracy (\d\d\.\d\d)% \((\d+)/10000\) after epoch 1; "
    r"best validation accuracy \d\d\.\d\d% after epoch 1, where test is \d\d\.\d\d%"
)


@pytest.fixture(scope="module")
def one_epoch(root, start, finish, tmp_path_factory):
    """The folder and the lines of one epoch of the chapter's run, on all of MNIST, from a folder without MNIST."""
    folder = tmp_path_factory.mktemp("one_epoch")
    return folder, finish(start(root / "train.py", "--epochs", 1, cwd=folder))


def test_an_epoch_is_shown_as_a_line(one_epoch):
    _, lines = one_epoch
    assert [line for line in lines if line.startswith("epoch 1/1: ")] == lines[:1]


def test_the_last_line_is_the_test_accuracy(one_epoch):
    _, lines = one_epoch
    percent, correct = re.fullmatch(MNIST_LINE, lines[-1]).groups()
    assert float(percent) == int(correct) / 100


def test_one_epoch_of_the_chapters_run_recognizes_nine_digits_of_ten(one_epoch):
    _, lines = one_epoch
    assert float(re.fullmatch(MNIST_LINE, lines[-1])[1]) > 90


def test_a_run_leaves_only_its_checkpoint_and_history_in_the_current_folder(one_epoch):
    folder, _ = one_epoch
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {"checkpoints/ce-30-seed0.pt", "checkpoints/ce-30-seed0.history.json"}


@pytest.fixture
def endless(start_on_slice, tmp_path):
    """A run of very many epochs, once the first is saved, and the path of its checkpoint."""
    path = tmp_path / "run.pt"
    process = start_on_slice("--epochs", 1_000_000, "--checkpoint", path)
    assert process.stdout.readline().startswith("epoch 1/"), process.communicate()[1]
    return process, path


def test_a_killed_run_resumes_to_the_weights_of_an_unbroken_one(endless, train, epochs_done, assert_weights, tmp_path):
    process, path = endless
    process.kill()
    process.wait()
    epochs = epochs_done(path) + 1
    assert train("--resume", path, "--epochs", epochs).code == 0
    assert train("--epochs", epochs, "--checkpoint", "unbroken.pt").code == 0
    assert_weights(path, tmp_path / "unbroken.pt")
    histories = [(tmp_path / f"{name}.history.json").read_text() for name in ("run", "unbroken")]
    assert histories[0] == histories[1]
    assert len(list(tmp_path.iterdir())) == 4


def test_ctrl_c_says_how_to_go_on_and_leaves_a_checkpoint_that_loads(endless, epochs_done):
    process, path = endless
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == f"stopped after an epoch was saved; to go on: python train.py --resume {path}\n"
    assert epochs_done(path) >= 1


def test_a_second_run_at_the_same_place_is_refused(endless, train, tmp_path):
    process, path = endless
    (tmp_path / "link.pt").symlink_to(path)
    for flags in (("--checkpoint", "run.pt", "--overwrite"), ("--resume", "run.pt"), ("--resume", "link.pt")):
        (line,) = train(*flags).err
        assert "is being written by another run" in line
    assert train("--evaluate", path).code == 0
    assert process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["nowhere/g++", "false"])
def test_a_broken_compiler_is_reported_before_anything_is_written(start_on_slice, tmp_path, compiler):
    process = start_on_slice("--compile", "--checkpoint", tmp_path / "run.pt", env=os.environ | {"CXX": compiler})
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    (line,) = err.splitlines()
    assert re.match(r"train.py: --compile .* g\+\+, .* CXX", line)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def help_page(start):
    """What --help prints if the output cannot show Greek letters, and the settings that OpenMP shows."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "verbose", "PYTHONIOENCODING": "ascii"}
    process = start("train.py", "--help", env=environment)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out, err


def test_help_is_printed_where_the_output_is_ascii(help_page):
    out, _ = help_page
    assert r"learning rate \u03b7" in out


def test_threads_sleep_while_they_wait_for_one_another(help_page):
    _, err = help_page
    assert "GOMP_SPINCOUNT = '0'" in err
