"""Paired comparisons, against values by hand and naive loops in exact arithmetic."""

import itertools
import math
import random
from fractions import Fraction
from statistics import NormalDist, variance

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats.expected_time import expected_time_to_success
from bench.stats.paired_test import (
    ChargedAttempts,
    Pairs,
    charge_attempts,
    drift,
    log_ert,
    log_ert_ratio,
    pair_runs,
    pairs_needed,
    ratio_interval,
    swap_test,
    swaps,
    unpaired_ratio_interval,
    verdict,
)
from bench.storage.schema import Run
from tests.support.examples import example_run, example_seconds


def attempts(*costs: float) -> ChargedAttempts:
    """The attempts of one side; negative seconds mean a miss of that cost."""
    return ChargedAttempts(np.abs(np.array(costs, dtype=float)), np.array([cost > 0 for cost in costs], dtype=bool))


def exchanged(pairs: Pairs) -> Pairs:
    return Pairs(pairs.b, pairs.a)


def random_pairs(num_pairs: int, ratio: float, noise: float, seed: int = 0) -> Pairs:
    """Pairs without misses; `noise` is the standard deviation of the log seconds."""
    generator = np.random.default_rng(seed)
    costs_a, costs_b = np.exp(noise * generator.normal(size=(2, num_pairs)))
    return Pairs(attempts(*(20.0 * ratio * costs_a)), attempts(*(20.0 * costs_b)))


def attempt(outcome: str, train: float | None, seed: int = 7) -> Run:
    return example_run(outcome=outcome, seed=seed, seconds=example_seconds(train=train))


one_attempt = st.tuples(st.floats(0.0, 1e4), st.booleans())


def lists_of_pairs(min_size: int, max_size: int) -> st.SearchStrategy[Pairs]:
    def pairs_of(rows: list[tuple[tuple[float, bool], tuple[float, bool]]]) -> Pairs:
        sides = [[row[side] for row in rows] for side in (0, 1)]
        return Pairs(
            *(ChargedAttempts(np.array([c for c, _ in s]), np.array([k for _, k in s], dtype=bool)) for s in sides)
        )

    return st.lists(st.tuples(one_attempt, one_attempt), min_size=min_size, max_size=max_size).map(pairs_of)


# -----------------------------------------------------------------------------
# from runs to pairs


def test_each_side_is_charged_by_the_rules_of_a_batch() -> None:
    pairs = pair_runs(
        [attempt("solved", 10.0, seed=1), attempt("lost", None, seed=2), attempt("missed", 30.0, seed=3)],
        [attempt("lost", None, seed=1), attempt("solved", 50.0, seed=2), attempt("solved", 70.0, seed=3)],
        "train",
    )
    assert pairs.num_pairs == 3
    assert pairs.a.costs.tolist() == [10.0, 30.0, 30.0]
    assert pairs.a.solved.tolist() == [True, False, False]
    assert pairs.b.costs.tolist() == [70.0, 50.0, 70.0]
    assert pairs.b.solved.tolist() == [False, True, True]


def test_each_clock_has_its_own_costs() -> None:
    runs = [example_run(seconds=example_seconds(train=10.0, total=25.0))]
    assert charge_attempts(runs, "train").costs.tolist() == [10.0]
    assert charge_attempts(runs, "total").costs.tolist() == [25.0]


def test_runs_with_different_seeds_are_refused() -> None:
    runs = [attempt("solved", 10.0, seed=seed) for seed in (1, 2, 3)]
    for others in (runs[::-1], runs[:2], []):
        with pytest.raises(ValueError, match="seeds differ"):
            pair_runs(runs, others, "train")


def test_a_comparison_without_pairs_has_no_result() -> None:
    pairs = pair_runs([], [], "train")
    assert log_ert_ratio(pairs) == 0.0
    assert swap_test(pairs, 0) == 1.0
    assert verdict(pairs, 0) == "not decided"
    assert ratio_interval(pairs, 0) is None
    assert drift(pairs) is None
    assert pairs_needed(pairs, 0) is None


# -----------------------------------------------------------------------------
# the statistic


def test_the_log_ratio_is_that_of_the_expected_times() -> None:
    pairs = Pairs(attempts(10.0, 20.0), attempts(5.0, 5.0))
    assert log_ert_ratio(pairs) == pytest.approx(math.log(15 / 5))


def test_a_miss_adds_its_time_and_no_success() -> None:
    pairs = Pairs(attempts(10.0, -20.0, 30.0), attempts(10.0, 20.0, 30.0))
    assert log_ert_ratio(pairs) == pytest.approx(math.log(30 / 20))


def test_a_side_that_never_solves_is_infinitely_slower() -> None:
    never, always = attempts(-1.0, -1.0), attempts(100.0, 100.0)
    assert log_ert_ratio(Pairs(never, always)) == math.inf
    assert log_ert_ratio(Pairs(always, never)) == -math.inf
    assert log_ert_ratio(Pairs(never, never)) == 0.0


def test_attempts_that_take_no_time_are_compared_without_a_warning() -> None:
    instant, always = attempts(0.0)._replace(solved=np.array([True])), attempts(1.0)
    assert log_ert_ratio(Pairs(instant, instant)) == 0.0
    assert log_ert_ratio(Pairs(instant, always)) == -math.inf


kinds = st.sampled_from(["solved", "missed", "lost"])
runs_of_one_side = st.lists(st.builds(attempt, kinds, st.floats(0.01, 1e4)), min_size=4, max_size=4)


@given(runs_of_one_side, runs_of_one_side)
def test_the_log_ratio_agrees_with_the_expected_times_of_the_board(runs_a: list[Run], runs_b: list[Run]) -> None:
    ert_a, ert_b = (expected_time_to_success(runs, "train") for runs in (runs_a, runs_b))
    right = 0.0 if ert_a == ert_b else math.log(ert_a / ert_b) if ert_a and math.isfinite(ert_b) else -math.inf
    assert log_ert_ratio(pair_runs(runs_a, runs_b, "train")) == pytest.approx(right, abs=1e-9)


@given(lists_of_pairs(0, 12), st.floats(0.0, 1e4))
def test_one_more_attempt_that_missed_never_improves_a_side(pairs: Pairs, cost: float) -> None:
    more = ChargedAttempts(np.append(pairs.a.costs, cost), np.append(pairs.a.solved, False))
    assert log_ert(more) >= log_ert(pairs.a) - 1e-12


@given(lists_of_pairs(1, 12), st.data())
def test_a_success_that_becomes_a_miss_never_improves_a_side(pairs: Pairs, data: st.DataObject) -> None:
    solved = pairs.a.solved.copy()
    solved[data.draw(st.integers(0, len(solved) - 1))] = False
    assert log_ert_ratio(pairs._replace(a=ChargedAttempts(pairs.a.costs, solved))) >= log_ert_ratio(pairs) - 1e-12


# -----------------------------------------------------------------------------
# the test


def test_three_clear_pairs_are_matched_by_two_of_eight_swaps() -> None:
    assert swap_test(Pairs(attempts(1.0, 1.0, 1.0), attempts(2.0, 2.0, 2.0)), 0) == 2 / 8


def test_six_clear_pairs_are_the_fewest_that_decide() -> None:
    six = Pairs(attempts(*range(11, 17)), attempts(*range(1, 7)))
    assert swap_test(six, 0) == 2 / 64
    assert verdict(six, 0) == "slower"
    five = Pairs(*(side.at(np.arange(5)) for side in six))
    assert verdict(five, 0) == "not decided"


def test_one_contrary_pair_reverses_a_close_decision() -> None:
    assert verdict(Pairs(attempts(*[9.0] * 6), attempts(*[10.0] * 6)), 0) == "faster"
    assert verdict(Pairs(attempts(*[9.0] * 5, 11.0), attempts(*[10.0] * 6)), 0) == "not decided"


def test_swaps_stay_within_their_pairs() -> None:
    """The pairs differ by orders of magnitude, but side b is always faster."""
    b = np.array([1.0, 10.0, 100.0, 1e3, 1e4, 1e5])
    assert swap_test(Pairs(attempts(*(1.01 * b)), attempts(*b)), 0) == 2 / 64


def test_misses_alone_can_decide() -> None:
    always, seldom = attempts(*[10.0] * 10), attempts(10.0, *[-10.0] * 9)
    assert verdict(Pairs(always, seldom), 0) == "faster"


def test_a_single_success_decides_nothing() -> None:
    once, never = attempts(10.0, *[-10.0] * 9), attempts(*[-10.0] * 10)
    assert swap_test(Pairs(once, never), 0) == 1.0
    assert verdict(Pairs(never, never), 0) == "not decided"


def test_equal_sides_have_a_p_value_of_one_despite_rounding() -> None:
    for num_pairs in (1, 6, 12, 13, 20):
        costs = [0.1 * index + 0.3 for index in range(num_pairs)]
        assert swap_test(Pairs(attempts(*costs), attempts(*reversed(costs))), 0) == 1.0


def naive_swap_test(pairs: Pairs) -> Fraction:
    """All swaps in a loop, in exact fractions; the distance is the larger of the ratio and its reciprocal."""

    def distance(side_a: list[tuple[int, bool]], side_b: list[tuple[int, bool]]) -> Fraction | float:
        num_solved = [sum(solved for _, solved in side) for side in (side_a, side_b)]
        if not any(num_solved):
            return 1
        if not all(num_solved):
            return math.inf
        ert_a, ert_b = (
            Fraction(sum(cost for cost, _ in side), solved)
            for side, solved in zip((side_a, side_b), num_solved, strict=True)
        )
        return max(ert_a / ert_b, ert_b / ert_a)

    a, b = (list(zip(side.costs.astype(int).tolist(), side.solved.tolist(), strict=True)) for side in pairs)
    observed, num_extreme, num_swaps = distance(a, b), 0, 0
    for choice in itertools.product([False, True], repeat=len(a)):
        swapped_a = [y if swap else x for x, y, swap in zip(a, b, choice, strict=True)]
        swapped_b = [x if swap else y for x, y, swap in zip(a, b, choice, strict=True)]
        num_extreme += distance(swapped_a, swapped_b) >= observed
        num_swaps += 1
    return Fraction(num_extreme, num_swaps)


def whole_seconds(num_pairs: int, miss_rate: float, seed: int) -> Pairs:
    """Few different seconds, so that many swaps tie."""
    generator = np.random.default_rng(seed)
    costs = generator.integers(20, 30, (2, num_pairs)).astype(float)
    solved = generator.random((2, num_pairs)) >= miss_rate
    return Pairs(ChargedAttempts(costs[0] + 3, solved[0]), ChargedAttempts(costs[1], solved[1]))


@pytest.mark.parametrize(("num_pairs", "miss_rate"), [(1, 0.0), (6, 0.0), (6, 0.9), (9, 0.4), (12, 0.0), (12, 0.2)])
def test_the_enumerated_test_agrees_with_a_naive_loop_in_exact_arithmetic(num_pairs: int, miss_rate: float) -> None:
    pairs = whole_seconds(num_pairs, miss_rate, seed=num_pairs)
    assert swap_test(pairs, 0) == naive_swap_test(pairs)


def test_random_swaps_approximate_all_swaps() -> None:
    pairs = whole_seconds(13, 0.2, seed=5)
    exact = float(naive_swap_test(pairs))
    assert 0.05 < exact < 0.95
    assert swap_test(pairs, 0) == pytest.approx(exact, abs=0.02)


def test_random_swaps_are_fair_and_depend_on_the_seed() -> None:
    drawn = swaps(20, seed=3)
    assert drawn.shape == (10_000, 20)
    assert np.abs(drawn.mean(0) - 0.5).max() < 0.025
    assert np.array_equal(drawn, swaps(20, seed=3))
    assert not np.array_equal(drawn, swaps(20, seed=4))


def test_random_swaps_count_the_observed_labels_and_never_give_zero() -> None:
    clear = Pairs(attempts(*[1.0] * 30), attempts(*[2.0] * 30))
    assert swap_test(clear, 0) == 1 / 10_001


@given(lists_of_pairs(0, 14), st.integers(0, 2**31 - 1))
def test_exchanging_the_sides_exchanges_the_verdict(pairs: Pairs, seed: int) -> None:
    opposite = {"faster": "slower", "slower": "faster", "not decided": "not decided"}
    assert verdict(exchanged(pairs), seed) == opposite[verdict(pairs, seed)]
    assert swap_test(exchanged(pairs), seed) == swap_test(pairs, seed)
    assert log_ert_ratio(exchanged(pairs)) == -log_ert_ratio(pairs)


@given(lists_of_pairs(0, 5), st.integers(0, 2**31 - 1))
def test_less_than_six_pairs_never_decide(pairs: Pairs, seed: int) -> None:
    assert verdict(pairs, seed) == "not decided"
    assert swap_test(pairs, seed) > 0.05


# -----------------------------------------------------------------------------
# intervals of the ratio


def test_a_ratio_that_is_the_same_in_every_pair_has_no_spread() -> None:
    b = np.array([1.0, 10.0, 100.0, 1e3, 1e4, 1e5])
    assert ratio_interval(Pairs(attempts(*(1.1 * b)), attempts(*b)), 0) == pytest.approx((1.1, 1.1))


def test_unpaired_batches_are_resampled_independently() -> None:
    b = np.array([1.0, 10.0, 100.0, 1e3, 1e4, 1e5])
    low, high = unpaired_ratio_interval(attempts(*(1.1 * b)), attempts(*b), 0)
    assert low < 0.5 < 2.0 < high


def naive_interval(pairs: Pairs) -> tuple[float, float]:
    """Two thousand resamples of whole pairs in a loop."""
    source = random.Random(0)
    rows = list(zip(*(column.tolist() for side in pairs for column in side), strict=True))
    ratios = []
    for _ in range(2_000):
        chosen = [source.choice(rows) for _ in rows]
        costs_a, solved_a, costs_b, solved_b = (sum(column) for column in zip(*chosen, strict=True))
        ratios.append((costs_a / solved_a) / (costs_b / solved_b))
    ratios.sort()
    return ratios[50], ratios[-51]


def test_the_interval_agrees_with_a_naive_bootstrap() -> None:
    pairs = whole_seconds(20, 0.2, seed=1)
    assert ratio_interval(pairs, 0) == pytest.approx(naive_interval(pairs), rel=0.05)


def test_batches_of_different_sizes_have_an_interval() -> None:
    new, old = random_pairs(30, 1.5, 0.1).a, random_pairs(10, 1.0, 0.1).b
    low, high = unpaired_ratio_interval(new, old, 0)
    assert 1.3 < low < math.exp(log_ert(new) - log_ert(old)) < high < 1.7


@pytest.mark.parametrize("miss_rate", [0.0, 0.1, 0.3])
def test_the_interval_contains_the_observed_ratio(miss_rate: float) -> None:
    for seed in range(20):
        pairs = whole_seconds(10, miss_rate, seed)
        low, high = ratio_interval(pairs, seed)
        assert low < math.exp(log_ert_ratio(pairs)) < high


def test_the_interval_depends_on_the_seed_and_inverts_with_the_sides() -> None:
    pairs = whole_seconds(10, 0.2, seed=0)
    low, high = ratio_interval(pairs, 3)
    assert ratio_interval(pairs, 3) == (low, high)
    assert ratio_interval(pairs, 4) != (low, high)
    assert ratio_interval(exchanged(pairs), 3) == pytest.approx((1 / high, 1 / low))


def test_there_is_no_interval_without_two_attempts_and_a_success_on_each_side() -> None:
    fine, never = attempts(10.0, 11.0, 12.0), attempts(-10.0, -11.0, -12.0)
    for pairs in (Pairs(fine, never), Pairs(never, fine), Pairs(never, never), Pairs(attempts(1.0), attempts(2.0))):
        assert ratio_interval(pairs, 0) is None
        assert unpaired_ratio_interval(*pairs, 0) is None
        assert pairs_needed(pairs, 0) is None
    assert unpaired_ratio_interval(fine, attempts(10.0), 0) is None


def test_a_side_that_solved_once_has_no_bound() -> None:
    always, once = attempts(*[10.0] * 6), attempts(10.0, *[-10.0] * 5)
    low, high = ratio_interval(Pairs(once, always), 0)
    assert 1.0 < low < 6.0
    assert high == math.inf
    low, high = ratio_interval(Pairs(always, once), 0)
    assert low == 0.0
    assert 1 / 6 < high < 1.0


def test_resamples_in_which_neither_side_solved_bound_nothing() -> None:
    once = attempts(10.0, *[-10.0] * 5)
    assert ratio_interval(Pairs(once, once), 0) == (0.0, math.inf)


# -----------------------------------------------------------------------------
# planning


def test_the_pairs_needed_grow_with_the_noise_and_shrink_with_the_difference() -> None:
    few = pairs_needed(random_pairs(200, 1.10, 0.1), 0)
    assert pairs_needed(random_pairs(200, 1.05, 0.1), 0) > 2 * few
    assert pairs_needed(random_pairs(200, 1.10, 0.2), 0) > 2 * few
    assert pairs_needed(random_pairs(200, 1 / 1.10, 0.1), 0) > 6


def bell_shaped_pairs(num_pairs: int, log_ratio: float) -> Pairs:
    """Side b always takes 20 s; the log seconds of side a are bell-shaped, with a standard deviation of nearly 0.01."""
    bell = [NormalDist().inv_cdf((index + 0.5) / num_pairs) for index in range(num_pairs)]
    costs_a = [20.0 * math.exp(log_ratio + 0.01 * value) for value in bell]
    return Pairs(attempts(*costs_a), attempts(*[20.0] * num_pairs))


def test_the_number_of_pairs_needed_is_that_of_a_paired_difference() -> None:
    """By hand: (1.96 + 0.84)² × (0.01 / 0.00627)² is 20, and 1.96² / 2 more are for the spread being estimated."""
    assert pairs_needed(bell_shaped_pairs(1_000, 0.00627), 0) == pytest.approx(22, abs=1)


def test_the_plan_of_a_small_comparison_corrects_the_bootstrap_s_spread() -> None:
    log_seconds = np.log(bell_shaped_pairs(6, 0.001).a.costs).tolist()
    right = (1.96 + 0.84) ** 2 * variance(log_seconds) / 0.001**2
    assert pairs_needed(bell_shaped_pairs(6, 0.001), 0) == pytest.approx(right, rel=0.15)


def test_a_plan_has_at_least_six_pairs() -> None:
    assert pairs_needed(random_pairs(10, 2.0, 0.01), 0) == 6
    assert pairs_needed(Pairs(attempts(*[2.0] * 6), attempts(*[1.0] * 6)), 0) == 6


def test_there_is_no_plan_without_a_difference() -> None:
    same = random_pairs(10, 1.0, 0.1).a
    assert pairs_needed(Pairs(same, same), 0) is None
    reversed_costs = same.at(np.arange(10)[::-1])
    assert pairs_needed(Pairs(same, reversed_costs), 0) is None


def test_there_is_no_plan_with_an_unknown_or_too_large_number_of_pairs() -> None:
    once, always = attempts(10.0, *[-10.0] * 5), attempts(*[10.0] * 6)
    assert pairs_needed(Pairs(once, always), 0) is None
    nearly_alike = Pairs(attempts(10.001, 30.001, 20.0), attempts(30.0, 10.0, 20.0))
    assert pairs_needed(nearly_alike, 0) is None


# -----------------------------------------------------------------------------
# drift


def test_drift_is_the_change_from_the_first_pair_to_the_last() -> None:
    growth = 1.2 ** np.linspace(0.0, 1.0, 10)
    assert drift(Pairs(attempts(*(20 * growth)), attempts(*(35 * growth)))) == pytest.approx(0.2)
    assert drift(Pairs(attempts(*(20 / growth)), attempts(*(35 / growth)))) == pytest.approx(1 / 1.2 - 1)
    assert drift(Pairs(attempts(*[20.0] * 3), attempts(*[35.0] * 3))) == pytest.approx(0.0)


def test_opposite_trends_of_the_sides_are_no_drift() -> None:
    growth = 1.2 ** np.linspace(0.0, 1.0, 10)
    assert drift(Pairs(attempts(*(20 * growth)), attempts(*(20 / growth)))) == pytest.approx(0.0)


def test_drift_needs_three_pairs_and_positive_seconds() -> None:
    assert drift(Pairs(attempts(1.0, 2.0), attempts(1.0, 2.0))) is None
    assert drift(Pairs(attempts(1.0, 0.0, 3.0), attempts(1.0, 2.0, 3.0))) is None
