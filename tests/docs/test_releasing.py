"""What docs/releasing.md promises of versions: what an earlier one exported takes what it took."""

import inspect
import re
from pathlib import Path

import pytest

import ce_torch

PROJECT = Path(__file__).resolve().parents[2]
Z, REDUCED = ("z", "y"), {"reduction", "out_dtype"}
SOFTMAX = {"temperature", "weight", "ignore_index", "label_smoothing"} | REDUCED
SIGMOID = {"weight", "pos_weight"} | REDUCED
LAYER = {"temperature", "class_weight", "ignore_index", "label_smoothing", "block_rows", "group"} | REDUCED
# The public names of 0.1.0, their arguments by place, and those by name.
NAMES = {
    "log_likelihood": (Z, SOFTMAX),
    "softmax_cross_entropy": (Z, SOFTMAX),
    "LogLikelihoodCost": ((), SOFTMAX),
    "cross_entropy": (Z, SIGMOID),
    "sigmoid_cross_entropy": (Z, SIGMOID),
    "CrossEntropyCost": ((), SIGMOID),
    "quadratic": (Z, {"activation"} | REDUCED),
    "QuadraticCost": ((), {"activation"} | REDUCED),
    "linear_log_likelihood": (("x", "weight", "y", "bias"), LAYER),
    "linear_softmax_cross_entropy": (("x", "weight", "y", "bias"), LAYER),
    "LinearLogLikelihoodCost": (("in_features", "classes", "bias"), {"device", "dtype"} | LAYER),
    "explain": (("cost",), set()),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_0_1_0_exported_takes_what_it_took(name):
    by_place, by_name = NAMES[name]
    parameters = tuple(inspect.signature(getattr(ce_torch, name)).parameters)
    assert parameters[: len(by_place)] == by_place
    assert by_name - {*parameters} == set()


def test_the_changelog_has_a_section_for_the_version():
    changelog = (PROJECT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\S+)", changelog, re.MULTILINE)[:2] == ["Unreleased", ce_torch.__version__]
