"""Test the files of train.py: their names, their content, how a run resumes, and what is never replaced."""

import json
import re

import pytest
import torch

from ce_torch.training import checkpoint


def test_the_history_is_the_checkpoints_as_json(train, tmp_path):
    train("--epochs", 2, "--checkpoint", "run.pt")
    settings, state = checkpoint.load(tmp_path / "run.pt")
    history = json.loads((tmp_path / "run.history.json").read_text())
    assert history == {"settings": settings, "history": state["history"]}


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_existing_run_is_not_replaced(train, tmp_path, epochs):
    train("--epochs", epochs, "--checkpoint", "run.pt")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    outcome = train("--epochs", 2, "--checkpoint", "run.pt")
    assert outcome == (
        2,
        [],
        [
            "train.py: run.pt exists: to go on with it, --resume run.pt; to keep it, name another --checkpoint; to "
            "replace it, --overwrite"
        ],
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "name",
    ["run.history.json", *(f"run.{name}.png" for name in ("curves", "grid", "saturation", "surprises", "weights"))],
)
def test_an_existing_file_beside_a_checkpoint_is_not_replaced(train, tmp_path, name):
    (tmp_path / name).write_text("mine")
    (line,) = train("--epochs", 1, "--checkpoint", "run.pt", "--plot").err
    assert line == f"train.py: {name} exists: to keep it, name another --checkpoint; to replace it, --overwrite"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_overwrite_replaces_a_run_by_another(train, tmp_path):
    train("--epochs", 2, "--checkpoint", "run.pt")
    assert train("--cost", "ll", "--epochs", 1, "--checkpoint", "run.pt", "--overwrite").code == 0
    run, state = checkpoint.load(tmp_path / "run.pt")
    assert (run["cost"], len(state["history"])) == ("ll", 1)
    assert json.loads((tmp_path / "run.history.json").read_text())["settings"] == run


def test_a_checkpoint_that_is_a_link_stays_one_and_keeps_its_permissions(train, tmp_path, epochs_done):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "run.pt", tmp_path / "run.pt"
    train("--epochs", 1, "--checkpoint", target)
    target.chmod(0o640)
    link.symlink_to(target)
    assert train("--resume", link, "--epochs", 2).code == 0
    assert link.is_symlink()
    assert (epochs_done(target), target.stat().st_mode & 0o777) == (2, 0o640)


def test_evaluate_leaves_the_files_as_they_are(train, tmp_path):
    train("--epochs", 1, "--checkpoint", "run.pt")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    train("--evaluate", "run.pt", "--epochs", 2)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_written_files_are_listed(train, tmp_path):
    outcome = train("--epochs", 1, "--checkpoint", "folder/run.pt", "--plot")
    (line,) = [line for line in outcome.out if line.startswith("written: ")]
    places = line.removeprefix("written: ").split(", ")
    places += [line.split(": ")[1] for line in outcome.out if line.startswith("drawn: ")]
    assert {tmp_path / place for place in places} == {*(tmp_path / "folder").iterdir()}


def test_a_run_is_named_after_its_settings(train, tmp_path):
    train("--cost", "ll", "--hidden", 20, 10, "--lmbda", 5, "--seed", 7, "--epochs", 1)
    assert (tmp_path / "checkpoints" / "ll-20-10-lmbda5.0-seed7.pt").exists()


def test_a_name_too_long_for_a_file_is_cut_and_still_unique(train, tmp_path):
    rates = [0.01 * k for k in range(1, 61)]
    for last in (1, 2):
        assert train("--hidden", 1, "--lr", *rates, last, "--epochs", 1, "--batch-size", 1_000).code == 0
    names = [path.name for path in (tmp_path / "checkpoints").glob("*.pt")]
    assert len(names) == 2
    assert all(re.fullmatch(r"ce-1-batch_size1000-lr0\.01-0\.02-.*\d-etc-[0-9a-f]{8}\.pt", name) for name in names)


def test_a_network_of_many_layers_has_a_name_too(train):
    assert train("--hidden", *[5] * 200, "--epochs", 1, "--batch-size", 1_000).code == 0


def test_a_finished_run_goes_on_for_more_epochs(train, tmp_path, assert_weights):
    train("--epochs", 3, "--checkpoint", "long.pt")
    train("--epochs", 1, "--checkpoint", "short.pt")
    train("--resume", "short.pt", "--epochs", 3)
    assert_weights(tmp_path / "short.pt", tmp_path / "long.pt")


def test_resume_with_another_checkpoint_leaves_the_first_as_it_is(train, tmp_path, epochs_done):
    train("--epochs", 1, "--checkpoint", "run.pt")
    before = (tmp_path / "run.pt").read_bytes()
    train("--resume", "run.pt", "--epochs", 2, "--checkpoint", "longer.pt")
    assert (tmp_path / "run.pt").read_bytes() == before
    assert epochs_done(tmp_path / "longer.pt") == 2


def test_flags_that_agree_with_the_checkpoint_may_be_repeated(train):
    train("--lr", 0.25, "--hidden", 20, "--epochs", 1, "--checkpoint", "run.pt")
    assert train("--resume", "run.pt", "--lr", 0.25, "--hidden", 20).code == 0


def test_the_history_of_a_run_that_diverged_is_still_json(train, tmp_path):
    train("--cost", "ll", "--lr", 1e9, "--lmbda", 1e9, "--epochs", 1, "--checkpoint", "run.pt")
    history = json.loads((tmp_path / "run.history.json").read_text(), parse_constant=pytest.fail)["history"]
    assert history[0]["test"]["cost"] is None


def test_runs_whose_names_hold_dots_keep_their_histories_apart(train, tmp_path):
    for lr in (0.25, 0.5):
        train("--lr", lr, "--epochs", 1, "--checkpoint", f"lr{lr}")
    assert len(list(tmp_path.glob("*.history.json"))) == 2


def test_an_old_checkpoint_without_a_number_of_runs_is_one_run(train, tmp_path):
    train("--epochs", 1, "--checkpoint", "run.pt")
    run, state = checkpoint.load(tmp_path / "run.pt")
    del run["runs"]
    checkpoint.save(tmp_path / "run.pt", run, state)
    assert train("--resume", "run.pt", "--epochs", 2).code == 0


def test_an_old_checkpoint_without_a_digest_loads_with_a_note_and_gets_one(train, tmp_path):
    train("--epochs", 1, "--checkpoint", "run.pt")
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    content["version"] = 1
    del content["settings"]["data"]
    torch.save(content, tmp_path / "run.pt")
    note = "run.pt has an older format, without a digest that shows damage and without the name of its data; "
    note += "--resume adds both"
    assert train("--evaluate", "run.pt").err == [note]
    outcome = train("--resume", "run.pt", "--epochs", 2)
    assert (outcome.code, outcome.err) == (0, [note])
    assert train("--evaluate", "run.pt") == (0, outcome.out[-1:], [])
