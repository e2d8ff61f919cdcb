"""Compare the section's costs with many networks, rates chosen on validation data, and error bars.

    python -m ce_torch.chapter.compare             an hour and a half; writes docs/comparison/
    python -m ce_torch.chapter.compare --stuck     the last question only, in a quarter of an hour; keeps other results
    python -m ce_torch.chapter.compare --quick     a small version in a minute; writes checkpoints/comparison-quick/

For each cost and size of network, choose the learning rate with the highest mean accuracy on validation data, over
seeds that are used for nothing else. Train networks of the same seeds with every cost at its rate: network k of each
cost starts from the same weights and sees the same mini-batches. Then count the epochs that each cost takes to reach an
accuracy of 90%, at the rates that all costs share and at its own. At last follow the output neurons of the larger
network, to see why the quadratic cost gets stuck there: with other first weights, another size and another cost.

Each training is saved in checkpoints/ after every epoch; those that count epochs, at their end. Start the program
again, and it goes on from there.
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
from ce_torch.chapter.stuck import Case, cases, look, look_at_first_steps, scale_output_layer
from ce_torch.training import checkpoint, files, mnist, settings
from ce_torch.training.loop import Training, evaluate
from ce_torch.training.report import best_point, finite_accuracies, select_point
from ce_torch.training.runs import choose_threads, new_training
from ce_torch.training.settings import Settings, grid

COSTS = ("quadratic", "ce", "ll")
# The first seed of the networks that choose the rates. The networks that are compared have seeds from 0 on.
FIRST_CHOICE_SEED = 1000


@dataclass(frozen=True)
class Plan:
    """The size of a comparison: `choices` runs choose a rate, and all costs are timed at `same_rates`."""

    hidden: tuple[int, ...] = (30, 100)
    rates: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 3.0, 6.0, 12.0)
    choices: int = 5
    runs: int = 20
    epochs: int = 30
    same_rates: tuple[float, ...] = (0.5, 3.0)
    goal: float = 0.9
    looks: int = 10  # evaluations in an epoch, on the way to the goal
    stuck_epochs: int = 10  # in which output neurons are followed
    stuck_steps: tuple[int, ...] = (10, 100)  # mini-batches of the first epoch, after which to look at them too


QUICK = Plan(hidden=(30,), rates=(0.5, 3.0), choices=2, runs=6, epochs=3, stuck_epochs=3)


class Comparison:
    """The trainings of a plan, one after the other, saved in a folder; a bar shows the time left."""

    def __init__(self, plan: Plan, data: mnist.MNIST, folder: Path) -> None:
        self.plan, self.data, self.folder = plan, data, folder
        self.data_settings = {"data": mnist.identify(data), "examples": len(data.training.x)}
        accuracy_work = sum(plan.hidden) * (len(plan.rates) * plan.choices + plan.runs)
        speed_work = plan.hidden[0] * (len(plan.same_rates) + 1) * plan.runs
        self.cases = cases(plan.hidden[0], plan.hidden[-1])
        self.stuck_work = plan.stuck_epochs * plan.runs * sum(case.hidden for case in self.cases)
        self.bar = tqdm(
            total=len(COSTS) * plan.epochs * (accuracy_work + speed_work) + self.stuck_work,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left: {desc}",
            smoothing=0,
            mininterval=0.1 if sys.stderr.isatty() else 60,
        )

    def results(self, earlier: dict[str, Any] | None = None) -> dict[str, Any]:
        """Train all that is not trained yet, and return the results, ready for JSON.

        From `earlier` results, keep all but the answer to the last question.
        """
        with self.bar:
            found = earlier or self.compare_costs()
            self.bar.total = self.bar.n + self.stuck_work  # less than estimated if a chosen rate is a same rate
            return {**found, "plan": asdict(self.plan), "stuck": self.stuck(found["choices"])}

    def compare_costs(self) -> dict[str, Any]:
        """Choose the rates, train the networks to compare, and count the epochs to the goal."""
        plan = self.plan
        choices = [self.choose(cost, hidden) for hidden in plan.hidden for cost in COSTS]
        rates = {(choice["hidden"], choice["cost"]): choice["rate"] for choice in choices}
        finals = [self.train_final(rate, cost, hidden) for (hidden, cost), rate in rates.items()]
        smallest = plan.hidden[0]
        speeds = [
            self.time_to_goal(rate, cost, smallest)
            for cost in COSTS
            for rate in dict.fromkeys((*plan.same_rates, rates[smallest, cost]))
        ]
        return {**self.data_settings, "choices": choices, "finals": finals, "speeds": speeds}

    def stuck(self, choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Follow the output neurons in each case, at the rates that were chosen."""
        rates = {(choice["hidden"], choice["cost"]): choice["rate"] for choice in choices}
        return [self.follow(case, rates[case.hidden, case.rate_of]) for case in self.cases]

    def choose(self, cost: str, hidden: int) -> dict[str, Any]:
        """Train at every rate; return the best, and the accuracies on validation data."""
        run = self.run(cost, hidden, list(self.plan.rates), self.plan.choices, FIRST_CHOICE_SEED)
        last = self.train(run, "validation").history[-1]
        scores = [finite_accuracies(select_point(last, run, i)["validation"]) for i in range(len(grid(run)))]
        validation = [{"accuracies": accuracies, "diverged": diverged} for accuracies, diverged in scores]
        return {"cost": cost, "hidden": hidden, "rate": grid(run)[best_point(last, run)].lr, "validation": validation}

    def train_final(self, rate: float, cost: str, hidden: int) -> dict[str, Any]:
        """Return the test accuracies of each network after each epoch."""
        history = self.train(self.run(cost, hidden, rate, self.plan.runs, 0), "test").history
        test = [record["test"]["accuracy"] for record in history]
        return {"cost": cost, "hidden": hidden, "rate": rate, "test": test}

    def time_to_goal(self, rate: float, cost: str, hidden: int) -> dict[str, Any]:
        """Return the validation accuracies of each network at each look, until all reach the goal."""
        run = self.run(cost, hidden, rate, self.plan.runs, 0) | {"goal": self.plan.goal, "looks": self.plan.looks}
        path = self.folder / f"speed-{settings.run_name(run)}.pt"
        state = self.load(path, run)
        if state is None:
            state = {"validation": list(self.accuracies_to_goal(run))}
            checkpoint.save(path, run, state)
        else:
            self.skip(run, self.plan.epochs)
        return {"cost": cost, "hidden": hidden, "rate": rate, "validation": state["validation"]}

    def follow(self, case: Case, rate: float) -> dict[str, Any]:
        """Return what the output neurons do before the first epoch and after each, and after its first steps."""
        run = self.run(case.cost, case.hidden, rate, self.plan.runs, 0)
        run |= {"epochs": self.plan.stuck_epochs, "init": "scaled" if case.weights == "scaled" else "large"}
        run |= {"weights": case.weights}
        path = self.folder / f"stuck-{case.weights}-{settings.run_name(run)}.pt"
        training = self.start(run)
        if (state := self.load(path, run)) is None:
            steps = look_at_first_steps(self.start(run), self.data, self.plan.stuck_steps)
            looks = [look(training.network, training.cost, self.data)]
        else:
            steps, looks = state["steps"], state["looks"]
            training.load_state_dict(state)
            self.skip(run, len(training.history))
        for _ in training.run(run["epochs"]):
            looks.append(look(training.network, training.cost, self.data))
            checkpoint.save(path, run, training.state_dict() | {"steps": steps, "looks": looks})
            self.progress(run)
        return {**case._asdict(), "rate": rate, "steps": steps, "looks": looks}

    def start(self, run: Settings) -> Training:
        """Return the training of networks to follow, with their first weights."""
        choose_threads(run)
        training = new_training(run, self.data, ())
        if run["weights"] == "output":
            scale_output_layer(training)
        return training

    def run(self, cost: str, hidden: int, rate: float | list[float], runs: int, seed: int) -> Settings:
        """Return the settings that train.py would give a training, and the number of examples."""
        flags = {"cost": cost, "hidden": [hidden], "lr": rate, "runs": runs, "seed": seed}
        return settings.DEFAULTS | flags | {"epochs": self.plan.epochs} | self.data_settings

    def train(self, run: Settings, monitored: str) -> Training:
        """Train to the end, from the saved state if there is one."""
        path = self.folder / f"{settings.run_name(run)}.pt"
        choose_threads(run)
        training = new_training(run, self.data, (monitored,))
        if (state := self.load(path, run)) is not None:
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
                if steps // steps_between_looks <= looks:
                    continue
                looks += 1
                accuracies = evaluate(training.network, training.cost, *self.data.validation)["accuracy"]
                reached |= torch.tensor(accuracies) >= run["goal"]
                yield accuracies
                if reached.all():
                    self.progress(run, run["epochs"] - epoch)
                    return
            self.progress(run)

    def load(self, path: Path, run: Settings) -> dict[str, Any] | None:
        """Return the saved state of a training; None if there is none, or it belongs to another plan."""
        if not path.exists():
            return None
        saved, state = checkpoint.load(path)
        saved = {"data": run["data"]} | saved  # the first checkpoints do not name their data
        if saved["data"] != run["data"]:
            raise checkpoint.CheckpointError(
                f"{path} was trained on {saved['data']}, got {run['data']}; name the folder of its data by --data-dir, "
                f"or move {self.folder} away"
            )
        return state if saved == run else None

    def progress(self, run: Settings, epochs: int = 1) -> None:
        self.bar.set_description_str(settings.run_name(run), refresh=False)
        self.bar.update(epochs * epoch_work(run))

    def skip(self, run: Settings, epochs: int) -> None:
        """Count epochs that were done before, and leave their time out of the estimate."""
        self.bar.initial += epochs * epoch_work(run)
        self.progress(run, epochs)


def epoch_work(run: Settings) -> int:
    return run["runs"] * len(grid(run)) * run["hidden"][0]


def write(results: dict[str, Any], folder: Path) -> None:
    """Write the results, the report and its pictures."""
    contents: Sequence[tuple[str, bytes]] = (
        ("results.json", json.dumps(results).encode()),
        ("README.md", comparison_report.markdown(results).encode()),
        *((name, picture) for name, picture in comparison_pictures.draw_all(results).items()),
    )
    for name, content in contents:
        files.write_atomically(folder / name, content)


def read_earlier(path: Path, plan: Plan) -> dict[str, Any]:
    """Return the results of the same plan in a file. Raises `FileError` if they are not there."""
    try:
        earlier = json.loads(path.read_bytes())
        expected = json.loads(json.dumps(asdict(plan)))
        if {
            **expected,
            **earlier["plan"],
            **{name: expected[name] for name in ("stuck_epochs", "stuck_steps")},
        } == expected:
            return earlier
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = getattr(error, "strerror", None) or "it does not hold results"
        raise files.FileError(f"{path} cannot be read ({reason}); leave --stuck out to compare all") from error
    raise files.FileError(f"{path} has the results of another plan; leave --stuck out to compare all")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="make a small comparison, to see it work")
    parser.add_argument(
        "--stuck", action="store_true", help="answer the last question only, and take the rest from results.json"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="as for train.py")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="where to write the report")
    flags = parser.parse_args()
    plan, name = (QUICK, "comparison-quick") if flags.quick else (Plan(), "comparison")
    checkpoints = Path("checkpoints") / name
    try:
        folder = flags.write or (checkpoints if flags.quick else Path("docs") / name)
        with files.claim(checkpoints / "results.json"):
            earlier = read_earlier(folder / "results.json", plan) if flags.stuck else None
            write(Comparison(plan, mnist.load(flags.data_dir), checkpoints).results(earlier), folder)
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
