"""Standard output and error as users have them: a pipe that nobody reads any more, a full disk, closed, ASCII."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO


class PatientFile(io.FileIO):
    """A file that drops what it cannot write, so that no training ends because nobody can read what it prints.

    Attributes:
        error: what went wrong, other than that the reader of a pipe has had enough.
    """

    error: OSError | None = None

    def write(self, text: bytes) -> int:
        try:
            return super().write(text) or len(text)  # None, where a pipe that must not block is full
        except BrokenPipeError:
            return len(text)
        except OSError as error:
            self.error = error
            return len(text)


def with_patient_streams(main: Callable[[], int]) -> int:
    """Return the exit code of a program that prints to whatever there is; it is not 0 where that is lost."""
    if sys.stdout is not sys.__stdout__:  # but that of a notebook, which takes everything
        return main()
    # A closed stream leaves its number to the next file that is opened, which would get what is printed.
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
    """Return a stream that writes to a file as `stream` does, and what that has no character for as \\u03b7."""
    encoding = stream.encoding if stream else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(file), encoding, errors="backslashreplace", line_buffering=True)
