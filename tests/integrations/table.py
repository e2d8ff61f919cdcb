"""The table in docs/transformers.md of what the linear cost does for each model of transformers.

    python tests/integrations/table.py

writes it again.
"""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "transformers.md"
ROW = re.compile(r"^\| (served.*|refused.*) \| (.*) \|$", re.MULTILINE)


def written() -> dict[str, str]:
    """Return the outcome of each model that the page tells."""
    return {name: row for row, models in ROW.findall(PAGE.read_text()) for name in re.findall(r"`(\w+)`", models)}


def found() -> dict[str, str]:
    """Return the outcome of each model as it is."""
    import architectures

    return {name: architectures.outcome(name) for name in architectures.names()}


def write(outcomes: dict[str, str]) -> None:
    rows: dict[str, list[str]] = {}
    for name, outcome in sorted(outcomes.items(), key=lambda item: item[0].lower()):
        rows.setdefault(outcome, []).append(f"`{name}`")
    order = sorted(rows, key=lambda outcome: (not outcome.startswith("served"), outcome))
    lines = [f"| {outcome} | {', '.join(rows[outcome])} |\n" for outcome in order]
    PAGE.write_text(
        re.sub(r"(\| outcome \| models \|\n\|---\|---\|\n)(\|.*\n)*", rf"\1{''.join(lines)}", PAGE.read_text())
    )


if __name__ == "__main__":
    write(found())
