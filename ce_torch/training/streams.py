"""Standard output and error that never stop a training: broken pipes, full disks, closed streams, ASCII terminals."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class TolerantFile(io.FileIO):
    """A file that drops what it cannot write, so that training goes on without a reader or without room.

    Attributes:
        error: the last error, except a broken pipe: that only means that the reader has left.
    """

    error: OSError | None = None

    def write(self, text: "ReadableBuffer", /) -> int:
        size = memoryview(text).nbytes
        try:
            return super().write(text) or size  # None if a non-blocking pipe is full
        except BrokenPipeError:
            return size
        except OSError as error:
            self.error = error
            return size


def run_with_tolerant_streams(main: Callable[[], int]) -> int:
    """Run a program with tolerant streams and return its exit code, which is not 0 if any output is lost."""
    if sys.stdout is not sys.__stdout__:  # a notebook has a stream of its own, which takes everything
        return main()
    # The next file that is opened would take the number of a closed stream, and get all that is printed.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    output, errors = TolerantFile(1, "w", closefd=False), TolerantFile(2, "w", closefd=False)
    sys.stdout, sys.stderr = tolerant_stream(output, sys.stdout), tolerant_stream(errors, sys.stderr)
    code = main()
    if output.error is None:
        return code
    print(f"{Path(sys.argv[0]).name}: what was printed is lost ({output.error.strerror})", file=sys.stderr)
    return code or 2


def tolerant_stream(file: TolerantFile, stream: TextIO | None) -> TextIO:
    """Return a stream that writes to a file as `stream` does, and escapes characters that its encoding lacks."""
    encoding = stream.encoding if stream else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(file), encoding, errors="backslashreplace", line_buffering=True)
