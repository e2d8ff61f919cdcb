"""Every cost with any options, dtypes, strides, sizes and values, by any backend, in any mode, is the textbook's.

A failure names the seed and the index of a combination. These are enough to run it again, with its whole traceback,
from the project's folder:

    PYTHONPATH=.:tests/costs python -m fuzzing SEED INDEX

In `fuzzing`, `draw.py` says what is drawn, `textbooks.py` what is right, `modes.py` what is asked, `check.py` how exact
the library must be.
"""

import pytest
import torch
from fuzzing.check import check
from fuzzing.draw import OPTIONS, combination, option_names
from fuzzing.textbooks import TEXTBOOKS
from torch.autograd import forward_ad

from ce_torch.costs._registry import COSTS
from ce_torch.functional import log_likelihood

SEED, LONG_SEED = 0, 1
AT_ONCE, AT_ONCE_LONG = 100, 300


def check_all(seed, indices):
    for index in indices:
        drawn = combination(seed, index)
        try:
            check(drawn)
        except Exception as error:
            pytest.fail(f"PYTHONPATH=.:tests/costs python -m fuzzing {seed} {index}: {error} ({drawn})")


@pytest.mark.parametrize("start", range(0, 800, AT_ONCE))
def test_a_combination_is_the_textbooks(start):
    check_all(SEED, range(start, start + AT_ONCE))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 6000, AT_ONCE_LONG))
def test_thousands_of_combinations_are_the_textbooks(start):
    check_all(LONG_SEED, range(start, start + AT_ONCE_LONG))


def test_every_cost_has_its_textbook():
    assert set(TEXTBOOKS) == set(COSTS)


@pytest.mark.parametrize("cost", COSTS)
def test_every_option_is_drawn(cost):
    assert set(option_names(cost)) <= set(OPTIONS)


def test_a_tangent_is_of_the_dtype_of_the_cost():
    z, y = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.float64)
    with forward_ad.dual_level():
        C = log_likelihood(z, forward_ad.make_dual(y, y))
        assert forward_ad.unpack_dual(C).tangent.dtype == C.dtype
