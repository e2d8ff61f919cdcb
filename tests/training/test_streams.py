"""Where the program's output goes: a narrow terminal, a reader that has had enough, a full disk, closed, ASCII."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import pytest

from ce_torch.training import checkpoint
from ce_torch.training.streams import PatientFile, patient

RUN = ("--epochs", "2", "--batch-size", "1000", "--checkpoint")


@pytest.fixture(scope="module")
def start(root):
    """Start train.py in a process of its own, through a shell's redirections, which does not outlive the tests."""
    processes = []

    def start(*flags, redirections="", environment=None, **streams):
        command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, root / "train.py", *flags]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        process = subprocess.Popen(command, cwd=root, env=os.environ | (environment or {}), **streams)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        for stream in filter(None, (process.stdout, process.stderr)):
            stream.close()


def epochs_done(path):
    return len(checkpoint.load(path)[1]["history"])


def test_help_is_printed_where_the_output_is_ascii(start):
    process = start("--help", environment={"PYTHONIOENCODING": "ascii"})
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert rb"learning rate \u03b7" in out


def test_a_reader_that_leaves_after_the_first_line_does_not_end_the_training(start, tmp_path):
    path = tmp_path / "run.pt"
    process = start(*RUN, path)
    assert process.stdout.readline().startswith(b"epoch 1/2: ")
    process.stdout.close()
    _, err = process.communicate()
    assert (process.returncode, err, epochs_done(path)) == (0, b"", 2)


def test_closed_streams_do_not_end_the_training(start, tmp_path):
    path = tmp_path / "run.pt"
    process = start(*RUN, path, redirections="<&- >&- 2>&-")
    assert process.communicate() == (b"", b"")
    assert (process.returncode, epochs_done(path)) == (0, 2)


def test_an_output_that_cannot_be_written_is_told_once_the_training_is_done(start, tmp_path):
    path = tmp_path / "run.pt"
    process = start(*RUN, path, redirections="> /dev/full")
    _, err = process.communicate()
    assert err == b"train.py: what was printed is lost (No space left on device)\n"
    assert (process.returncode, epochs_done(path)) == (2, 2)


WRITE_TO_ONE = """
import os, sys
from ce_torch.training.streams import run_with_patient_streams

def main():
    with open(sys.argv[1], "w"):
        return os.write(1, b"printed")

run_with_patient_streams(main)
"""


def test_a_closed_stream_leaves_its_number_to_no_file(root, tmp_path):
    words = [sys.executable, "-c", WRITE_TO_ONE, tmp_path / "file"]
    subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *words], cwd=root, check=True)
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


@pytest.mark.parametrize("place", [full_pipe, pipe_without_a_reader, terminal_that_is_gone])
def test_what_cannot_be_written_is_dropped(place):
    with contextlib.ExitStack() as stack:
        writing, *_ = map(stack.enter_context, place())
        print("x" * 1_000_000, file=patient(PatientFile(writing.fileno(), "w", closefd=False), None))


def read_all(reading):
    """Read what a process writes on a terminal, until it has left."""
    parts = []
    while True:
        try:
            part = os.read(reading, 1 << 16)
        except OSError:  # as Linux has it, once nobody has the terminal open
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


@pytest.fixture
def on_terminal(start):
    """Start train.py with its errors on a terminal of so many columns; return the process, and where to read them."""
    opened = []

    def on_terminal(*flags, columns=60):
        reading, writing = pty.openpty()
        opened.append(reading)
        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = start(*flags, stderr=writing)
        os.close(writing)
        return process, reading

    yield on_terminal
    for reading in opened:
        os.close(reading)


def frames(reading):
    return [frame.strip() for frame in re.split(r"[\r\n]+", read_all(reading))]


@pytest.mark.parametrize("columns", [60, 40])
def test_a_narrow_terminal_shows_the_accuracy_on_one_line(on_terminal, tmp_path, columns):
    _, reading = on_terminal(*RUN, tmp_path / "run.pt", columns=columns)
    shown = frames(reading)
    assert max(map(len, shown)) <= columns
    assert re.match(r"epoch 2/2: validation accuracy \d\d\.\d", shown[-2])


def test_the_bar_moves_within_an_epoch(on_terminal, tmp_path):
    _, reading = on_terminal("--epochs", "1", "--checkpoint", tmp_path / "run.pt", columns=100)
    percents = {int(percent) for frame in frames(reading) for percent in re.findall(r"(\d+)%\|", frame)}
    assert len(percents - {0, 100}) > 1


def test_a_terminal_shows_something_before_the_imports(on_terminal):
    _, reading = on_terminal("--help")
    assert frames(reading)[0] == "loading PyTorch ..."


def test_ctrl_c_while_the_imports_run_leaves_no_traceback(on_terminal, tmp_path):
    process, reading = on_terminal("--epochs", "1000", "--checkpoint", tmp_path / "run.pt")
    assert os.read(reading, 7) == b"loading"
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in read_all(reading)
    assert process.wait() == 130
