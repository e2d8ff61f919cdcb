"""Test the comparison of costs: what it trains, that a break loses nothing, and what it writes."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from ce_torch.chapter import compare
from ce_torch.chapter.compare import Comparison, Plan
from ce_torch.training import checkpoint, files, mnist, settings
from ce_torch.training.checkpoint import CheckpointError
from ce_torch.training.loop import Training

# A goal that some networks reach in the first epoch and others not at all.
PLAN = Plan(hidden=(4, 5), rates=(0.1, 3.0), choices=2, runs=3, epochs=2, same_rates=(0.5, 3.0), goal=0.4, looks=5)
PLAN = replace(PLAN, stuck_epochs=2, stuck_steps=(10, 20))


@pytest.fixture(scope="module")
def data(real_mnist):
    """A slice of MNIST; to train on it takes a tenth of a second."""
    return mnist.MNIST(*(mnist.Examples(part.x[:500], part.y[:500]) for part in real_mnist))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def results(data, folder):
    return Comparison(PLAN, data, folder).results()


def load_checkpoints(folder):
    return {path.name: checkpoint.load(path) for path in folder.glob("*.pt")}


def test_every_cost_and_size_gets_the_best_rate_on_validation_data(results):
    assert [(choice["hidden"], choice["cost"]) for choice in results["choices"]] == [
        (hidden, cost) for hidden in (4, 5) for cost in ("quadratic", "ce", "ll")
    ]
    for choice in results["choices"]:
        means = [sum(validation["accuracies"]) / 2 for validation in choice["validation"]]
        assert choice["rate"] == PLAN.rates[means.index(max(means))]


def test_networks_are_compared_at_the_chosen_rate(results):
    rates = {(choice["hidden"], choice["cost"]): choice["rate"] for choice in results["choices"]}
    assert {(final["hidden"], final["cost"]): final["rate"] for final in results["finals"]} == rates


def test_every_run_has_a_test_accuracy_after_every_epoch(results):
    for final in results["finals"]:
        assert torch.tensor(final["test"]).shape == (PLAN.epochs, PLAN.runs)


def test_compared_networks_have_the_same_seeds_and_chose_no_rate(results, folder):
    seeds = {"choices": set(), "finals": set()}
    for name, (run, _) in load_checkpoints(folder).items():
        if name.startswith("stuck-"):
            continue
        seeds["choices" if isinstance(run["lr"], list) else "finals"].add((run["seed"], run["runs"]))
    assert seeds == {"choices": {(compare.FIRST_CHOICE_SEED, 2)}, "finals": {(0, 3)}}


def test_output_neurons_are_followed_from_the_first_weights_to_the_last_epoch(results):
    for case in results["stuck"]:
        assert (len(case["looks"]), len(case["steps"])) == (PLAN.stuck_epochs + 1, len(PLAN.stuck_steps))
        for look in (*case["steps"], *case["looks"]):
            assert all(len(values) == PLAN.runs for values in look.values())


def test_one_thing_at_a_time_is_changed_when_neurons_are_followed(results):
    rates = {(choice["hidden"], choice["cost"]): choice["rate"] for choice in results["choices"]}
    cases = [(case["hidden"], case["cost"], case["weights"], case["rate_of"]) for case in results["stuck"]]
    assert cases == [
        *((5, "quadratic", weights, cost) for cost in ("quadratic", "ce") for weights in ("large", "output", "scaled")),
        (4, "quadratic", "large", "quadratic"),
        (5, "ce", "large", "ce"),
    ]
    for case in results["stuck"]:
        assert case["rate"] == rates[case["hidden"], case["rate_of"]]


def test_followed_networks_are_those_that_are_compared(results):
    finals = {(final["hidden"], final["cost"]): final for final in results["finals"]}
    for case in results["stuck"]:
        if case["weights"] == "large" and case["cost"] == case["rate_of"]:
            followed = [look["accuracy"] for look in case["looks"][1:]]
            assert followed == finals[case["hidden"], case["cost"]]["test"]


def test_the_last_question_alone_keeps_the_other_results(results, data, folder, monkeypatch):
    earlier = {name: value for name, value in results.items() if name != "stuck"}
    monkeypatch.setattr(Training, "descend", None)  # all is trained
    monkeypatch.setattr(Comparison, "compare_costs", None)
    assert Comparison(PLAN, data, folder).results(earlier) == results


def test_timing_ends_when_all_networks_have_reached_the_goal(results):
    for speed in results["speeds"]:
        looks = torch.tensor(speed["validation"])
        arrived = (looks >= PLAN.goal).cumsum(0).bool().all(1)
        assert not arrived[:-1].any()
        assert arrived[-1] or len(looks) == PLAN.epochs * PLAN.looks


def test_every_cost_is_timed_at_the_same_rates_and_at_its_own(results):
    for cost in ("quadratic", "ce", "ll"):
        (own,) = (choice["rate"] for choice in results["choices"] if (choice["cost"], choice["hidden"]) == (cost, 4))
        assert {speed["rate"] for speed in results["speeds"] if speed["cost"] == cost} == {0.5, 3.0, own}


@pytest.mark.parametrize("epochs", [1, 5, 13, 20])
def test_a_break_changes_nothing(epochs, results, data, tmp_path, monkeypatch):
    train_one_epoch, done = Training.train_one_epoch, []

    def break_off(training):
        done.append(training)
        if len(done) > epochs:
            raise KeyboardInterrupt
        train_one_epoch(training)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_one_epoch", break_off)
        with pytest.raises(KeyboardInterrupt):
            Comparison(PLAN, data, tmp_path).results()
    assert Comparison(PLAN, data, tmp_path).results() == results


def test_finished_trainings_are_not_repeated(results, data, folder, monkeypatch):
    monkeypatch.setattr(Training, "descend", None)
    assert Comparison(PLAN, data, folder).results() == results


def test_trainings_of_another_plan_are_repeated(results, data, folder, tmp_path):
    other = Plan(**{**results["plan"], "epochs": 1})
    Comparison(other, data, tmp_path).results()
    assert Comparison(PLAN, data, tmp_path).results() == results


def test_trainings_of_other_data_are_refused_and_stay(results, data, folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    inverted = mnist.MNIST(*(part._replace(x=1 - part.x) for part in data))
    with pytest.raises(CheckpointError, match=r"\.pt was trained on data .*, not MNIST, got data .*, not MNIST; name"):
        Comparison(PLAN, inverted, folder).results()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_old_trainings_that_do_not_name_their_data_are_not_repeated(results, data, folder, tmp_path, monkeypatch):
    for name, (run, state) in load_checkpoints(folder).items():
        del run["data"]
        checkpoint.save(tmp_path / name, run, state)
    monkeypatch.setattr(Training, "descend", None)
    assert Comparison(PLAN, data, tmp_path).results() == results


def test_a_training_is_the_same_as_with_train_py(results, train, small_mnist, data, tmp_path, monkeypatch):
    final = results["finals"][1]
    flags = "--cost", final["cost"], "--hidden", 4, "--lr", final["rate"], "--runs", 3, "--epochs", 2
    monkeypatch.setattr(mnist, "load", lambda *_: data)
    train(*flags, "--checkpoint", "run.pt")
    history = json.loads((tmp_path / "run.history.json").read_text())["history"]
    assert [record["test"]["accuracy"] for record in history] == final["test"]


@pytest.fixture
def run_compare(data, monkeypatch, capsys, tmp_path):
    """Run the program with flags, in a folder of its own and with a small plan."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "QUICK", PLAN)

    def run_compare(*flags):
        monkeypatch.setattr(sys, "argv", ["compare", *flags])
        code = compare.main()
        return code, *capsys.readouterr()

    return run_compare


def test_the_program_writes_the_report_its_pictures_and_figures(run_compare, data, monkeypatch, tmp_path, results):
    monkeypatch.setattr(mnist, "load", lambda *_: data)
    code, out, _ = run_compare("--quick", "--write", "report")
    assert (code, out) == (0, "report/README.md is written\n")
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == json.loads(json.dumps(results))
    report = (tmp_path / "report" / "README.md").read_text()
    for name in ("accuracies.png", "rates.png", "speed.png", "stuck.png"):
        assert f"]({name})" in report
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"{", "cannot be read (it does not hold results)"),
        (b"{}", "cannot be read (it does not hold results)"),
        (b'{"plan": {"runs": 99}}', "has the results of another plan"),
    ],
)
def test_the_last_question_alone_needs_results_of_the_same_plan(run_compare, tmp_path, content, reason):
    (tmp_path / "report").mkdir()
    if content is not None:
        (tmp_path / "report" / "results.json").write_bytes(content)
    code, out, err = run_compare("--quick", "--stuck", "--write", "report")
    assert (code, out) == (2, "")
    assert err == f"compare: report/results.json {reason}; leave --stuck out to compare all\n"


def test_a_second_comparison_in_the_same_folder_is_refused(run_compare, tmp_path):
    with files.claim(tmp_path / "checkpoints" / "comparison-quick" / "results.json"):
        code, _, err = run_compare("--quick")
    assert code == 2
    assert "is being written by another run" in err


def test_a_folder_without_mnist_is_named(run_compare, tmp_path):
    (tmp_path / "empty").write_text("")
    code, out, err = run_compare("--quick", "--data-dir", "empty")
    assert (code, out) == (2, "")
    assert err.startswith("compare: empty")


def test_ctrl_c_says_how_to_go_on(run_compare, data, monkeypatch):
    monkeypatch.setattr(mnist, "load", lambda *_: data)
    monkeypatch.setattr(Training, "train_one_epoch", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    code, _, err = run_compare("--quick")
    assert code == 130
    assert err.splitlines()[-1] == "stopped; the same command goes on where it was"


def test_the_settings_of_a_plan_are_those_of_train_py(results, folder):
    for run, _ in load_checkpoints(folder).values():
        assert settings.DEFAULTS.keys() <= run.keys()
