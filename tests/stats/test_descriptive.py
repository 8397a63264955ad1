"""Descriptive statistics and intervals of rates, against values by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats.descriptive import (
    clopper_pearson_upper,
    launch_bound_seconds,
    matmul_bound_seconds,
    solve_rates_agree,
    spread,
    utilisation,
    wilson_interval,
)
from tests.support.examples import example_run, example_seconds


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert spread([5.0, 1.0, 9.0]) == (5.0, 1.0, 9.0)
    assert spread([4.0, 1.0]) == (2.5, 1.0, 4.0)
    assert spread([3.0]) == (3.0, 3.0, 3.0)
    assert spread([]) is None


def test_the_interval_of_a_rate_is_wilson_s() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_solve_rates_disagree_if_chance_rarely_explains_the_difference() -> None:
    """By hand, 10 of 10: against 5 of 10, 2 × 252 / 15504 = 3.3%; against 6 of 10, 2 × 210 / 4845 = 8.7%."""
    assert solve_rates_agree(10, 10, 10, 10)
    assert solve_rates_agree(10, 10, 6, 10)
    assert not solve_rates_agree(10, 10, 5, 10)
    assert not solve_rates_agree(5, 10, 10, 10)
    assert not solve_rates_agree(0, 10, 30, 30)


def test_the_rate_of_no_attempts_agrees_with_any_other() -> None:
    assert solve_rates_agree(0, 0, 10, 10)
    assert solve_rates_agree(0, 0, 0, 0)


def test_without_errors_the_upper_bound_is_three_over_the_number_of_problems() -> None:
    assert clopper_pearson_upper(0, 1_000_000) == pytest.approx(2.9957e-06, rel=1e-4)
    assert clopper_pearson_upper(0, 1) == pytest.approx(0.95)
    assert clopper_pearson_upper(5, 5) == 1.0


@pytest.mark.parametrize(("errors", "problems"), [(1, 10), (3, 50), (49, 50), (40, 1000)])
def test_at_the_upper_bound_so_few_errors_have_a_probability_of_5_percent(errors: int, problems: int) -> None:
    rate = clopper_pearson_upper(errors, problems)
    odds = sum(math.comb(problems, k) * rate**k * (1 - rate) ** (problems - k) for k in range(errors + 1))
    assert odds == pytest.approx(0.05)


@given(st.integers(1, 200), st.data())
def test_a_rate_lies_within_its_interval_and_its_complement_in_the_mirrored_one(
    num_attempts: int, data: st.DataObject
) -> None:
    num_solved = data.draw(st.integers(0, num_attempts))
    low, high = wilson_interval(num_solved, num_attempts)
    assert 0.0 <= low <= num_solved / num_attempts <= high <= 1.0
    assert wilson_interval(num_attempts - num_solved, num_attempts) == pytest.approx((1 - high, 1 - low))


def test_the_lower_bounds_follow_from_flops_and_launches_and_are_unknown_without_them() -> None:
    measured = {"train_flops": 6e9, "matmul_flops_per_second": 2e9, "step_launches": 100, "launch_seconds": 1e-5}
    run = example_run(steps=500, seconds=example_seconds(train=12.0), **measured)
    assert matmul_bound_seconds(run) == 3.0
    assert launch_bound_seconds(run) == pytest.approx(0.5)
    assert utilisation(run) == 0.25
    for key in measured:
        other = run.model_copy(update={key: None})
        bounds = matmul_bound_seconds(other), launch_bound_seconds(other)
        assert bounds.count(None) == 1
        assert (utilisation(other) is None) == (bounds[0] is None)
