"""Standard output and error that never stop a training: broken pipes, full disks, closed streams, ASCII terminals."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class PatientFile(io.FileIO):
    """A file that drops what it cannot write: a training goes on if its output cannot be read.

    Attributes:
        error: the last error but a broken pipe, which only means that its reader has stopped.
    """

    error: OSError | None = None

    def write(self, text: "ReadableBuffer", /) -> int:
        size = memoryview(text).nbytes
        try:
            return super().write(text) or size  # None, where a pipe that must not block is full
        except BrokenPipeError:
            return size
        except OSError as error:
            self.error = error
            return size


def run_with_patient_streams(main: Callable[[], int]) -> int:
    """Run a program with patient streams and return its exit code, which is not 0 if any output is lost."""
    if sys.stdout is not sys.__stdout__:  # a notebook has a stream of its own, which takes everything
        return main()
    # The next file that is opened would take the number of a closed stream, and get all that is printed.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    output, errors = PatientFile(1, "w", closefd=False), PatientFile(2, "w", closefd=False)
    sys.stdout, sys.stderr = patient(output, sys.stdout), patient(errors, sys.stderr)
    code = main()
    if output.error is None:
        return code
    print(f"{Path(sys.argv[0]).name}: what was printed is lost ({output.error.strerror})", file=sys.stderr)
    return code or 2


def patient(file: PatientFile, stream: TextIO | None) -> TextIO:
    """Return a stream that writes to a file as `stream` does, and escapes characters that its encoding lacks."""
    encoding = stream.encoding if stream else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(file), encoding, errors="backslashreplace", line_buffering=True)
