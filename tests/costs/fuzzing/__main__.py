"""Run the combination of a seed and an index, or all up to a last index: python -m fuzzing SEED INDEX [LAST]."""

import sys

from fuzzing.check import check
from fuzzing.draw import combination

seed, first, *last = map(int, sys.argv[1:])
for index in range(first, (last or [first])[0] + 1):
    drawn = combination(seed, index)
    print(f"{index}: {drawn}")
    print(f"    right, with at most {check(drawn):.0%} of the error that is allowed beyond the rounding of results")
