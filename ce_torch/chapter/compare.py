"""The section's comparison of costs as it should be run: many networks, rates chosen on validation data, error bars.

    python -m ce_torch.chapter.compare             an hour and a half; writes docs/comparison/
    python -m ce_torch.chapter.compare --quick     a small version in a minute; writes checkpoints/comparison-quick/

For each cost and size of network a learning rate is chosen from a grid: the one of the highest mean accuracy on
validation data, over seeds that are used for nothing else. With it so many networks are trained, of the same seeds for
every cost: network k of each starts from the same weights and sees the same mini-batches. Then the epochs are counted
that the costs take to an accuracy of 90%, at the same rate and each at its own.

Every training is kept in checkpoints/ after each epoch: started again, the program goes on where it was.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ce_torch.chapter import comparison_pictures, comparison_report
from ce_torch.training import checkpoint, files, mnist, settings
from ce_torch.training.loop import Training, evaluate
from ce_torch.training.report import best_point, finite_accuracies, select_point
from ce_torch.training.runs import choose_threads, new_training
from ce_torch.training.settings import Settings, grid

COSTS = ("quadratic", "ce", "ll")
# Of the networks by which rates are chosen; those that are compared have the seeds from 0 on.
FIRST_CHOICE_SEED = 1000


@dataclass(frozen=True)
class Plan:
    """How much is trained; `choices` are the runs by which a rate is chosen, `same_rates` those that all costs get."""

    hidden: tuple[int, ...] = (30, 100)
    rates: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 3.0, 6.0, 12.0)
    choices: int = 5
    runs: int = 20
    epochs: int = 30
    same_rates: tuple[float, ...] = (0.5, 3.0)
    goal: float = 0.9
    looks: int = 10  # at the accuracy in an epoch, on the way to the goal


QUICK = Plan(hidden=(30,), rates=(0.5, 3.0), choices=2, runs=6, epochs=3)


class Comparison:
    """The trainings of a plan, one after the other, each kept in a folder, on a bar that tells the time left."""

    def __init__(self, plan: Plan, data: mnist.MNIST, folder: Path) -> None:
        self.plan, self.data, self.folder = plan, data, folder
        self.data_name = mnist.identify(data)
        of_accuracy = sum(plan.hidden) * (len(plan.rates) * plan.choices + plan.runs)
        of_speed = plan.hidden[0] * (len(plan.same_rates) + 1) * plan.runs
        self.bar = tqdm(
            total=len(COSTS) * plan.epochs * (of_accuracy + of_speed),
            bar_format="{percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left: {desc}",
            smoothing=0,
            mininterval=0.1 if sys.stderr.isatty() else 60,
        )

    def results(self) -> dict[str, Any]:
        """Train all that is not trained yet; return what it comes to, ready for JSON."""
        plan = self.plan
        with self.bar:
            choices = [self.choose(cost, hidden) for hidden in plan.hidden for cost in COSTS]
            rates = {(choice["hidden"], choice["cost"]): choice["rate"] for choice in choices}
            finals = [self.train_at(rate, cost, hidden) for (hidden, cost), rate in rates.items()]
            smallest = plan.hidden[0]
            speeds = [
                self.time_at(rate, cost, smallest)
                for cost in COSTS
                for rate in dict.fromkeys((*plan.same_rates, rates[smallest, cost]))
            ]
            self.bar.total = self.bar.n  # less than was reckoned, where a chosen rate is one that all costs have
        of_data = {"data": self.data_name, "examples": len(self.data.training.x)}
        return {"plan": asdict(plan), **of_data, "choices": choices, "finals": finals, "speeds": speeds}

    def choose(self, cost: str, hidden: int) -> dict[str, Any]:
        """Train at every rate; return the one to choose, and the accuracies on validation data."""
        run = self.run(cost, hidden, list(self.plan.rates), self.plan.choices, FIRST_CHOICE_SEED)
        last = self.trained(run, "validation").history[-1]
        of_rates = [finite_accuracies(select_point(last, run, i)["validation"]) for i in range(len(grid(run)))]
        validation = [{"accuracies": accuracies, "diverged": diverged} for accuracies, diverged in of_rates]
        return {"cost": cost, "hidden": hidden, "rate": grid(run)[best_point(last, run)].lr, "validation": validation}

    def train_at(self, rate: float, cost: str, hidden: int) -> dict[str, Any]:
        """Return the accuracies on test data, after each epoch those of each network."""
        history = self.trained(self.run(cost, hidden, rate, self.plan.runs, 0), "test").history
        test = [record["test"]["accuracy"] for record in history]
        return {"cost": cost, "hidden": hidden, "rate": rate, "test": test}

    def time_at(self, rate: float, cost: str, hidden: int) -> dict[str, Any]:
        """Return the accuracies on validation data, at each look those of each network, until all reach the goal."""
        run = self.run(cost, hidden, rate, self.plan.runs, 0) | {"goal": self.plan.goal, "looks": self.plan.looks}
        path = self.folder / f"speed-{settings.run_name(run)}.pt"
        state = self.saved(path, run)
        if state is None:
            state = {"validation": list(self.accuracies_to_goal(run))}
            checkpoint.save(path, run, state)
        else:
            self.skip(run, self.plan.epochs)
        return {"cost": cost, "hidden": hidden, "rate": rate, "validation": state["validation"]}

    def run(self, cost: str, hidden: int, rate: float | list[float], runs: int, seed: int) -> Settings:
        """Return the settings of a training, those that train.py would have, and the number of examples."""
        settings_of_run = {"cost": cost, "hidden": [hidden], "lr": rate, "runs": runs, "seed": seed}
        of_data = {"data": self.data_name, "examples": len(self.data.training.x)}
        return settings.DEFAULTS | settings_of_run | {"epochs": self.plan.epochs} | of_data

    def trained(self, run: Settings, monitored: str) -> Training:
        path = self.folder / f"{settings.run_name(run)}.pt"
        choose_threads(run)
        training = new_training(run, self.data, (monitored,))
        if (state := self.saved(path, run)) is not None:
            training.load_state_dict(state)
            self.skip(run, len(training.history))
        for _ in training.run(run["epochs"]):
            checkpoint.save(path, run, training.state_dict())
            self.progress(run)
        return training

    def accuracies_to_goal(self, run: Settings) -> Iterator[list[float]]:
        choose_threads(run)
        training = new_training(run, self.data, ("validation",))
        batch_size = run["batch_size"]
        steps_between_looks = len(training.x) // batch_size // run["looks"]
        reached = torch.zeros(run["runs"], dtype=torch.bool)
        for epoch in range(run["epochs"]):
            steps = looks = 0
            for examples in training.chunks():
                training.descend(examples)
                steps += math.ceil(examples.shape[-1] / batch_size)
                if steps // steps_between_looks > looks:
                    looks += 1
                    accuracies = evaluate(training.network, training.cost, *self.data.validation)["accuracy"]
                    reached |= torch.tensor(accuracies) >= run["goal"]
                    yield accuracies
                    if reached.all():
                        self.progress(run, run["epochs"] - epoch)
                        return
            self.progress(run)

    def saved(self, path: Path, run: Settings) -> dict[str, Any] | None:
        """Return the state of a training that was kept, unless it is that of another plan."""
        if not path.exists():
            return None
        saved, state = checkpoint.load(path)
        saved = {"data": run["data"]} | saved  # what was kept before checkpoints named their data
        if saved["data"] != run["data"]:
            raise checkpoint.CheckpointError(
                f"{path} was trained on {saved['data']}, got {run['data']}; name the folder of its data by --data-dir, "
                f"or move {self.folder} away"
            )
        return state if saved == run else None

    def progress(self, run: Settings, epochs: int = 1) -> None:
        self.bar.set_description_str(settings.run_name(run), refresh=False)
        self.bar.update(epochs * work_of_an_epoch(run))

    def skip(self, run: Settings, epochs: int) -> None:
        """Count what was done before, whose time says nothing of the time left."""
        self.bar.initial += epochs * work_of_an_epoch(run)
        self.progress(run, epochs)


def work_of_an_epoch(run: Settings) -> int:
    return run["runs"] * len(grid(run)) * run["hidden"][0]


def write(results: dict[str, Any], folder: Path) -> None:
    """Write the figures, the report in words, and its pictures."""
    contents: Sequence[tuple[str, bytes]] = (
        ("results.json", json.dumps(results).encode()),
        ("README.md", comparison_report.markdown(results).encode()),
        *((name, picture) for name, picture in comparison_pictures.draw(results).items()),
    )
    for name, content in contents:
        files.write_atomically(folder / name, content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="train little, to see it work")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="as for train.py")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="where to write the report")
    flags = parser.parse_args()
    plan, name = (QUICK, "comparison-quick") if flags.quick else (Plan(), "comparison")
    kept = Path("checkpoints") / name
    try:
        folder = flags.write or (kept if flags.quick else Path("docs") / name)
        with files.claimed(kept / "results.json"):
            write(Comparison(plan, mnist.load(flags.data_dir), kept).results(), folder)
    except (mnist.DataError, files.FileError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    print(f"{folder / 'README.md'} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
