"""Test train.py with many networks at once: runs with several seeds, and grids of learning rates and lmbda."""

import json
import re
from statistics import fmean

import pytest
import torch

from ce_torch.training import checkpoint

GRID = ("--lr", 0.01, 0.5, "--lmbda", 0, 5, "--runs", 2, "--epochs", 2)
POINTS = [(0.01, 0), (0.01, 5), (0.5, 0), (0.5, 5)]


def weights(path):
    return checkpoint.load(path)[1]["network"]


def last_record(path):
    return json.loads(path.with_suffix(".history.json").read_text())["history"][-1]


def test_many_runs_report_their_mean_its_margin_and_their_range(train, tmp_path):
    outcome = train("--runs", 3, "--epochs", 2, "--checkpoint", "run.pt")
    accuracies = last_record(tmp_path / "run.pt")["test"]["accuracy"]
    mean, margin, lowest, highest = re.fullmatch(
        r"test accuracy (\S+)% ± (\S+) \(95% confidence, 3 runs from (\S+)% to (\S+)%\)", outcome.out[-1]
    ).groups()
    assert float(mean) == pytest.approx(100 * sum(accuracies) / 3, abs=0.01)
    assert 0 < float(margin) < 20
    assert float(lowest) == pytest.approx(100 * min(accuracies), abs=0.01)
    assert float(highest) == pytest.approx(100 * max(accuracies), abs=0.01)


def test_each_of_many_runs_is_the_single_run_of_its_seed(train, tmp_path):
    train("--runs", 2, "--seed", 5, "--epochs", 1, "--checkpoint", "many.pt")
    train("--seed", 6, "--epochs", 1, "--checkpoint", "alone.pt")
    many, alone = weights(tmp_path / "many.pt"), weights(tmp_path / "alone.pt")
    for name, tensor in alone.items():
        torch.testing.assert_close(many[name][1], tensor, rtol=0, atol=1e-3)


def assert_same(actual, expected):
    assert all(torch.equal(actual[name], expected[name]) for name in actual)


def test_many_runs_are_resumed_and_evaluated(train, tmp_path):
    whole = train("--runs", 2, "--epochs", 2, "--checkpoint", "whole.pt", "--plot")
    train("--runs", 2, "--epochs", 1, "--checkpoint", "part.pt")
    assert train("--resume", "part.pt", "--epochs", 2).out[-1] == whole.out[-1]
    assert train("--evaluate", "part.pt").out == whole.out[-1:]
    assert_same(weights(tmp_path / "part.pt"), weights(tmp_path / "whole.pt"))


def test_the_last_line_says_that_all_runs_diverged(train):
    outcome = train("--runs", 2, "--cost", "ll", "--lr", 1e9, "--lmbda", 1e9, "--epochs", 1, "--checkpoint", "run.pt")
    assert outcome.out[-1] == "all runs diverged; choose a smaller --lr"


def test_each_point_of_a_grid_is_trained_as_if_alone(train, tmp_path):
    train(*GRID, "--checkpoint", "grid.pt")
    for i, (lr, lmbda) in enumerate(POINTS):
        train("--lr", lr, "--lmbda", lmbda, "--seed", 1, "--epochs", 2, "--checkpoint", f"{i}.pt")
        many, alone = weights(tmp_path / "grid.pt"), weights(tmp_path / f"{i}.pt")
        for name, tensor in alone.items():
            torch.testing.assert_close(many[name][2 * i + 1], tensor, rtol=0, atol=1e-3)


def test_a_grid_reports_the_test_accuracy_of_its_best_point_on_validation_data(train, tmp_path):
    outcome = train(*GRID, "--checkpoint", "grid.pt")
    record = last_record(tmp_path / "grid.pt")
    means = {
        name: [fmean(record[name]["accuracy"][2 * i : 2 * i + 2]) for i in range(4)] for name in ("validation", "test")
    }
    best = means["validation"].index(max(means["validation"]))
    lr, lmbda = POINTS[best]
    # Two runs may be equal, and then have no margin.
    assert outcome.out[-1].startswith(f"test accuracy {means['test'][best]:.2%} ")
    assert outcome.out[-1].endswith(f", with --lr {lr} --lmbda {float(lmbda)} chosen on validation data")


def test_a_grid_is_shown_as_a_table(train, tmp_path):
    *_, head, first, second, third, fourth, _, _ = train(*GRID, "--checkpoint", "grid.pt").out
    assert head.split() == ["lr", "lmbda", "validation", "accuracy"]
    assert [row.split()[:2] for row in (first, second, third, fourth)] == [
        [f"{lr:g}", f"{lmbda:g}"] for lr, lmbda in POINTS
    ]


def test_quiet_prints_only_the_last_line_of_a_grid(train):
    assert len(train(*GRID, "--checkpoint", "grid.pt", "--quiet").out) == 1


def test_a_grid_of_one_run_each_reports_the_chosen_run(train):
    outcome = train("--lmbda", 0, 5, "--epochs", 1, "--checkpoint", "grid.pt")
    pattern = r"test accuracy \S+% \(\d+/500\), with --lmbda (0.0|5.0) chosen on validation data"
    assert re.fullmatch(pattern, outcome.out[-1])


def test_a_grid_is_resumed_and_evaluated(train, tmp_path):
    whole = train(*GRID, "--checkpoint", "whole.pt")
    train(*GRID[:-1], 1, "--checkpoint", "part.pt")
    *table, _, last = whole.out[-7:]
    resumed = train("--resume", "part.pt", "--epochs", 2).out
    assert [*resumed[-7:-2], resumed[-1]] == [*table, last]
    assert train("--evaluate", "part.pt").out == [*table, last]
    assert_same(weights(tmp_path / "part.pt"), weights(tmp_path / "whole.pt"))


def test_a_grid_is_drawn(train, tmp_path):
    train(*GRID, "--checkpoint", "grid.pt", "--plot")
    for name in ("grid.curves.png", "grid.grid.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_rate_at_which_networks_diverge_is_marked_and_not_chosen(train):
    flags = "--cost", "ll", "--lmbda", 1e4, "--runs", 2, "--epochs", 1
    alone = train(*flags, "--lr", 0.1, "--checkpoint", "alone.pt")
    outcome = train(*flags, "--lr", 0.1, 1e9, "--checkpoint", "grid.pt")
    assert outcome.out[-3].split() == ["1e+09", "10000", "2", "diverged"]
    assert outcome.out[-1] == f"{alone.out[-1]}, with --lr 0.1 chosen on validation data"


def test_a_checkpoint_is_named_after_its_grid(train, tmp_path):
    train(*GRID[:-1], 1)
    assert (tmp_path / "checkpoints" / "ce-30-lr0.01-0.5-lmbda0.0-5.0-runs2-seed0.pt").exists()
