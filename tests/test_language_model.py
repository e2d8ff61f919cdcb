"""The examples as their readers start them."""

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
def start(root, tmp_path):
    """Start the language model in a process of its own, where warnings are errors, in an empty folder."""

    def start(*flags):
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "examples.language_model", *map(str, flags)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return start


def test_the_language_model_learns_and_measures_both_heads(start, tmp_path):
    run = start("--steps", 20, "--batch", 8)

    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    before, after = (float(number) for number in re.findall(r"validation perplexity \w+: ([\d.]+)", run.stdout))
    assert after < before / 2
    for head in ("LinearLogLikelihoodCost", "nn.Linear, F.cross_entropy"):
        milliseconds, megabytes = re.search(rf"^{head} +([\d.]+) ms +([\d.]+) MB", run.stdout, re.MULTILINE).groups()
        assert float(milliseconds) > 0
        assert float(megabytes) > 0
    assert list(tmp_path.iterdir()) == []


def test_both_heads_train_the_language_model_alike(language_model):
    text, vocabulary = language_model.read_text()

    def costs(head):
        torch.manual_seed(0)
        model = language_model.LanguageModel(len(vocabulary), width=32)
        return list(language_model.train(model, text, head, steps=10, batch=4, length=16))

    torch.testing.assert_close(costs("ce"), costs("linear"), rtol=1e-4, atol=0)


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
def test_what_cannot_be_run_is_said_in_a_sentence(start, flags, sentence):
    run = start(*flags)

    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].endswith(sentence)
