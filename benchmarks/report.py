"""Print the tables of a file of benchmarks, and draw its figure.

    python -m benchmarks.report FILE.json [--figure docs/costs.png]

The figure is of the costs: each plain and with its worst option by size, under the first condition that was measured.
"""

from collections.abc import Sequence

from benchmarks.commands import new_parser
from benchmarks.results import in_words, new_file, results_file
from benchmarks.tables import tables


def main(words: Sequence[str] | None = None) -> None:
    parser = new_parser("benchmarks.report", __doc__)
    parser.add_argument("run", type=results_file, metavar="FILE.json")
    parser.add_argument("--figure", type=new_file, metavar="FILE.png", help="where to draw the times of the costs")
    arguments = parser.parse_args(words)
    run = arguments.run
    print(f"{in_words(run['machine'])}\n{in_words(run['versions'])}")
    print(*tables(run["rows"]), sep="\n")
    of_costs = [row for row in run["rows"] if row["benchmark"] == "costs"]
    if arguments.figure and not of_costs:
        parser.error("argument --figure: the file has no costs, which the figure is of")
    if arguments.figure:
        from benchmarks.figure import draw  # without matplotlib the tables are there

        draw(of_costs, arguments.figure)


if __name__ == "__main__":
    main()
