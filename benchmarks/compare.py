"""List the cases that became slower or larger between two files of benchmarks, by a tenth or more.

    python -m benchmarks.compare OLD.json NEW.json [--tolerance 0.1]

It compares times in parts of the peer's in the same run, which a slow machine slows down too, and the extra memory. A
time has changed if it has by the tolerance and the ranges between the quartiles of both runs do not overlap. A longer
one whose ranges overlap is listed as maybe noise: measure it again, with more --rounds. Memory has no noise: it has
changed if it has by the tolerance and by a hundredth of z.

The exit status is 0 if nothing became slower or larger, 1 if something did, and 2 if the files can't be compared.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.commands import new_parser
from benchmarks.results import Row, case, in_words, results_file
from ce_torch.training.settings import non_negative

LEAST_MEMORY = 0.01
WORSE = "slower", "larger"


class Change(NamedTuple):
    """A case that has changed: how, and what it was and is."""

    kind: str
    case: Row
    before: str
    after: str


def main(words: Sequence[str] | None = None) -> int:
    arguments = parse(words)
    before, after = arguments.before, arguments.after
    for sentence in differences(before, after):
        print(sentence)
    before_rows, after_rows = ({key(row): row for row in run["rows"]} for run in (before, after))
    both = [name for name in before_rows if name in after_rows]
    found = [change for name in both for change in changes(before_rows[name], after_rows[name], arguments.tolerance)]
    for change in sorted(found, key=lambda change: change.kind not in WORSE):
        print(f"{change.kind}: {change.before} -> {change.after}  {in_words(change.case)}")
    for name, missing in (
        ("the first", after_rows.keys() - before_rows),
        ("the second", before_rows.keys() - after_rows),
    ):
        if missing:
            print(f"Cases that are not in {name} file: {len(missing)}.")
    worse = sum(change.kind in WORSE for change in found)
    print(f"{worse} of {len(both)} cases became slower or larger by {arguments.tolerance:.0%} or more.")
    return 1 if worse else 0


def key(row: Row) -> str:
    return json.dumps(case(row), sort_keys=True)


def changes(before: Row, after: Row, tolerance: float) -> Iterator[Change]:
    """Yield how a case has changed between two runs."""
    if "ratio" in before and "ratio" in after:
        factor, gap = after["ratio"] / before["ratio"], abs(after["ratio"] - before["ratio"])
        is_clear = gap > before["spread"] + after["spread"]
        cells = [f"{row['ratio']:.3g} ± {row['spread']:.2g}" for row in (before, after)]
        if factor >= 1 + tolerance:
            yield Change("slower" if is_clear else "slower, maybe noise", case(before), *cells)
        elif 1 / factor >= 1 + tolerance and is_clear:
            yield Change("faster", case(before), *cells)
    if "extra_memory" in before and "extra_memory" in after:
        old, new = before["extra_memory"], after["extra_memory"]
        low, high = sorted((old, new))
        if high >= low * (1 + tolerance) and high - low >= LEAST_MEMORY:
            yield Change("larger" if new > old else "smaller", case(before), f"{old:.1%} of z", f"{new:.1%} of z")


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each fact that differs, since a ratio may follow from it."""
    for part in ("machine", "versions"):
        for name in before[part] | after[part]:
            old, new = before[part].get(name), after[part].get(name)
            if old != new and name not in ("load at the start", "ce_torch"):
                yield f"The runs differ in {name}: {old}, then {new}."


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = new_parser("benchmarks.compare", __doc__)
    parser.add_argument("before", type=results_file, metavar="OLD.json")
    parser.add_argument("after", type=results_file, metavar="NEW.json")
    parser.add_argument("--tolerance", type=non_negative, default=0.1, help="the least change that counts (0.1)")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
