"""Expected time to success, by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats.descriptive import clopper_pearson_upper, solve_rates_agree, spread, wilson_interval
from bench.stats.expected_time import attempt_costs, expected_time_to_success
from bench.storage.schema import Run
from tests.support.examples import example_run, example_seconds


def attempt(outcome: str, train: float | None, total: float | None = None) -> Run:
    return example_run(outcome=outcome, seconds=example_seconds(train=train, total=total))


seconds = st.floats(0.0, 1e4)
outcomes = st.sampled_from(["missed", "diverged", "timeout", "error", "lost", "interrupted"])
attempts = st.lists(
    st.one_of(
        st.builds(attempt, st.just("solved"), seconds, seconds),
        st.builds(attempt, outcomes, st.none() | seconds, st.none() | seconds),
    ),
    max_size=8,
)


def test_interrupting_a_slow_attempt_pays_no_more_than_killing_it() -> None:
    limit = {"settings": {"max_seconds": 120.0}}
    stopped = [attempt("solved", 20.0, 26.5), attempt("interrupted", 21.0, 27.5).model_copy(update=limit)]
    assert attempt_costs(stopped, "train") == [20.0, 120.0]
    assert attempt_costs(stopped, "total") == [26.5, 120.0]
    late = attempt("interrupted", 130.0, 140.0).model_copy(update=limit)
    assert attempt_costs([late], "train") == [130.0]


def test_a_warm_up_beyond_its_limit_is_charged_to_train() -> None:
    runs = [example_run(seconds=example_seconds(warmup=warmup, train=20.0)) for warmup in (119.0, 120.0, 150.0)]
    assert attempt_costs(runs, "train") == [20.0, 20.0, 50.0]
    assert attempt_costs(runs, "total") == [run.seconds.total for run in runs]


# -----------------------------------------------------------------------------
# examples


def test_when_all_attempts_solve_it_is_their_mean() -> None:
    runs = [attempt("solved", train) for train in (10.0, 20.0, 60.0)]
    assert expected_time_to_success(runs, "train") == 30.0


def test_a_miss_costs_its_time_and_counts_for_nothing() -> None:
    runs = [attempt("solved", 10.0), attempt("missed", 20.0), attempt("solved", 30.0), attempt("timeout", 60.0)]
    assert expected_time_to_success(runs, "train") == (10 + 20 + 30 + 60) / 2


def test_each_clock_has_its_own() -> None:
    runs = [attempt("solved", 10.0, total=15.0), attempt("missed", 20.0, total=35.0)]
    assert expected_time_to_success(runs, "train") == 30.0
    assert expected_time_to_success(runs, "total") == 50.0


def test_unknown_seconds_are_charged_as_the_limit_or_those_of_the_slowest() -> None:
    runs = [attempt("solved", 10.0), attempt("lost", None), attempt("missed", 40.0), attempt("error", None)]
    assert attempt_costs(runs, "train") == [10.0, 40.0, 40.0, 40.0]
    assert expected_time_to_success(runs, "train") == 130.0
    limited = [run.model_copy(update={"settings": {"max_seconds": 60.0}}) for run in runs]
    assert attempt_costs(limited, "train") == [10.0, 60.0, 40.0, 60.0]


def test_killing_a_slow_attempt_never_pays() -> None:
    limit = {"settings": {"max_seconds": 120.0}}
    finished = [attempt("solved", 20.0), attempt("missed", 100.0)]
    killed = [attempt("solved", 20.0), attempt("lost", None).model_copy(update=limit)]
    assert expected_time_to_success(killed, "train") >= expected_time_to_success(finished, "train")


@pytest.mark.parametrize("runs", [[], [attempt("missed", 10.0)], [attempt("lost", None), attempt("error", 1.0)]])
def test_without_a_success_it_is_infinite(runs: list[Run]) -> None:
    assert expected_time_to_success(runs, "train") == math.inf


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert spread([5.0, 1.0, 9.0]) == (5.0, 1.0, 9.0)
    assert spread([4.0, 1.0]) == (2.5, 1.0, 4.0)
    assert spread([3.0]) == (3.0, 3.0, 3.0)
    assert spread([]) is None


def test_the_interval_of_a_share_is_wilson_s() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_solve_rates_disagree_when_chance_would_rarely_part_them_so() -> None:
    """By hand, 10 of 10: against 5 of 10, 2 × 252 / 15504 = 3.3%; against 6 of 10, 2 × 210 / 4845 = 8.7%."""
    assert solve_rates_agree(10, 10, 10, 10)
    assert solve_rates_agree(10, 10, 6, 10)
    assert not solve_rates_agree(10, 10, 5, 10)
    assert not solve_rates_agree(5, 10, 10, 10)
    assert not solve_rates_agree(0, 10, 30, 30)


def test_no_attempts_agree_with_anything() -> None:
    assert solve_rates_agree(0, 0, 10, 10)
    assert solve_rates_agree(0, 0, 0, 0)


def test_without_an_error_the_rate_is_below_three_in_all_that_were_asked() -> None:
    assert clopper_pearson_upper(0, 1_000_000) == pytest.approx(2.9957e-06, rel=1e-4)
    assert clopper_pearson_upper(0, 1) == pytest.approx(0.95)
    assert clopper_pearson_upper(5, 5) == 1.0


@pytest.mark.parametrize(("errors", "problems"), [(1, 10), (3, 50), (49, 50), (40, 1000)])
def test_at_the_bound_so_few_errors_have_odds_of_one_in_twenty(errors: int, problems: int) -> None:
    rate = clopper_pearson_upper(errors, problems)
    odds = sum(math.comb(problems, k) * rate**k * (1 - rate) ** (problems - k) for k in range(errors + 1))
    assert odds == pytest.approx(0.05)


# -----------------------------------------------------------------------------
# laws


@given(st.integers(1, 200), st.data())
def test_a_share_lies_within_its_interval_and_so_does_the_reverse(num_attempts: int, data: st.DataObject) -> None:
    num_solved = data.draw(st.integers(0, num_attempts))
    low, high = wilson_interval(num_solved, num_attempts)
    assert 0.0 <= low <= num_solved / num_attempts <= high <= 1.0
    assert wilson_interval(num_attempts - num_solved, num_attempts) == pytest.approx((1 - high, 1 - low))


@given(attempts, outcomes, st.none() | seconds)
def test_one_more_attempt_that_missed_never_improves_it(runs: list[Run], outcome: str, train: float | None) -> None:
    more = [*runs, attempt(outcome, train)]
    assert expected_time_to_success(more, "train") >= expected_time_to_success(runs, "train")


@given(attempts, st.integers(0, 7))
def test_a_success_that_becomes_a_miss_never_improves_it(runs: list[Run], index: int) -> None:
    missed = [
        run.model_copy(update={"outcome": "missed"}) if i == index and run.outcome == "solved" else run
        for i, run in enumerate(runs)
    ]
    assert expected_time_to_success(missed, "train") >= expected_time_to_success(runs, "train")


@given(attempts)
def test_it_does_not_depend_on_the_order_of_the_attempts(runs: list[Run]) -> None:
    forward, backward = expected_time_to_success(runs, "train"), expected_time_to_success(runs[::-1], "train")
    assert forward == pytest.approx(backward, rel=1e-12)
