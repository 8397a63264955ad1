"""Levels of records, against their sum in closed form, and the pairs that a level needs."""

import pytest

from bench.stats.levels import LEVEL, fewest_pairs, record_level


def test_the_levels_of_all_records_against_one_opponent_add_up_to_that_of_one_comparison() -> None:
    """The first n add up to 0.05 n / (n + 1)."""
    levels = [record_level(number) for number in range(1, 200)]
    assert levels[:3] == pytest.approx([0.025, 0.05 / 6, 0.05 / 12])
    for number in (1, 2, 10, 199):
        assert sum(levels[:number]) == pytest.approx(LEVEL * number / (number + 1))


@pytest.mark.parametrize(
    ("level", "pairs"), [(0.05, 6), (0.025, 7), (0.05 / 6, 8), (0.05 / 12, 9), (0.05 / 30, 11), (2 / 64, 6)]
)
def test_the_smallest_p_value_of_the_fewest_pairs_reaches_the_level_and_one_pair_less_does_not(
    level: float, pairs: int
) -> None:
    assert fewest_pairs(level) == pairs
    assert 2 / 2**pairs <= level < 2 / 2 ** (pairs - 1)
