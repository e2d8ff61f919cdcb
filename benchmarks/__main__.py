"""Run the benchmarks, one after the other, and write what they measure to one file.

    python -m benchmarks [NAME ...] [--all] [--write benchmarks.json]

The names are those of the modules: costs, linear, training, scaling, threads and transformers; each can do more by
itself, as python -m benchmarks.NAME --help says. Without names and --all it takes about 12 minutes, with --all many
hours.

python -m benchmarks.report prints the tables of such a file again and draws its figure, and python -m
benchmarks.compare lists what became slower or larger between two of them.
"""

from collections.abc import Iterator, Sequence

from benchmarks import costs, linear, scaling, threads, training, transformers
from benchmarks.commands import measuring_parser
from benchmarks.results import Row, keep

BENCHMARKS = {
    "costs": costs,
    "linear": linear,
    "training": training,
    "scaling": scaling,
    "threads": threads,
    "transformers": transformers,
}
# The words of each call of a benchmark.
SUBSET = {
    "costs": [""],
    "linear": ["--size 2048 512 32000 --threads 1"],
    "training": [""],
    "scaling": ["--networks 20 --rounds 1"],
    "threads": ["--rounds 1"],
    "transformers": [""],
}
ALL = {
    "costs": ["--all"],
    "linear": [
        "",
        *(f"--options {more}" for more in ("", "--threads 1", "--threads 1 --dtype bfloat16")),
        "--derivatives",
    ],
    "training": ["--whole-runs"],
    "scaling": [""],
    "threads": [""],
    "transformers": [""],
}


def main(words: Sequence[str] | None = None) -> None:
    parser = measuring_parser("benchmarks", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--all", action="store_true", help="all that each benchmark can measure")
    arguments = parser.parse_args(words)
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"argument NAME: must be of {', '.join(BENCHMARKS)}, got {unknown[0]!r}")
    calls = ALL if arguments.all else SUBSET
    keep(run({name: calls[name] for name in arguments.names or calls}), arguments.write)


def run(calls: dict[str, list[str]]) -> Iterator[list[Row]]:
    """Yield what each call of a benchmark measures."""
    for name, all_words in calls.items():
        for words in all_words:
            yield from BENCHMARKS[name].run(BENCHMARKS[name].parse(words.split()))


if __name__ == "__main__":
    main()
