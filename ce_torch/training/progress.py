"""What a run shows while it trains: a bar that moves on a terminal, and elsewhere a line for each epoch."""

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
    """The progress of a run, whose history grows while it is shown.

    What comes first on the bar is what a narrow terminal keeps of it.
    """

    def __init__(self, history: list[Record], run: Settings, quiet: bool) -> None:
        self.history, self.run = history, run
        on_terminal = sys.stderr.isatty()
        self.lines = not quiet and not on_terminal
        self.bar = tqdm(
            desc=report.short_line(history, run),
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

    def watch(self, part: float) -> None:
        """Show that so large a part of an epoch is done."""
        self.bar.update(len(self.history) + part - self.bar.n)

    def show(self, record: Record) -> None:
        """Show what an epoch has come to."""
        self.bar.set_description_str(report.short_line(self.history, self.run))
        if self.lines:
            print(report.line(record, self.run), flush=True)


@contextmanager
def status(text: str, quiet: bool) -> Iterator[None]:
    """Show on a terminal what is being done, as long as it lasts."""
    if not quiet:
        show_status(text)
    try:
        yield
    finally:
        show_status("")


def show_status(text: str) -> None:
    """Show a text on a terminal in the place of the last one."""
    if sys.stderr.isatty():
        print(f"{text:{STATUS_WIDTH}}", end="\r", file=sys.stderr, flush=True)
