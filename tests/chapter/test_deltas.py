"""δ three ways: they agree, and where they cannot it is said."""

import pytest
import torch

from ce_torch.chapter.deltas import SUBJECTS, remark, table, three_ways

Z = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
Y = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_three_ways_agree(name):
    found = three_ways(SUBJECTS[name], Z, Y)
    torch.testing.assert_close(found.by_autograd, found.by_hand)
    torch.testing.assert_close(found.by_differences, found.by_hand, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["cross-entropy, sigmoid neurons", "log-likelihood, softmax"])
def test_by_hand_it_is_right_where_autograd_of_the_textbook_is_not_finite(name):
    found = three_ways(SUBJECTS[name], torch.tensor([800.0, 0.0, 0.0], dtype=torch.float64), Y)
    assert not found.by_autograd.isfinite().all()
    torch.testing.assert_close(found.by_differences, found.by_hand, rtol=1e-6, atol=1e-6)
    assert "infinite" in remark(found)


def test_the_table_has_a_line_for_each_way():
    lines = table(three_ways(SUBJECTS["quadratic, linear neurons"], Z, Y)).splitlines()
    assert lines[2:] == [
        f"| {way} | 2.000000 | -1.000000 | -0.500000 |" for way in ("written by hand", "autograd", "differences")
    ]
