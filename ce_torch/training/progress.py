"""The progress of a run: a bar on a terminal, and elsewhere a line for each epoch."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from tqdm import tqdm

from ce_torch.training import report
from ce_torch.training.loop import Record
from ce_torch.training.settings import Settings

STATUS_WIDTH = 30


class Progress:
    """Shows the progress of a run while its history grows.

    A narrow terminal cuts the bar off at the end, so the most important part comes first.
    """

    def __init__(self, history: list[Record], run: Settings, quiet: bool) -> None:
        self.history, self.run = history, run
        on_terminal = sys.stderr.isatty()
        self.lines = not quiet and not on_terminal
        self.bar = tqdm(
            desc=report.bar_text(history, run),
            initial=len(history),
            total=run["epochs"],
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
            dynamic_ncols=True,
            disable=quiet or not on_terminal,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def advance(self, part: float) -> None:
        """Show that another part of the epoch is done."""
        self.bar.update(min(part, self.bar.total - self.bar.n))  # the sum of the parts is rounded

    def show(self, record: Record) -> None:
        """Show the result of an epoch."""
        self.bar.update(record["epoch"] - self.bar.n)
        self.bar.set_description_str(report.bar_text(self.history, self.run))
        if self.lines:
            print(report.epoch_line(record, self.run), flush=True)


@contextmanager
def status(text: str, quiet: bool) -> Iterator[None]:
    """Show a text on a terminal during the block."""
    if not quiet:
        show_status(text)
    try:
        yield
    finally:
        show_status("")


def show_status(text: str) -> None:
    """Show a text on a terminal instead of the last one."""
    if sys.stderr.isatty():
        print(f"{text:{STATUS_WIDTH}}", end="\r", file=sys.stderr, flush=True)
