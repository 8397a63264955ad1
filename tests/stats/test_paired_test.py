"""Paired comparisons, against values by hand and naive loops in exact arithmetic."""

import itertools
import math
import operator
import random
from collections.abc import Sequence
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import paired_test
from bench.stats.expected_time import expected_time_to_success
from bench.stats.levels import fewest_pairs
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
    signed_weights,
    swap_test,
    unpaired_ratio_interval,
    verdict,
)
from bench.storage.schema import Run
from tests.support.examples import example_run, example_seconds


def attempts(*costs: float) -> ChargedAttempts:
    """The attempts of one side, without caps; negative seconds mean a miss of that cost."""
    return uncapped(np.abs(np.array(costs, dtype=float)), [cost > 0 for cost in costs])


def uncapped(costs: np.ndarray, solved: Sequence[bool] | np.ndarray) -> ChargedAttempts:
    return ChargedAttempts(costs, np.array(solved, dtype=bool), np.full(len(costs), math.inf))


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
        return Pairs(*(uncapped(np.array([c for c, _ in s], dtype=float), [k for _, k in s]) for s in sides))

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


def test_what_is_unclear_counts_against_a_challenger() -> None:
    """Killed and crashed attempts are charged the larger limit, 400 s, and a stopped opponent is fast."""

    def runs(limit: float, **ends: float) -> list[Run]:
        made = [attempt(outcome.rstrip("_"), train, seed) for seed, (outcome, train) in enumerate(ends.items())]
        return [run.model_copy(update={"settings": {"max_seconds": limit}}) for run in made]

    runs_a = runs(100.0, solved=10.0, error=10.0, lost=10.0, missed=10.0)
    runs_b = runs(400.0, solved=20.0, solved_=19.0, lost=18.0, interrupted=17.0)
    pairs = pair_runs(runs_a, runs_b, "train", has_challenger=True)
    assert pairs.a.costs.tolist() == [10.0, 400.0, 400.0, 10.0]
    assert pairs.a.solved.tolist() == [True, False, False, False]
    assert pairs.b.costs.tolist() == [20.0, 19.0, 19.0, 19.0]
    assert pairs.b.solved.tolist() == [True, True, True, True]
    alike = pair_runs(runs_a, runs_b, "train")
    assert alike.a.costs.tolist()[1] == 10.0
    assert alike.b.solved.tolist() == [True, True, False, False]


def test_only_the_ratio_of_the_expected_times_is_capped() -> None:
    """The tenth attempt took 20 times as long for as many steps; it counts with 3 times the median."""
    runs_a = [attempt("solved", 200.0 if seed == 9 else 10.0, seed) for seed in range(10)]
    runs_b = [attempt("solved", 12.0, seed) for seed in range(10)]
    pairs = pair_runs(runs_a, runs_b, "train")
    assert pairs.a.costs[9] == 200.0
    assert (pairs.a.num_capped, pairs.b.num_capped) == (1, 0)
    assert math.exp(log_ert_ratio(pairs)) == pytest.approx((9 * 10 + 30) / 120)
    assert math.exp(log_ert(charge_attempts(runs_a, "train"))) == pytest.approx(29.0), "the board's has no cap"


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
    assert swap_test(pairs) == 1.0
    assert verdict(pairs) == "not decided"
    assert ratio_interval(pairs, 0) is None
    assert drift(pairs) is None
    assert pairs_needed(pairs) is None


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
    uncapped_pairs = Pairs(*(charge_attempts(runs, "train") for runs in (runs_a, runs_b)))
    assert log_ert_ratio(uncapped_pairs) == pytest.approx(right, abs=1e-9)


@given(lists_of_pairs(0, 12), st.floats(0.0, 1e4))
def test_one_more_attempt_that_missed_never_improves_a_side(pairs: Pairs, cost: float) -> None:
    more = uncapped(np.append(pairs.a.costs, cost), np.append(pairs.a.solved, False))
    assert log_ert(more) >= log_ert(pairs.a) - 1e-12


@given(lists_of_pairs(1, 12), st.data())
def test_a_success_that_becomes_a_miss_never_improves_a_side(pairs: Pairs, data: st.DataObject) -> None:
    solved = pairs.a.solved.copy()
    solved[data.draw(st.integers(0, len(solved) - 1))] = False
    missed = pairs._replace(a=uncapped(pairs.a.costs, solved))
    assert log_ert_ratio(missed) >= log_ert_ratio(pairs) - 1e-12
    assert signed_weights(missed).sum() >= signed_weights(pairs).sum()


# -----------------------------------------------------------------------------
# the test


def test_three_clear_pairs_are_matched_by_two_of_eight_swaps() -> None:
    assert swap_test(Pairs(attempts(1.0, 1.0, 1.0), attempts(2.0, 2.0, 2.0))) == 2 / 8


def test_six_clear_pairs_are_the_fewest_that_decide() -> None:
    six = Pairs(attempts(*range(11, 17)), attempts(*range(1, 7)))
    assert swap_test(six) == 2 / 64
    assert verdict(six) == "slower"
    five = Pairs(*(side.at(np.arange(5)) for side in six))
    assert verdict(five) == "not decided"


def test_a_stricter_level_takes_more_pairs() -> None:
    clear = [Pairs(attempts(*[1.0] * number), attempts(*[2.0] * number)) for number in (6, 7)]
    assert [verdict(pairs, level=0.025) for pairs in clear] == ["not decided", "faster"]


def test_one_contrary_pair_reverses_the_decision_of_six() -> None:
    assert verdict(Pairs(attempts(*[9.0] * 6), attempts(*[10.0] * 6))) == "faster"
    assert verdict(Pairs(attempts(*[9.0] * 5, 11.0), attempts(*[10.0] * 6))) == "not decided"


def test_swaps_stay_within_their_pairs() -> None:
    """The pairs differ by orders of magnitude, but side b is always faster."""
    b = np.array([1.0, 10.0, 100.0, 1e3, 1e4, 1e5])
    assert swap_test(Pairs(attempts(*(1.01 * b)), attempts(*b))) == 2 / 64


def test_misses_alone_can_decide() -> None:
    always, seldom = attempts(*[10.0] * 10), attempts(10.0, *[-10.0] * 9)
    assert verdict(Pairs(always, seldom)) == "faster"


def test_a_single_success_decides_nothing() -> None:
    once, never = attempts(10.0, *[-10.0] * 9), attempts(*[-10.0] * 10)
    assert swap_test(Pairs(once, never)) == 1.0
    assert verdict(Pairs(never, never)) == "not decided"


def test_a_miss_weighs_more_than_any_difference_in_seconds() -> None:
    weights = signed_weights(Pairs(attempts(10.0, -1.0, 30.0, -5.0), attempts(11.0, 99.0, 1.0, -9.0)))
    assert weights.tolist() == [-6.0, 8.0, 7.0, 0.0]


def test_no_pair_weighs_more_than_twice_as_much_as_another() -> None:
    weights = np.abs(signed_weights(Pairs(attempts(*[1e3] * 9, 1e9), attempts(*range(1, 11)))))
    assert 1.0 < weights.max() / weights.min() < 2.0


@pytest.mark.parametrize("slow_side", ["a", "b"])
def test_one_attempt_that_was_disturbed_neither_decides_nor_prevents_a_decision(slow_side: str) -> None:
    """Of ten pairs, as they would be journalled; the disturbed attempt took 20 times as long for its steps."""
    runs = {
        side: [attempt("solved", seconds * (1 + 0.01 * seed), seed) for seed in range(10)]
        for side, seconds in (("a", 8.0), ("b", 10.0))
    }
    slow = {**runs, slow_side: [attempt("solved", 200.0, 0), *runs[slow_side][1:]]}
    assert verdict(pair_runs(slow["a"], slow["b"], "train"), level=0.025) == "faster"
    alike = {side: [attempt("solved", 10.0, seed) for seed in range(10)] for side in "ab"}
    alike[slow_side][0] = attempt("solved", 200.0, 0)
    assert verdict(pair_runs(alike["a"], alike["b"], "train")) == "not decided"


def test_a_side_that_wins_most_pairs_but_costs_more_is_not_faster() -> None:
    """It is a tenth faster in nine pairs, and in the tenth it needed as many rounds as take 10 times as long."""
    costs = [9.0] * 9 + [90.0]
    pairs = Pairs(attempts(*costs), attempts(*[10.0] * 10))
    assert swap_test(pairs) < 0.05
    assert verdict(pairs) == verdict(exchanged(pairs)) == "not decided"


@pytest.mark.parametrize("num_pairs", [6, 10, 20])
def test_one_contrary_pair_costs_at_most_as_much_as_the_rules_say(num_pairs: int) -> None:
    for contrary in (1.0001, 1.3, 1e6):
        b = [10.0 + index for index in range(num_pairs)]
        a = [0.8 * seconds for seconds in b[:-1]] + [contrary * b[-1]]
        assert swap_test(Pairs(attempts(*a), attempts(*b))) <= 2 * (num_pairs + 1) / 2**num_pairs


def test_equal_sides_have_a_p_value_of_one_despite_rounding() -> None:
    for num_pairs in (1, 6, 12, 13, 20, 201):
        costs = [0.1 * index + 0.3 for index in range(num_pairs)]
        assert swap_test(Pairs(attempts(*costs), attempts(*reversed(costs)))) == 1.0


def naive_swap_test(pairs: Pairs) -> Fraction:
    """All swaps in a loop, with exact fractions, and ranks by counting; the weights are doubled."""

    def ratio(x: tuple[int, bool], y: tuple[int, bool]) -> Fraction | float:
        """The ratio of the larger to the smaller cost; infinite if one side alone solved, 1 if neither did."""
        (cost_x, solved_x), (cost_y, solved_y) = x, y
        if solved_x != solved_y:
            return math.inf
        return max(Fraction(cost_x, cost_y), Fraction(cost_y, cost_x)) if solved_x else Fraction(1)

    a, b = (list(zip(side.costs.astype(int).tolist(), side.solved.tolist(), strict=True)) for side in pairs)
    ratios = [ratio(x, y) for x, y in zip(a, b, strict=True)]
    weights = [
        0 if own == 1 else 2 * len(ratios) + 2 * sum(other < own for other in ratios) + ratios.count(own) + 1
        for own in ratios
    ]
    is_lost = [not k or (m and x > y) for (x, k), (y, m) in zip(a, b, strict=True)]
    signs = [1 if lost else -1 for lost in is_lost]
    observed, num_extreme, num_swaps = abs(sum(map(operator.mul, signs, weights))), 0, 0
    for choice in itertools.product([-1, 1], repeat=len(a)):
        num_extreme += abs(sum(map(operator.mul, choice, weights))) >= observed
        num_swaps += 1
    return Fraction(num_extreme, num_swaps)


def whole_seconds(num_pairs: int, miss_rate: float, seed: int) -> Pairs:
    """Few different seconds, so that many swaps tie."""
    generator = np.random.default_rng(seed)
    costs = generator.integers(20, 30, (2, num_pairs)).astype(float)
    solved = generator.random((2, num_pairs)) >= miss_rate
    return Pairs(uncapped(costs[0] + 3, solved[0]), uncapped(costs[1], solved[1]))


@pytest.mark.parametrize(
    ("num_pairs", "miss_rate"), [(1, 0.0), (6, 0.0), (6, 0.9), (9, 0.4), (12, 0.0), (12, 0.2), (13, 0.2)]
)
def test_the_test_agrees_with_a_naive_loop_in_exact_arithmetic(num_pairs: int, miss_rate: float) -> None:
    pairs = whole_seconds(num_pairs, miss_rate, seed=num_pairs)
    assert swap_test(pairs) == naive_swap_test(pairs)


def test_the_normal_approximation_for_many_pairs_agrees_and_is_on_the_safe_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for ratio in (1.03, 1.04):
        pairs = random_pairs(200, ratio, 0.1)
        exact = swap_test(pairs)
        assert exact < 0.05
        with monkeypatch.context() as patch:
            patch.setattr(paired_test, "MOST_EXACT_PAIRS", 199)
            approximate = swap_test(pairs)
        assert exact < approximate < 1.2 * exact


@given(lists_of_pairs(0, 14))
def test_exchanging_the_sides_exchanges_the_verdict(pairs: Pairs) -> None:
    opposite = {"faster": "slower", "slower": "faster", "not decided": "not decided"}
    assert verdict(exchanged(pairs)) == opposite[verdict(pairs)]
    assert swap_test(exchanged(pairs)) == swap_test(pairs)
    assert signed_weights(exchanged(pairs)).tolist() == (-signed_weights(pairs)).tolist()
    assert log_ert_ratio(exchanged(pairs)) == -log_ert_ratio(pairs)


@given(lists_of_pairs(0, 14), st.sampled_from([0.05, 0.025, 0.05 / 6, 0.05 / 110]))
def test_fewer_pairs_than_a_level_needs_never_decide(pairs: Pairs, level: float) -> None:
    if pairs.num_pairs < fewest_pairs(level):
        assert swap_test(pairs) > level
        assert verdict(pairs, level) == "not decided"


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
    rows = list(zip(*(column.tolist() for side in pairs for column in (side.costs, side.solved)), strict=True))
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


def test_the_pairs_needed_grow_with_the_noise_and_the_strictness_and_shrink_with_the_difference() -> None:
    few = pairs_needed(random_pairs(200, 1.10, 0.1))
    assert pairs_needed(random_pairs(200, 1.05, 0.1)) > 2 * few
    assert pairs_needed(random_pairs(200, 1.10, 0.2)) > 2 * few
    assert pairs_needed(random_pairs(200, 1 / 1.10, 0.1)) > 6
    assert pairs_needed(random_pairs(200, 1.10, 0.1), level=0.001) > 1.5 * few


def bell_shaped_pairs(num_pairs: int, log_ratio: float) -> Pairs:
    """Side b always takes 20 s; the log seconds of side a are bell-shaped, with a standard deviation of nearly 0.01."""
    bell = [NormalDist().inv_cdf((index + 0.5) / num_pairs) for index in range(num_pairs)]
    costs_a = [20.0 * math.exp(log_ratio + 0.01 * value) for value in bell]
    return Pairs(attempts(*costs_a), attempts(*[20.0] * num_pairs))


def test_small_differences_need_about_as_many_pairs_as_a_paired_t_test() -> None:
    """By hand: (1.96 + 0.84)² × (0.01 / 0.002)² is 196; ranks between signs and Wilcoxon's need 5% to 57% more."""
    assert 1.05 * 196 < pairs_needed(bell_shaped_pairs(1_000, 0.002)) < 1.57 * 196


def test_a_plan_has_at_least_as_many_pairs_as_can_decide() -> None:
    clear = Pairs(attempts(*[2.0] * 6), attempts(*[1.0] * 6))
    assert pairs_needed(random_pairs(10, 2.0, 0.01)) == pairs_needed(clear) == 6
    assert pairs_needed(clear, level=0.025) == 7


def test_there_is_no_plan_without_a_difference() -> None:
    same = random_pairs(10, 1.0, 0.1).a
    assert pairs_needed(Pairs(same, same)) is None
    reversed_costs = same.at(np.arange(10)[::-1])
    assert pairs_needed(Pairs(same, reversed_costs)) is None


def test_there_is_no_plan_for_one_pair_for_contradicting_signs_or_with_too_many_pairs() -> None:
    assert pairs_needed(Pairs(attempts(1.0), attempts(2.0))) is None
    assert pairs_needed(Pairs(attempts(*[9.0] * 9, 90.0), attempts(*[10.0] * 10))) is None
    nearly_alike = Pairs(attempts(*[11.0, 10.0] * 100, 11.0), attempts(*[10.0, 11.0] * 100, 10.0))
    assert pairs_needed(nearly_alike) is None


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
