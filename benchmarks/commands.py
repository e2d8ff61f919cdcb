"""What the commands of the benchmarks have in common."""

import argparse

from benchmarks.results import new_file


def new_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of `python -m module`, whose description is printed as it is."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def measuring_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command that measures, and can write what it finds."""
    parser = new_parser(module, description)
    parser.add_argument("--write", type=new_file, metavar="FILE", help="where to write the figures (JSON)")
    return parser
