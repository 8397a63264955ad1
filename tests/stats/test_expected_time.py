"""Charged seconds and expected time to success, against values by hand."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats.expected_time import (
    attempt_costs,
    challenger_costs,
    cost_caps,
    count_solved_seeds,
    expected_time_to_success,
)
from bench.storage.schema import Run
from tests.support.examples import example_run, example_seconds


def attempt(outcome: str, train: float | None, total: float | None = None, seed: int = 7) -> Run:
    return example_run(outcome=outcome, seed=seed, seconds=example_seconds(train=train, total=total))


seconds = st.floats(0.0, 1e4)
outcomes = st.sampled_from(["missed", "diverged", "timeout", "error", "lost", "interrupted"])
attempts = st.lists(
    st.one_of(
        st.builds(attempt, st.just("solved"), seconds, seconds),
        st.builds(attempt, outcomes, st.none() | seconds, st.none() | seconds),
    ),
    max_size=8,
)


def test_an_interrupted_attempt_is_charged_like_a_killed_one() -> None:
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


def test_if_all_attempts_solve_the_expected_time_is_the_mean() -> None:
    runs = [attempt("solved", train) for train in (10.0, 20.0, 60.0)]
    assert expected_time_to_success(runs, "train") == 30.0


def test_a_miss_adds_its_time_and_no_success() -> None:
    runs = [attempt("solved", 10.0), attempt("missed", 20.0), attempt("solved", 30.0), attempt("timeout", 60.0)]
    assert expected_time_to_success(runs, "train") == (10 + 20 + 30 + 60) / 2


def test_each_clock_has_its_own_expected_time() -> None:
    runs = [attempt("solved", 10.0, total=15.0), attempt("missed", 20.0, total=35.0)]
    assert expected_time_to_success(runs, "train") == 30.0
    assert expected_time_to_success(runs, "total") == 50.0


def test_unknown_seconds_are_charged_as_the_limit_or_those_of_the_slowest_attempt() -> None:
    runs = [attempt("solved", 10.0), attempt("lost", None), attempt("missed", 40.0), attempt("error", None)]
    assert attempt_costs(runs, "train") == [10.0, 40.0, 40.0, 40.0]
    assert expected_time_to_success(runs, "train") == 130.0
    limited = [run.model_copy(update={"settings": {"max_seconds": 60.0}}) for run in runs]
    assert attempt_costs(limited, "train") == [10.0, 60.0, 40.0, 60.0]


def test_killing_a_slow_attempt_does_not_improve_the_expected_time() -> None:
    limit = {"settings": {"max_seconds": 120.0}}
    finished = [attempt("solved", 20.0), attempt("missed", 100.0)]
    killed = [attempt("solved", 20.0), attempt("lost", None).model_copy(update=limit)]
    assert expected_time_to_success(killed, "train") >= expected_time_to_success(finished, "train")


@pytest.mark.parametrize("runs", [[], [attempt("missed", 10.0)], [attempt("lost", None), attempt("error", 1.0)]])
def test_without_a_success_the_expected_time_is_infinite(runs: list[Run]) -> None:
    assert expected_time_to_success(runs, "train") == math.inf


@given(attempts, outcomes, st.none() | seconds)
def test_another_missed_attempt_never_improves_the_expected_time(
    runs: list[Run], outcome: str, train: float | None
) -> None:
    more = [*runs, attempt(outcome, train)]
    assert expected_time_to_success(more, "train") >= expected_time_to_success(runs, "train")


@given(attempts, st.integers(0, 7))
def test_turning_a_success_into_a_miss_never_improves_the_expected_time(runs: list[Run], index: int) -> None:
    missed = [
        run.model_copy(update={"outcome": "missed"}) if i == index and run.outcome == "solved" else run
        for i, run in enumerate(runs)
    ]
    assert expected_time_to_success(missed, "train") >= expected_time_to_success(runs, "train")


@given(attempts)
def test_the_expected_time_does_not_depend_on_the_order_of_the_attempts(runs: list[Run]) -> None:
    forward, backward = expected_time_to_success(runs, "train"), expected_time_to_success(runs[::-1], "train")
    assert forward == pytest.approx(backward, rel=1e-12)


# -----------------------------------------------------------------------------
# one seed, one vote


def with_seeds(*attempts: tuple[int, str, float]) -> list[Run]:
    return [attempt(outcome, train, seed=seed) for seed, outcome, train in attempts]


def test_a_seed_that_ran_several_times_counts_with_the_mean_of_its_attempts() -> None:
    runs = with_seeds((1, "solved", 10.0), (2, "solved", 30.0), (2, "missed", 50.0), (3, "missed", 20.0))
    assert expected_time_to_success(runs, "train") == (10 + 40 + 20) / (1 + 1 / 2)
    assert count_solved_seeds(runs) == 1.5


seeded = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from(["solved", "missed"]), st.integers(0, 1000).map(float)), max_size=12
)


@given(seeded)
def test_the_expected_time_is_that_of_the_means_of_the_seeds(attempts: list[tuple[int, str, float]]) -> None:
    runs = with_seeds(*attempts)
    costs, solved = Fraction(0), Fraction(0)
    for seed in {seed for seed, _, _ in attempts}:
        own = [(outcome, Fraction(train)) for other, outcome, train in attempts if other == seed]
        costs += Fraction(sum(train for _, train in own)) / len(own)
        solved += Fraction(sum(outcome == "solved" for outcome, _ in own), len(own))
    assert count_solved_seeds(runs) == pytest.approx(float(solved))
    expected = float(costs / solved) if solved else math.inf
    assert expected_time_to_success(runs, "train") == pytest.approx(expected, rel=1e-12)


@given(seeded, st.integers(2, 3))
def test_repeating_all_attempts_as_they_were_changes_nothing(
    attempts: list[tuple[int, str, float]], times: int
) -> None:
    runs = with_seeds(*attempts)
    assert expected_time_to_success(runs * times, "train") == pytest.approx(expected_time_to_success(runs, "train"))
    assert count_solved_seeds(runs * times) == count_solved_seeds(runs)


@given(seeded)
def test_repeating_a_seed_moves_no_more_than_its_own_vote(attempts: list[tuple[int, str, float]]) -> None:
    """Whatever the repeats, the other seeds keep their part of the costs and of the successes."""
    others = with_seeds((8, "solved", 10.0), (9, "solved", 10.0))
    runs = [*others, *(run.model_copy(update={"seed": 1}) for run in with_seeds(*attempts))]
    assert 2 <= count_solved_seeds(runs) <= 3
    assert 20 / 3 <= expected_time_to_success(runs, "train") <= (20 + 1000) / 2


# -----------------------------------------------------------------------------
# in comparisons


def test_a_challenger_s_unclear_attempts_are_charged_the_larger_limit_of_both_sides() -> None:
    kinds = ("solved", "missed", "lost", "interrupted", "error", "timeout")
    runs = [attempt(outcome, 20.0).model_copy(update={"settings": {"max_seconds": 50.0}}) for outcome in kinds]
    opponents = [attempt("solved", 20.0).model_copy(update={"settings": {"max_seconds": 80.0}})]
    assert challenger_costs(runs, opponents, "train") == [20.0, 20.0, 80.0, 80.0, 80.0, 20.0]
    slower = [attempt("solved", 300.0)]
    assert challenger_costs(runs, slower, "train")[2:5] == [300.0, 300.0, 300.0]
    assert challenger_costs([], [], "train") == []


def side(*trains: float, steps: int = 100, outcome: str = "solved", other: float = 5.0) -> list[Run]:
    """Attempts of these seconds of `train` and `other` seconds beside it."""
    return [
        example_run(outcome=outcome, steps=steps, seconds=example_seconds(train=train, total=train + other))
        for train in trains
    ]


def test_a_solved_attempt_is_capped_at_three_times_the_usual_seconds_for_its_steps() -> None:
    """The usual ones are 10 s for 100 steps; the third attempt trained for twice as many."""
    runs = [*side(10.0, 10.0), *side(20.0, steps=200), *side(200.0)]
    assert cost_caps(runs, "train") == [30.0, 30.0, 60.0, 30.0]
    assert cost_caps(runs, "total") == [45.0, 45.0, 75.0, 45.0]


def test_misses_and_attempts_of_unknown_steps_have_no_cap() -> None:
    runs = [*side(10.0, 10.0), *side(200.0, outcome="missed"), *side(10.0)]
    runs[-1] = runs[-1].model_copy(update={"steps": None})
    assert cost_caps(runs, "train") == [30.0, 30.0, math.inf, math.inf]
    assert cost_caps([attempt("lost", None)], "train") == [math.inf]
    assert cost_caps([], "total") == []
