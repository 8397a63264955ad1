"""Two sides compared: which needs less time to success, by how much, and how sure that is.

A comparison is N pairs; in each, side a and side b made one attempt with the same seed, in random order. If the sides
are alike, exchanging the two labels within a pair changes nothing, and that is all the test assumes: no shape of the
noise, and no machine that stays as fast as it was. The number that is compared is always the log ratio of the expected
times to success, log(ERT_a / ERT_b): below 0 side a is faster.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from bench.clock import ClockName
from bench.stats.expected_time import attempt_costs
from bench.storage.schema import Run, Verdict

LEVEL = 0.05  # of the test, two-sided; intervals cover 1 - LEVEL
POWER = 0.8  # that a new comparison is planned for
FEWEST_PAIRS = 6  # of 32 ways to label five pairs, two are as extreme as any result can be: 6%
MOST_PAIRS = 10_000  # that are worth planning for
MOST_ENUMERATED_PAIRS = 12  # up to here all swaps are tried
NUM_DRAWS = 10_000  # random swaps beyond
NUM_RESAMPLES = 9_999  # of the bootstrap
RESAMPLES_AT_ONCE = 1_000  # bounds the memory that a long comparison takes
TIE = 1e-9  # log ratios this close differ by rounding only


class ChargedAttempts(NamedTuple):
    """Attempts of one side; the axes before the last, if any, are swaps or resamples."""

    costs: np.ndarray  # (..., N) float64, the seconds that each attempt is charged
    solved: np.ndarray  # (..., N) bool

    def at(self, indices: np.ndarray) -> "ChargedAttempts":
        """Those at the indices (..., N), with repetition."""
        return ChargedAttempts(self.costs[indices], self.solved[indices])


class Pairs(NamedTuple):
    """The sides of a comparison; attempts in the same place are a pair."""

    a: ChargedAttempts  # (N,)
    b: ChargedAttempts  # (N,)

    @property
    def num_pairs(self) -> int:
        return len(self.a.costs)


def charge_attempts(runs: Sequence[Run], clock: ClockName) -> ChargedAttempts:
    """What the runs of one side, or of one batch, cost by the rules of `attempt_costs`."""
    costs = np.array(attempt_costs(runs, clock), dtype=np.float64)
    return ChargedAttempts(costs, np.array([run.outcome == "solved" for run in runs], dtype=bool))


def pair_runs(runs_a: Sequence[Run], runs_b: Sequence[Run], clock: ClockName) -> Pairs:
    """The comparison of two lists of runs, both in the order of the pairs.

    Raises:
        ValueError: the runs in the same place do not have the same seed, or one list is longer.
    """
    if [run.seed for run in runs_a] != [run.seed for run in runs_b]:
        raise ValueError("these runs are not pairs: their seeds differ")
    return Pairs(charge_attempts(runs_a, clock), charge_attempts(runs_b, clock))


# -----------------------------------------------------------------------------
# the number that is compared


def log_ert(attempts: ChargedAttempts) -> np.ndarray:
    """Log of the expected time to success in seconds, along the last axis; infinite where none succeeded."""
    num_solved = attempts.solved.sum(-1)
    with np.errstate(divide="ignore"):  # attempts that took no time at all
        return np.where(num_solved > 0, np.log(attempts.costs.sum(-1) / np.maximum(num_solved, 1)), np.inf)


def log_ratios(a: ChargedAttempts, b: ChargedAttempts) -> np.ndarray:
    """log(ERT_a / ERT_b) along the last axis; 0 where both are the same infinity."""
    log_ert_a, log_ert_b = log_ert(a), log_ert(b)
    with np.errstate(invalid="ignore"):
        return np.where(log_ert_a == log_ert_b, 0.0, log_ert_a - log_ert_b)


def log_ert_ratio(pairs: Pairs) -> float:
    """log(ERT_a / ERT_b): infinite when side a never solved, minus infinite when b never did, 0 when neither did."""
    return float(log_ratios(*pairs))


# -----------------------------------------------------------------------------
# the test


def swaps(num_pairs: int, seed: int) -> np.ndarray:
    """Which pairs to swap, (num_swaps, num_pairs) bool: all ways there are, or random ones when they are too many."""
    if num_pairs <= MOST_ENUMERATED_PAIRS:
        return (np.arange(2**num_pairs)[:, None] >> np.arange(num_pairs)) & 1 == 1
    return np.random.default_rng(seed).integers(0, 2, (NUM_DRAWS, num_pairs), dtype=np.int8) == 1


def swap_test(pairs: Pairs, seed: int) -> float:
    """The p-value, two-sided, of the labels a and b meaning nothing (a randomization test; Fisher, 1935).

    It is the share of swaps whose log ratio is as far from 0 as the observed one, or farther. When swaps are drawn at
    random the observed labels count as one more draw, without which the test would err too often (Phipson and
    Smyth, 2010). `seed` is where the draws come from; up to 12 pairs nothing is drawn.
    """
    a, b = pairs
    swapped = swaps(pairs.num_pairs, seed)  # (S, N)
    ratios = log_ratios(  # (S,)
        ChargedAttempts(np.where(swapped, b.costs, a.costs), np.where(swapped, b.solved, a.solved)),
        ChargedAttempts(np.where(swapped, a.costs, b.costs), np.where(swapped, a.solved, b.solved)),
    )
    num_extreme = int((np.abs(ratios) >= abs(log_ert_ratio(pairs)) - TIE).sum())
    if pairs.num_pairs <= MOST_ENUMERATED_PAIRS:  # the observed labels are among the swaps
        return num_extreme / len(swapped)
    return (num_extreme + 1) / (len(swapped) + 1)


def verdict(pairs: Pairs, seed: int) -> Verdict:
    """What side a is, compared with side b, at the 5% level of the swap test; never decided by less than 6 pairs."""
    if pairs.num_pairs < FEWEST_PAIRS or swap_test(pairs, seed) > LEVEL:
        return "not decided"
    return "faster" if log_ert_ratio(pairs) < 0 else "slower"


# -----------------------------------------------------------------------------
# by how much


def ratio_interval(pairs: Pairs, seed: int) -> tuple[float, float] | None:
    """The 95% interval of ERT_a / ERT_b, from resamples of whole pairs; returns what `bootstrap_interval` does."""
    return bootstrap_interval(lambda chosen: (pairs.a.at(chosen), pairs.b.at(chosen)), pairs, [pairs.num_pairs], seed)


def unpaired_ratio_interval(new: ChargedAttempts, old: ChargedAttempts, seed: int) -> tuple[float, float] | None:
    """The 95% interval of ERT_new / ERT_old of two batches that ran apart, on another day or another machine.

    It cannot tell a difference between the configs from one between the days. Returns what `bootstrap_interval` does.
    """
    sizes = [len(new.costs), len(old.costs)]
    return bootstrap_interval(lambda of_new, of_old: (new.at(of_new), old.at(of_old)), (new, old), sizes, seed)


def bootstrap_interval(
    resample: Callable[..., tuple[ChargedAttempts, ChargedAttempts]],
    observed: tuple[ChargedAttempts, ChargedAttempts],
    sizes: Sequence[int],
    seed: int,
) -> tuple[float, float] | None:
    """The 95% percentile interval of ERT_a / ERT_b (Efron, 1979).

    A resample in which only one side solved has the ratio 0 or infinity. If neither did, its ratio may be anything: it
    counts as 0 for the lower end and as infinity for the upper. With few attempts percentile intervals are too narrow
    (Hesterberg, 2015): with 10 pairs they hold the true ratio in less than 90% of comparisons. Only the test decides.

    Args:
        resample: makes the attempts (R, N) of both sides from indices, one array (R, size) for each of `sizes`.
        observed: the attempts (N,) of both sides.
        sizes: how many things there are to draw from, for each kind that is drawn independently.

    Returns:
        Its ends; 0 and infinity stand for no bound. None when a side made less than two attempts or solved none.
    """
    from scipy.special import expit, logit
    from scipy.stats import bootstrap

    if min(sizes) < 2 or not all(side.solved.any() for side in observed):
        return None

    def shares(unknown: float) -> tuple[float, float]:
        """The interval of ERT_a / (ERT_a + ERT_b), which grows with the ratio and has percentiles: it is finite."""

        def statistic(*indices: np.ndarray, axis: int) -> np.ndarray:
            a, b = resample(*indices)
            return np.where(a.solved.any(axis) | b.solved.any(axis), expit(log_ratios(a, b)), unknown)

        return bootstrap(
            [np.arange(size) for size in sizes],
            statistic,
            vectorized=True,
            n_resamples=NUM_RESAMPLES,
            batch=RESAMPLES_AT_ONCE,
            confidence_level=1 - LEVEL,
            method="percentile",
            rng=seed,
        ).confidence_interval

    low, high = shares(unknown=0.0)[0], shares(unknown=1.0)[1]
    return float(np.exp(logit(low))), float(np.exp(logit(high)))


def pairs_needed(pairs: Pairs, seed: int) -> int | None:
    """How many pairs a new comparison needs to decide with a probability of 80%, were the observed ratio the true one.

    By the normal approximation, with what Guenther (1981) adds for a spread that is itself estimated. The standard
    error is taken from the width of the bootstrap's interval, which stays finite when a few resamples solved nothing.
    A plan, not evidence: a comparison that was lucky promises too much.

    Returns:
        At least 6. None when that cannot be known, when there is no difference, or when it is above 10,000.
    """
    interval = ratio_interval(pairs, seed)
    log_ratio = log_ert_ratio(pairs)
    if interval is None or min(interval) == 0 or math.isinf(max(interval)) or abs(log_ratio) < TIE:
        return None
    level_quantile, power_quantile = NormalDist().inv_cdf(1 - LEVEL / 2), NormalDist().inv_cdf(POWER)
    standard_error = math.log(interval[1] / interval[0]) / (2 * level_quantile)
    # resamples spread around the observed mean rather than the true one: their variance is (N - 1) / N of the right one
    variance_of_a_pair = standard_error**2 * pairs.num_pairs**2 / (pairs.num_pairs - 1)
    normal = variance_of_a_pair * ((level_quantile + power_quantile) / log_ratio) ** 2
    needed = math.ceil(normal + level_quantile**2 / 2)
    return max(needed, FEWEST_PAIRS) if needed <= MOST_PAIRS else None


# -----------------------------------------------------------------------------
# the machine meanwhile


def drift(pairs: Pairs) -> float | None:
    """How much longer an attempt took at the end than at the beginning, relative: 0.2 is 20% slower at the end.

    From the straight line through the mean log seconds of each pair. It describes the machine and decides nothing.
    None below 3 pairs, and when an attempt took no time at all.
    """
    from scipy.stats import linregress

    seconds = np.stack([pairs.a.costs, pairs.b.costs])  # (2, N)
    if pairs.num_pairs < 3 or not (seconds > 0).all():
        return None
    line = linregress(np.arange(pairs.num_pairs), np.log(seconds).mean(0))
    return math.expm1(line.slope * (pairs.num_pairs - 1))
