"""Significance levels of the swap test, and the pairs that they need."""

import math

LEVEL = 0.05  # two-sided, of one comparison; of all records together that are tried against one opponent


def record_level(number: int) -> float:
    """The level of the record that is tried as comparison `number`, from 1, against one opponent.

    0.05 / (number (number + 1)) adds up to 0.05 over all numbers. So the chance that equal sides are ever told apart is
    at most 5%, however many records are tried (Bonferroni's inequality, with unequal shares).
    """
    return LEVEL / (number * (number + 1))


def fewest_pairs(level: float) -> int:
    """The least number of pairs that can decide at a level: the smallest p-value of N pairs is 2 / 2**N."""
    return math.ceil(1 - math.log2(level))
