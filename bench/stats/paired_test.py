"""Paired comparison of two sides: a randomization test, an interval of the ratio of their ERTs, and planning.

A comparison consists of N pairs. In each pair both sides run one attempt with the same seed, in random order. Under the
null hypothesis, swapping the labels a and b within a pair changes nothing. The test assumes nothing else: no
distribution of the noise, and no constant speed of the machine. The statistic is the log ratio of the expected times to
success, log(ERT_a / ERT_b): negative if side a is faster.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from bench.clock import ClockName
from bench.stats.expected_time import attempt_costs
from bench.storage.comparison_schema import Verdict
from bench.storage.schema import Run

LEVEL = 0.05  # significance level, two-sided; intervals cover 1 - LEVEL
POWER = 0.8  # of the comparisons that are planned
FEWEST_PAIRS = 6  # with five pairs, p is at least 2 / 2**5 = 6%
MOST_PAIRS = 10_000  # larger comparisons are not planned
MOST_ENUMERATED_PAIRS = 12  # up to this number all swaps are tried
NUM_DRAWS = 10_000  # random swaps for more pairs
NUM_RESAMPLES = 9_999  # of the bootstrap
RESAMPLES_AT_ONCE = 1_000  # limits the memory
TIE = 1e-9  # log ratios closer than this are equal but for rounding


class ChargedAttempts(NamedTuple):
    """Attempts of one side; leading axes, if any, are swaps or resamples."""

    costs: np.ndarray  # (..., N) float64, the seconds that each attempt is charged
    solved: np.ndarray  # (..., N) bool

    def at(self, indices: np.ndarray) -> "ChargedAttempts":
        """The attempts at the indices (..., N), which may repeat."""
        return ChargedAttempts(self.costs[indices], self.solved[indices])


class Pairs(NamedTuple):
    """The two sides of a comparison; attempts at the same index are a pair."""

    a: ChargedAttempts  # (N,)
    b: ChargedAttempts  # (N,)

    @property
    def num_pairs(self) -> int:
        return len(self.a.costs)


def charge_attempts(runs: Sequence[Run], clock: ClockName) -> ChargedAttempts:
    """The attempts of one side or one batch, with the costs of `attempt_costs`."""
    costs = np.array(attempt_costs(runs, clock), dtype=np.float64)
    return ChargedAttempts(costs, np.array([run.outcome == "solved" for run in runs], dtype=bool))


def pair_runs(runs_a: Sequence[Run], runs_b: Sequence[Run], clock: ClockName) -> Pairs:
    """The comparison of two lists of runs, both in the order of the pairs; raises ValueError if their seeds differ."""
    if [run.seed for run in runs_a] != [run.seed for run in runs_b]:
        raise ValueError("these runs are not pairs: their seeds differ")
    return Pairs(charge_attempts(runs_a, clock), charge_attempts(runs_b, clock))


def log_ert(attempts: ChargedAttempts) -> np.ndarray:
    """Log of the ERT in seconds over the last axis; infinite if none succeeded."""
    num_solved = attempts.solved.sum(-1)
    with np.errstate(divide="ignore"):  # attempts of zero seconds
        return np.where(num_solved > 0, np.log(attempts.costs.sum(-1) / np.maximum(num_solved, 1)), np.inf)


def log_ratios(a: ChargedAttempts, b: ChargedAttempts) -> np.ndarray:
    """log(ERT_a / ERT_b) over the last axis; 0 if both are the same infinity."""
    log_ert_a, log_ert_b = log_ert(a), log_ert(b)
    with np.errstate(invalid="ignore"):
        return np.where(log_ert_a == log_ert_b, 0.0, log_ert_a - log_ert_b)


def log_ert_ratio(pairs: Pairs) -> float:
    """log(ERT_a / ERT_b): inf if side a never solved, -inf if side b never solved, 0 if neither did."""
    return float(log_ratios(*pairs))


def swaps(num_pairs: int, seed: int) -> np.ndarray:
    """Which pairs to swap, (num_swaps, num_pairs) bool: all combinations, or random ones if they are too many."""
    if num_pairs <= MOST_ENUMERATED_PAIRS:
        return (np.arange(2**num_pairs)[:, None] >> np.arange(num_pairs)) & 1 == 1
    return np.random.default_rng(seed).integers(0, 2, (NUM_DRAWS, num_pairs), dtype=np.int8) == 1


def swap_test(pairs: Pairs, seed: int) -> float:
    """The two-sided p-value of a randomization test (Fisher, 1935).

    It is the share of swaps with a log ratio at least as far from 0 as the observed one. If swaps are drawn at random,
    the observed labels count as one more draw, which keeps the test at its level (Phipson and Smyth, 2010).
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
    """Whether side a is faster or slower than side b at the 5% level of the swap test, which needs at least 6 pairs."""
    if pairs.num_pairs < FEWEST_PAIRS or swap_test(pairs, seed) > LEVEL:
        return "not decided"
    return "faster" if log_ert_ratio(pairs) < 0 else "slower"


def ratio_interval(pairs: Pairs, seed: int) -> tuple[float, float] | None:
    """The 95% interval of ERT_a / ERT_b from resampled pairs; see `bootstrap_interval`."""
    return bootstrap_interval(pairs.a, pairs.b, seed, paired=True)


def unpaired_ratio_interval(new: ChargedAttempts, old: ChargedAttempts, seed: int) -> tuple[float, float] | None:
    """The 95% interval of ERT_new / ERT_old of two batches that did not run in pairs; see `bootstrap_interval`.

    It does not separate a difference between the configs from one between the days or machines.
    """
    return bootstrap_interval(new, old, seed, paired=False)


def bootstrap_interval(
    a: ChargedAttempts, b: ChargedAttempts, seed: int, *, paired: bool
) -> tuple[float, float] | None:
    """The 95% percentile bootstrap interval of ERT_a / ERT_b (Efron, 1979).

    A resample in which only one side solved has the ratio 0 or infinity. If neither did, the ratio is unknown: it
    counts as 0 for the lower end and as infinity for the upper end. With few attempts percentile intervals are too
    narrow (Hesterberg, 2015): with 10 pairs they cover less than 90%. Therefore only the test decides. An end of 0 or
    infinity means no bound. None if a side has less than two attempts or solved none.
    """
    from scipy.special import expit, logit
    from scipy.stats import bootstrap

    if any(len(side.costs) < 2 or not side.solved.any() for side in (a, b)):
        return None

    def shares(unknown: float) -> tuple[float, float]:
        """The interval of ERT_a / (ERT_a + ERT_b): monotonic in the ratio, and finite."""

        def statistic(of_a: np.ndarray, of_b: np.ndarray, axis: int) -> np.ndarray:
            drawn_a, drawn_b = a.at(of_a), b.at(of_b)  # (R, N)
            any_solved = drawn_a.solved.any(axis) | drawn_b.solved.any(axis)
            return np.where(any_solved, expit(log_ratios(drawn_a, drawn_b)), unknown)

        return bootstrap(
            [np.arange(len(side.costs)) for side in (a, b)],
            statistic,
            paired=paired,
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
    """The number of pairs with which a new comparison decides with 80% power, if the observed ratio is the true one.

    From the normal approximation, with the correction of Guenther (1981) for an estimated standard deviation. The
    standard error is derived from the width of the bootstrap interval, which stays finite if a few resamples solved
    nothing. This is for planning only: a lucky comparison leads to too small a number. At least 6; None if it is
    unknown, if there is no difference, or if it is above 10,000.
    """
    interval = ratio_interval(pairs, seed)
    log_ratio = log_ert_ratio(pairs)
    if interval is None or min(interval) == 0 or math.isinf(max(interval)) or abs(log_ratio) < TIE:
        return None
    level_quantile, power_quantile = NormalDist().inv_cdf(1 - LEVEL / 2), NormalDist().inv_cdf(POWER)
    standard_error = math.log(interval[1] / interval[0]) / (2 * level_quantile)
    # resamples vary around the observed mean, not the true one: their variance is too small by (N - 1) / N
    variance_of_a_pair = standard_error**2 * pairs.num_pairs**2 / (pairs.num_pairs - 1)
    normal = variance_of_a_pair * ((level_quantile + power_quantile) / log_ratio) ** 2
    needed = math.ceil(normal + level_quantile**2 / 2)
    return max(needed, FEWEST_PAIRS) if needed <= MOST_PAIRS else None


def drift(pairs: Pairs) -> float | None:
    """The relative increase of seconds from the first to the last pair: 0.2 is 20% slower at the end.

    From a linear fit to the mean log seconds of each pair; it describes the machine and is not part of the test. None
    for less than 3 pairs, or if an attempt took 0 seconds.
    """
    from scipy.stats import linregress

    seconds = np.stack([pairs.a.costs, pairs.b.costs])  # (2, N)
    if pairs.num_pairs < 3 or not (seconds > 0).all():
        return None
    line = linregress(np.arange(pairs.num_pairs), np.log(seconds).mean(0))
    return math.expm1(line.slope * (pairs.num_pairs - 1))
