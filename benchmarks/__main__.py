"""Run the benchmarks, one after the other, and write what they measure to one file.

    python -m benchmarks [NAME ...] [--all] [--write benchmarks.json]

The names are those of the modules: costs, linear, training and scaling; each can do more by itself, as
python -m benchmarks.NAME --help says. Without names and --all it takes about 10 minutes, with --all many hours.

python -m benchmarks.report prints the tables of such a file again and draws its figure, and python -m
benchmarks.compare lists what became slower or larger between two of them.
"""

import argparse
from collections.abc import Iterator, Sequence

from benchmarks import costs, linear, scaling, training
from benchmarks.results import Row, in_words, keep, machine, new_file, versions

BENCHMARKS = {"costs": costs, "linear": linear, "training": training, "scaling": scaling}
# The words of each call of a benchmark.
SUBSET = {"costs": [""], "linear": ["--size 2048 512 32000 --threads 1"], "training": [""]}
ALL = {
    "costs": ["--all"],
    "linear": ["", "--options", "--options --threads 1", "--options --threads 1 --dtype bfloat16"],
    "training": ["--whole-runs"],
    "scaling": [""],
}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--all", action="store_true", help="all that each benchmark can measure")
    parser.add_argument("--write", type=new_file, metavar="FILE", help="where to write the figures (JSON)")
    arguments = parser.parse_args(words)
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"argument NAME: must be of {', '.join(BENCHMARKS)}, got {unknown[0]!r}")
    calls = ALL if arguments.all else ALL | SUBSET if arguments.names else SUBSET
    print(f"{in_words(machine())}\n{in_words(versions())}", flush=True)
    keep(run({name: calls[name] for name in arguments.names or calls}), arguments.write)


def run(calls: dict[str, list[str]]) -> Iterator[list[Row]]:
    """Yield what each call of a benchmark measures."""
    for name, all_words in calls.items():
        for words in all_words:
            yield from BENCHMARKS[name].run(BENCHMARKS[name].parse(words.split()))


if __name__ == "__main__":
    main()
