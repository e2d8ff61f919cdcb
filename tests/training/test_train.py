"""Test what train.py prints, what it trains, and how, for its flags."""

import re
import sys

import pytest
import torch

from ce_torch.training import checkpoint, report, settings


def test_the_same_seed_gives_the_same_weights_bit_for_bit(train, assert_weights, tmp_path):
    for name in ("one.pt", "other.pt"):
        train("--seed", 3, "--epochs", 2, "--checkpoint", name)
    assert_weights(tmp_path / "one.pt", tmp_path / "other.pt")


def test_another_seed_gives_other_weights(train, tmp_path, weights):
    for seed in (0, 1):
        train("--seed", seed, "--epochs", 1, "--checkpoint", f"{seed}.pt")
    first, second = weights(tmp_path / "0.pt"), weights(tmp_path / "1.pt")
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_evaluate_prints_the_last_line_of_training(train):
    trained = train("--epochs", 2, "--checkpoint", "run.pt")
    assert train("--evaluate", "run.pt") == (0, trained.out[-1:], [])


def test_quiet_prints_only_the_last_line(train):
    loud = train("--epochs", 2, "--checkpoint", "loud.pt")
    assert train("--epochs", 2, "--checkpoint", "quiet.pt", "--quiet") == (0, loud.out[-1:], [])


def test_on_a_terminal_the_epochs_are_a_bar_beside_the_output(train, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    outcome = train("--epochs", 2, "--checkpoint", "run.pt")
    assert [line for line in outcome.out if line.startswith("epoch")] == []
    assert "2/2" in outcome.err[-1]


@pytest.mark.parametrize("cost", ["quadratic", "ce", "ll"])
def test_every_cost_learns(train, cost):
    outcome = train("--cost", cost, "--epochs", 3, "--checkpoint", "run.pt")
    (accuracy,) = re.findall(r"^test accuracy (\S+)%", outcome.out[-1])
    assert float(accuracy) > 50


def test_hidden_gives_the_hidden_layers(train, tmp_path, weights):
    assert train("--hidden", 20, 10, "--epochs", 1, "--checkpoint", "run.pt").code == 0
    shapes = [tuple(tensor.shape) for tensor in weights(tmp_path / "run.pt").values() if tensor.ndim == 2]
    assert shapes == [(20, 784), (10, 20), (10, 10)]


def test_the_last_line_chooses_an_epoch_on_validation_data():
    accuracies = [(0.90, 0.91), (0.95, 0.92), (0.94, 0.96)]
    history = [
        {"epoch": epoch, "validation": scores(on_validation), "test": scores(on_test)}
        for epoch, (on_validation, on_test) in enumerate(accuracies, start=1)
    ]
    assert report.summary(history[-1], settings.DEFAULTS | {"lr": 0.5}, history) == (
        "test accuracy 96.00% (9600/10000) after epoch 3; "
        "best validation accuracy 95.00% after epoch 2, where test is 92.00%"
    )


@pytest.mark.parametrize(
    ("accuracies", "text"),
    [
        ([0.95], "95.00%"),
        ([0.95, 0.95], "95.00% in each run"),  # Student's margin would be 0, as if it were certain for all runs
        ([0.95, 0.96], "95.50% ± 6.35"),
        ([0.9500, 0.9501] * 20, "95.005% ± 0.002"),
    ],
)
def test_no_margin_is_shown_as_0(accuracies, text):
    assert report.format_margin(accuracies) == text


def scores(accuracy):
    return {"cost": 0.5, "accuracy": accuracy, "correct": round(10_000 * accuracy), "examples": 10_000}


def test_early_stopping_is_reported(train):
    outcome = train("--lr", 0, "--epochs", 9, "--early-stopping", 2, "--checkpoint", "run.pt")
    assert "stopped after epoch 3 of 9: validation accuracy has not risen for 2 epochs" in outcome.out


def test_early_stopping_stops_once_the_accuracy_has_not_risen(train, tmp_path, epochs_done):
    train("--lr", 0, "--epochs", 9, "--early-stopping", 2, "--checkpoint", "run.pt")
    assert epochs_done(tmp_path / "run.pt") == 3


PICTURES = {
    "run.curves.png": "costs and accuracies",
    "run.saturation.png": "saturated output neurons",
    "run.surprises.png": "the most surprising test digits",
    "run.weights.png": "weights of the hidden neurons",
}


def test_plot_writes_pictures_and_prints_where_they_are(train, tmp_path):
    outcome = train("--epochs", 2, "--checkpoint", "run.pt", "--plot")
    assert outcome.code == 0
    assert outcome.out[-5:-1] == [f"drawn: {name}: {shows}" for name, shows in PICTURES.items()]
    for name in PICTURES:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_without_plot_nothing_is_drawn(train, tmp_path):
    train("--epochs", 1, "--checkpoint", "run.pt")
    assert list(tmp_path.glob("*.png")) == []


def test_evaluate_draws_what_training_drew(train, tmp_path):
    train("--epochs", 2, "--checkpoint", "run.pt", "--plot")
    drawn = {name: (tmp_path / name).rename(tmp_path / f"drawn-{name}").read_bytes() for name in PICTURES}
    outcome = train("--evaluate", "run.pt", "--plot")
    assert (outcome.code, outcome.out[0]) == (0, "drawn: run.curves.png: costs and accuracies")
    assert {name: (tmp_path / name).read_bytes() for name in PICTURES} == drawn


def test_the_saturated_neurons_of_other_runs_are_drawn_beside(train, monkeypatch):
    from ce_torch.chapter import run_pictures

    drawn, draw = [], run_pictures.figure_of_saturation
    monkeypatch.setattr(run_pictures, "figure_of_saturation", lambda runs: drawn.extend(runs) or draw(runs))
    for cost in ("quadratic", "ll"):
        train("--cost", cost, "--epochs", 2, "--checkpoint", f"{cost}.pt")
    assert train("--epochs", 1, "--checkpoint", "run.pt", "--plot", "quadratic.pt", "ll.pt").code == 0
    assert [(run.settings["cost"], len(run.history)) for run in drawn] == [("ce", 1), ("quadratic", 2), ("ll", 2)]


def test_a_run_that_diverged_is_drawn_without_its_network(train, tmp_path):
    assert train(*DIVERGES, "--plot").code == 1
    assert {path.name for path in tmp_path.glob("*.png")} == {"run.curves.png", "run.saturation.png"}


def test_a_run_of_an_older_program_is_drawn_without_saturated_neurons(train, tmp_path):
    train("--epochs", 1, "--checkpoint", "run.pt")
    forget_saturated_neurons(tmp_path / "run.pt")
    outcome = train("--evaluate", "run.pt", "--plot")
    assert outcome.code == 0
    assert outcome.out[-2].startswith("not drawn: saturated output neurons")
    assert {path.name for path in tmp_path.glob("*.png")} == PICTURES.keys() - {"run.saturation.png"}


def test_a_run_of_an_older_program_is_not_drawn_beside_another(train, refusal, tmp_path):
    train("--epochs", 1, "--checkpoint", "old.pt")
    forget_saturated_neurons(tmp_path / "old.pt")
    assert refusal("--epochs", 1, "--checkpoint", "run.pt", "--plot", "old.pt") == (
        "train.py: old.pt holds no number of saturated neurons; train it again, or leave it out of --plot"
    )
    assert not (tmp_path / "run.pt").exists()


def forget_saturated_neurons(path):
    run, state = checkpoint.load(path)
    for record in state["history"]:
        for name in ("training", "validation", "test"):
            del record[name]["saturated"], record[name]["saturated_wrong"]
    checkpoint.save(path, run, state)


def test_compile_trains_to_nearly_the_same_weights(train, tmp_path, weights):
    flags = ("--epochs", 1, "--batch-size", 20)
    assert train(*flags, "--checkpoint", "plain.pt").code == 0
    assert train(*flags, "--checkpoint", "compiled.pt", "--compile").code == 0
    plain, compiled = weights(tmp_path / "plain.pt"), weights(tmp_path / "compiled.pt")
    torch.testing.assert_close(compiled, plain, rtol=0, atol=0.01)


@pytest.mark.parametrize(("flags", "times"), [([], 0), (["--compile"], 1)])
def test_the_step_is_compiled_only_with_compile(train, monkeypatch, flags, times):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda steps, **_: calls.append(steps) or steps)
    train("--epochs", 1, "--checkpoint", "run.pt", *flags)
    assert sum(steps.__name__ == "descend" for steps in calls) == times


DIVERGES = ("--cost", "ll", "--lr", 1e9, "--lmbda", 1e9, "--epochs", 5, "--checkpoint", "run.pt")


@pytest.mark.parametrize("runs", [1, 2])
def test_a_run_that_diverged_ends_with_code_1(train, runs):
    assert train(*DIVERGES, "--runs", runs).code == 1
    assert train("--evaluate", "run.pt").code == 1


def test_a_run_that_diverged_is_not_trained_on(train):
    outcome = train(*DIVERGES)
    assert "stopped after epoch 1 of 5: the cost is no longer finite" in outcome.out


def test_a_single_network_is_trained_on_one_thread(train, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    train("--epochs", 1, "--checkpoint", "run.pt")
    assert torch.get_num_threads() == 1


def test_large_mini_batches_are_trained_on_all_threads(train, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    train("--epochs", 1, "--batch-size", 1000, "--checkpoint", "run.pt")
    assert torch.get_num_threads() == 2


def test_omp_num_threads_is_obeyed(train, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    train("--epochs", 1, "--checkpoint", "run.pt")
    assert torch.get_num_threads() == 2


def test_help_lists_the_flags(train, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        train("--help")
    assert {"--cost", "--resume", "--evaluate"} <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
