"""Test the sentences of the notebook about its results."""

import pytest
import torch

from ce_torch import CrossEntropyCost, QuadraticCost
from ce_torch.chapter.deltas import Deltas
from ce_torch.chapter.neuron import learn
from ce_torch.chapter.words import progress, remark, table

DELTA = torch.tensor([2.0, -0.5])


@pytest.mark.parametrize(
    ("last_epoch", "expected"),
    [
        (0, "a = 0.982, C = 4.018, δ = 0.982"),
        (300, "a = 0.982 → 0.012, C = 4.018 → 0.012, δ = 0.982 → 0.012"),
    ],
)
def test_progress_is_from_the_start_to_the_epoch(last_epoch, expected):
    assert progress(learn(CrossEntropyCost(), 2.0, 2.0, eta=0.15), last_epoch) == expected


def test_the_table_has_a_line_for_each_delta():
    lines = table(Deltas(DELTA, DELTA, DELTA)).splitlines()
    assert lines[2:] == [
        f"| {source} | 2.000000 | −0.500000 |" for source in ("written by hand", "autograd", "differences")
    ]


def test_a_delta_that_rounds_to_0_is_not_shown_as_0_unless_it_is():
    tiny = torch.tensor([-1e-9, -0.0])
    assert table(Deltas(tiny, tiny, tiny)).splitlines()[2:] == [
        f"| {source} | ≈ 0 | 0.000000 |" for source in ("written by hand", "autograd", "differences")
    ]


def test_an_output_and_a_delta_that_round_to_0_are_shown_as_powers_of_10():
    assert progress(learn(QuadraticCost(), -5.0, -5.0, eta=0.15), 0) == "a = 4.5e−05, C = 1.0e−09, δ = 2.1e−09"


def test_the_remark_gives_the_distance_between_the_two_deltas():
    assert remark(Deltas(DELTA, DELTA + 0.001, DELTA)) == "The hand-written δ and autograd's differ by 1e-03 at most."


def test_the_remark_says_where_autograd_is_not_finite():
    assert "infinite" in remark(Deltas(DELTA, DELTA * torch.nan, DELTA))
