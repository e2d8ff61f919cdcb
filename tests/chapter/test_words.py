"""What the notebook says of what it finds."""

import pytest
import torch

from ce_torch import CrossEntropyCost
from ce_torch.chapter.deltas import Deltas
from ce_torch.chapter.neuron import learn
from ce_torch.chapter.words import progress, remark, table

DELTA = torch.tensor([2.0, -0.5])


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (0, "a = 0.982, C = 4.018, δ = 0.982"),
        (300, "a = 0.982 → 0.012, C = 4.018 → 0.012, δ = 0.982 → 0.012"),
    ],
)
def test_progress_is_from_the_start_to_the_epoch(until, expected):
    assert progress(learn(CrossEntropyCost(), 2.0, 2.0, eta=0.15), until) == expected


def test_the_table_has_a_line_for_each_way():
    lines = table(Deltas(DELTA, DELTA, DELTA)).splitlines()
    assert lines[2:] == [f"| {way} | 2.000000 | -0.500000 |" for way in ("written by hand", "autograd", "differences")]


def test_the_remark_is_how_far_autograd_is_from_the_line_written_by_hand():
    assert remark(Deltas(DELTA, DELTA + 0.001, DELTA)) == "By hand and from autograd differ by 1e-03 at most."


def test_the_remark_says_where_autograd_is_not_finite():
    assert "infinite" in remark(Deltas(DELTA, DELTA * torch.nan, DELTA))
