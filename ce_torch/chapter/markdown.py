"""Markdown for the reports."""

from collections.abc import Iterable, Sequence


def bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = (names, ["---"] * len(names), *rows)
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
