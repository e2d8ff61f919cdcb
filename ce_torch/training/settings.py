"""The flags of train.py, and the settings of a run, from flags and checkpoints."""

import argparse
import hashlib
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ce_torch.costs import _registry
from ce_torch.training.network import INITIALISERS

SHORT_NAMES = {"cross_entropy": "ce", "log_likelihood": "ll"}
LEARNING_RATES = {"quadratic": 3.0}  # of the chapter's runs, if it is not 0.5
# Each cost, by its name on the command line, with its learning rate.
COSTS = {SHORT_NAMES.get(name, name): (cost, LEARNING_RATES.get(name, 0.5)) for name, cost in _registry.COSTS.items()}

Settings = dict[str, Any]

# The settings that identify a run, and those that may change when it is resumed.
IDENTITY: Settings = {
    "cost": "ce",
    "hidden": [30],
    "batch_size": 10,
    "lr": None,
    "lmbda": 0.0,
    "init": "large",
    "seed": 0,
    "runs": 1,
}
CHANGEABLE: Settings = {"epochs": 30, "early_stopping": None, "compile": False}
DEFAULTS = IDENTITY | CHANGEABLE
MAX_NAME_LENGTH = 100  # file systems take 255 bytes at most, with the endings

MAX_WHOLE_NUMBER = 2**32 - 1


class UsageError(Exception):
    """The flags contradict one another, a file or the machine. The message says what to do."""


class Point(NamedTuple):
    """The settings that differ between the networks of a grid."""

    lr: float
    lmbda: float


def grid(settings: Settings) -> list[Point]:
    """Return the points of the grid of several --lr and --lmbda; one point if there is one of each."""
    return [Point(*values) for values in itertools.product(as_list(settings["lr"]), as_list(settings["lmbda"]))]


def new_settings(flags: argparse.Namespace) -> Settings:
    """Return the settings of a new run."""
    settings = DEFAULTS | given_settings(flags)
    if settings["lr"] is None:
        _, settings["lr"] = COSTS[settings["cost"]]
    return settings


def resumed_settings(flags: argparse.Namespace, saved: Settings, path: Path) -> Settings:
    """Return the settings of the run saved at `path`, as flags change them. Raises `UsageError` if they contradict."""
    for name, value in given_settings(flags).items():
        if name in IDENTITY and value != saved[name]:
            raise UsageError(
                f"{format_flag(name, value)} contradicts {path}, a run with {format_flag(name, saved[name])}; "
                f"leave the flag out, or start a new run"
            )
    return saved | given_settings(flags)


def check_saved(saved: Settings) -> None:
    """Raise `UsageError` if no flags could give the settings of a saved run."""
    if missing := DEFAULTS.keys() - saved.keys():
        raise UsageError(f"its run has no {min(missing)}")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_run_flags(parser.add_argument_group())
    try:
        flags, _ = parser.parse_known_args([word for name in DEFAULTS for word in flag_words(name, saved[name])])
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error
    for name, value in new_settings(flags).items():
        if value != saved[name]:
            raise UsageError(f"{name} cannot be {saved[name]!r}")


def run_name(settings: Settings) -> str:
    """Name a run by its cost, its hidden neurons, all other settings that differ from the defaults, and its seed.

    Cut a name that is too long for a file, and end it with a digest of the whole name.
    """
    _, lr = COSTS[settings["cost"]]
    default = IDENTITY | {"lr": lr}
    unusual = (name for name in ("batch_size", "lr", "lmbda", "init", "runs") if settings[name] != default[name])
    hidden = "-".join(map(str, settings["hidden"]))
    values = (name + "-".join(map(str, as_list(settings[name]))) for name in unusual)
    name = "-".join([settings["cost"], hidden, *values, f"seed{settings['seed']}"])
    if len(name) <= MAX_NAME_LENGTH:
        return name
    beginning, _, _ = name[:MAX_NAME_LENGTH].rpartition("-")
    return f"{beginning}-etc-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def given_settings(flags: argparse.Namespace) -> Settings:
    return {name: value for name in DEFAULTS if (value := getattr(flags, name)) is not None}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def format_flag(name: str, value: Any) -> str:
    return " ".join(flag_words(name, value))


def flag_words(name: str, value: Any) -> list[str]:
    """Return the words of the command line that give a setting its value."""
    if value is None or value is False:
        return []
    values = [] if value is True else as_list(value)
    return [f"--{name.replace('_', '-')}", *map(str, values)]


def parse_flags(description: str) -> argparse.Namespace:
    """Parse the command line. Flags of settings that are not given are None."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_flags(parser.add_argument_group("the run"))
    add_place_flags(parser.add_argument_group("files and machine"))
    saved = parser.add_argument_group("a run that is saved").add_mutually_exclusive_group()
    saved.add_argument("--resume", type=Path, metavar="PATH", help="go on with the run in a checkpoint")
    saved.add_argument(
        "--evaluate",
        type=Path,
        metavar="PATH",
        help="print a checkpoint's test accuracy without training; with --plot, draw its pictures too",
    )
    return parser.parse_args()


def add_run_flags(group: argparse._ArgumentGroup) -> None:
    # Long, as a list is: a flag a call.
    add = group.add_argument
    add(
        "--cost",
        choices=COSTS,
        help="quadratic, ce (cross-entropy) or focal for sigmoid neurons; ll (log-likelihood) for softmax (default ce)",
    )
    add("--hidden", type=whole_number(1), nargs="+", metavar="N", help="neurons in each hidden layer (default 30)")
    add("--epochs", type=whole_number(1), metavar="N", help="passes over the 50,000 training examples (default 30)")
    add("--batch-size", type=whole_number(1), metavar="N", help="examples in a mini-batch (default 10)")
    add(
        "--lr",
        type=non_negative,
        nargs="+",
        action=OneOrMore,
        metavar="ETA",
        help="learning rate η (default 3.0 for quadratic, 0.5 for others); several are trained at once, and the one "
        "that is best on validation data is chosen",
    )
    add(
        "--lmbda",
        type=non_negative,
        nargs="+",
        action=OneOrMore,
        metavar="LAMBDA",
        help="λ, the strength of the L2 regularization (default 0); several as for --lr",
    )
    add(
        "--init",
        choices=INITIALISERS,
        help="large draws weights from N(0, 1), as the chapter does; scaled from N(0, 1/n) for neurons with n inputs "
        "(default large)",
    )
    add("--seed", type=whole_number(0), metavar="N", help="seed of the first weights and the shuffles (default 0)")
    add(
        "--runs",
        type=whole_number(1),
        metavar="N",
        help="train N networks at once, with the seeds from --seed on, and report their mean (default 1)",
    )
    add(
        "--early-stopping",
        type=whole_number(1),
        metavar="N",
        help="stop once the accuracy on validation data has not risen for N epochs (default: never)",
    )
    add("--compile", action="store_const", const=True, help="compile the training step: starts late, runs fast")


def add_place_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="the folder with MNIST/raw; MNIST is downloaded into it if it has none (default: the project's own)",
    )
    add(
        "--checkpoint",
        type=Path,
        metavar="PATH",
        help="where to write the run after every epoch (default: named after the run, in checkpoints/ of the current "
        "folder); existing files are not replaced",
    )
    add(
        "--overwrite", action="store_true", help="replace the run at --checkpoint, once an epoch of the new one is done"
    )
    add(
        "--device",
        default="auto",
        help="cpu, cuda, mps, any device of torch (default auto: an accelerator, or else cpu)",
    )
    add(
        "--plot",
        type=Path,
        nargs="*",
        metavar="PATH",
        help="draw beside the checkpoint: costs and accuracies, how many output neurons are saturated, the digits that "
        "surprise the network most, its weights; checkpoints named here lend their saturated neurons to compare",
    )
    add("--quiet", action="store_true", help="print nothing but the last line")


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` instead of printing the usage and ending the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; python {self.prog} --help lists the flags")


class OneOrMore(argparse.Action):
    """Stores one value as it is, several as a list, and refuses equal ones."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if len(set(values)) < len(values):
            raise argparse.ArgumentError(self, f"must be different numbers, got {' '.join(map(str, values))}")
        setattr(namespace, self.dest, values if len(values) > 1 else values[0])


def whole_number(lowest: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `lowest` to `MAX_WHOLE_NUMBER`."""

    def parse(text: str) -> int:
        if not (text.isdecimal() and lowest <= int(text) <= MAX_WHOLE_NUMBER):
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {lowest} to {MAX_WHOLE_NUMBER}, got {text!r}"
            )
        return int(text)

    return parse


def non_negative(text: str) -> float:
    """Parse a finite number, 0 or above."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number, 0 or above, got {text!r}")
    return value
