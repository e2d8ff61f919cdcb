"""Test where the program's output goes: a narrow terminal, a reader that leaves, a full disk, a closed stream."""

import contextlib
import errno
import fcntl
import itertools
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor

import pytest

from ce_torch.training.streams import TolerantFile, tolerant_stream

RUN = ("--epochs", 2, "--batch-size", 1000, "--checkpoint")

# streams.py can be imported alone, without torch.
PRINT_AND_WRITE_A_FILE = """
import sys
from streams import run_with_tolerant_streams

def main():
    for line in ("first", "second"):
        print(line, flush=True)
        if sys.stdin:
            sys.stdin.readline()
    with open(sys.argv[1], "w") as file:
        return file.write("") or 0

sys.argv[0] = "talk.py"
sys.exit(run_with_tolerant_streams(main))
"""
WRITE_TO_DESCRIPTOR_1 = """
import os, sys
from streams import run_with_tolerant_streams

def main():
    with open(sys.argv[1], "w"):
        return os.write(1, b"printed")

run_with_tolerant_streams(main)
"""


@pytest.fixture
def talk(root, start, tmp_path):
    """Start a program that prints two lines, reads a line after each, and then writes a file; return both."""

    def talk(**options):
        path = tmp_path / "end"
        process = start("-c", PRINT_AND_WRITE_A_FILE, path, cwd=root / "ce_torch" / "training", **options)
        return process, path

    return talk


def run_redirected(redirections, *words, cwd):
    """Run Python with a shell's redirections."""
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_a_reader_that_leaves_after_the_first_line_does_not_end_the_program(talk):
    process, end = talk(stdin=subprocess.PIPE)
    assert process.stdout.readline() == "first\n"
    process.stdout.close()
    _, err = process.communicate("\n\n")
    assert (process.returncode, err) == (0, "")
    assert end.exists()


def test_closed_streams_do_not_end_the_program(root, tmp_path):
    words = "-c", PRINT_AND_WRITE_A_FILE, tmp_path / "end"
    done = run_redirected("<&- >&- 2>&-", *words, cwd=root / "ce_torch" / "training")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "end").exists()


def test_lost_output_is_reported_at_the_end_of_the_program(talk):
    with open("/dev/full", "w") as full:
        process, end = talk(stdin=subprocess.DEVNULL, stdout=full)
    _, err = process.communicate()
    assert (process.returncode, err) == (2, "talk.py: what was printed is lost (No space left on device)\n")
    assert end.exists()


@pytest.mark.slow
def test_a_reader_that_leaves_after_the_first_epoch_does_not_end_the_training(start, tmp_path, epochs_done):
    path = tmp_path / "run.pt"
    process = start("train.py", *RUN, path)
    assert process.stdout.readline().startswith("epoch 1/2: ")
    process.stdout.close()
    _, err = process.communicate()
    assert (process.returncode, err, epochs_done(path)) == (0, "", 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirections", "code", "err"),
    [
        ("<&- >&- 2>&-", 0, ""),
        ("> /dev/full", 2, "train.py: what was printed is lost (No space left on device)\n"),
    ],
    ids=["closed", "full"],
)
def test_closed_or_full_streams_do_not_end_the_training(root, redirections, code, err, tmp_path, epochs_done):
    path = tmp_path / "run.pt"
    done = run_redirected(redirections, "train.py", *RUN, path, cwd=root)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", err)
    assert epochs_done(path) == 2


def test_no_file_gets_the_number_of_a_closed_stream(root, tmp_path):
    words = "-c", WRITE_TO_DESCRIPTOR_1, tmp_path / "file"
    assert run_redirected(">&-", *words, cwd=root / "ce_torch" / "training").returncode == 0
    assert (tmp_path / "file").read_text() == ""


def full_pipe():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    return os.fdopen(writing, "w"), os.fdopen(reading)


def pipe_without_a_reader():
    reading, writing = os.pipe()
    os.close(reading)
    return (os.fdopen(writing, "w"),)


def terminal_that_is_gone():
    reading, writing = pty.openpty()
    os.close(reading)
    return (os.fdopen(writing, "w"),)


@pytest.mark.parametrize(
    ("place", "error"), [(full_pipe, None), (pipe_without_a_reader, None), (terminal_that_is_gone, errno.EIO)]
)
def test_a_failed_write_is_dropped_and_noted_unless_the_reader_has_left(place, error):
    with contextlib.ExitStack() as stack:
        writing, *_ = map(stack.enter_context, place())
        file = TolerantFile(writing.fileno(), "w", closefd=False)
        print("x" * 1_000_000, file=tolerant_stream(file, None))
        assert getattr(file.error, "errno", None) == error


def read_all(reading):
    """Read what a process writes on a terminal, until the process ends."""
    parts = []
    while True:
        try:
            part = os.read(reading, 1 << 16)
        except OSError:  # Linux raises it once nobody has the terminal open
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


def open_terminal(columns):
    """Return the two ends of a terminal: one to read what it shows, and one to write to."""
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return reading, writing


@pytest.fixture
def frames(train, monkeypatch):
    """Run train.py on a terminal, and return all that it shows. Its clock moves on with every look."""

    def frames(*flags, columns):
        clock = itertools.count()
        monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
        reading, writing = open_terminal(columns)
        with ThreadPoolExecutor() as pool, open(reading, "rb"):
            shown = pool.submit(read_all, reading)
            with open(writing, "w") as terminal, monkeypatch.context() as patch:
                patch.setattr(sys, "stderr", terminal)
                assert train(*flags).code == 0
            return [frame.strip() for frame in re.split(r"[\r\n]+", shown.result())]

    return frames


@pytest.mark.parametrize("columns", [60, 40])
def test_a_narrow_terminal_shows_the_accuracy_on_one_line(frames, columns):
    shown = frames("--epochs", 2, "--checkpoint", "run.pt", columns=columns)
    assert max(map(len, shown)) <= columns
    assert re.match(r"epoch 2/2: validation accuracy \d\d\.\d", shown[-2])


def test_the_bar_moves_within_an_epoch(frames):
    shown = frames("--epochs", 1, "--checkpoint", "run.pt", columns=100)
    percents = {int(percent) for frame in shown for percent in re.findall(r"(\d+)%\|", frame)}
    assert len(percents - {0, 100}) > 1


@pytest.fixture
def starting_program(start, tmp_path):
    """train.py on a terminal, once it shows something, and the end of the terminal to read the rest from."""
    reading, writing = open_terminal(columns=60)
    process = start("train.py", "--epochs", 1_000_000, "--checkpoint", tmp_path / "run.pt", stderr=writing, text=False)
    os.close(writing)
    with open(reading, "rb"):
        assert os.read(reading, len("loading PyTorch")) == b"loading PyTorch"
        yield process, reading


def test_a_terminal_shows_something_before_the_imports(starting_program, tmp_path):
    process, _ = starting_program
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_the_imports_run_leaves_no_traceback(starting_program):
    process, reading = starting_program
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in read_all(reading)
    assert process.wait() == 130
