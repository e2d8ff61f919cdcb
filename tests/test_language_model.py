"""Test the example of a language model as its readers start it."""

import os
import re
import subprocess
import sys
from importlib import util

import pytest
import torch


@pytest.fixture(scope="module")
def language_model(root):
    spec = util.spec_from_file_location("language_model", root / "examples" / "language_model.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(language_model, monkeypatch, capsys, tmp_path):
    """Run the language model with flags in an empty folder, and return its exit code and what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["language_model", *map(str, flags)])
        try:
            code = language_model.main() or 0
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    return run


MEASURED = ("LinearLogLikelihoodCost", "nn.Linear, F.cross_entropy")


def test_both_heads_are_measured(run, tmp_path):
    code, out, err = run("--steps", 2, "--batch", 2, "--length", 8, "--width", 16)
    assert (code, err) == (0, "")
    for head in MEASURED:
        assert re.search(rf"^{head} +[\d.]+ ms +[\d.]+ MB", out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_language_model_learns_without_a_warning(root, tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.language_model", "--steps", "20", "--batch", "8"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")
    before, after = (float(number) for number in re.findall(r"validation perplexity \w+: ([\d.]+)", run.stdout))
    assert after < before / 2
    for head in MEASURED:
        milliseconds, megabytes = re.search(rf"^{head} +([\d.]+) ms +([\d.]+) MB", run.stdout, re.MULTILINE).groups()
        assert float(milliseconds) > 0
        assert float(megabytes) > 0


def test_both_heads_train_the_language_model_alike(language_model):
    text, vocabulary = language_model.read_text()

    def costs(head):
        torch.manual_seed(0)
        model = language_model.LanguageModel(len(vocabulary), width=32)
        return list(language_model.train(model, text, head, steps=10, batch=4, length=16))

    actual = costs("ce")
    torch.testing.assert_close(actual, costs("linear"), rtol=1e-4, atol=0)
    assert actual[-1] < actual[0]


def test_the_embedding_is_the_weight_of_the_head(language_model):
    model = language_model.LanguageModel(vocabulary=10, width=4)

    assert model.cost.layer.weight is model.embedding.weight


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--steps", 0), "argument --steps: must be a whole number from 1 to 5000, got '0'"),
        (("--width", "wide"), "argument --width: must be a whole number from 1 to 5000, got 'wide'"),
        (("--length", 100_000), "argument --length: must be a whole number from 1 to 5000, got '100000'"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_sentence(run, flags, sentence):
    code, out, err = run(*flags)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith(sentence)
