"""Paired comparison of two sides: an exact swap test, an interval of the ratio of their ERTs, and planning.

A comparison consists of N pairs. In each pair both sides run one attempt with the same seed, in random order. Under the
null hypothesis, swapping the labels a and b within a pair changes nothing. The test assumes nothing else: no
distribution of the noise, and no constant speed of the machine.

The statistic is a sum over the pairs. A pair counts for the side with the lower cost, with the weight N + r, where r is
the rank, from 1 to N, of the absolute log ratio of its costs. This is a linear signed rank statistic (Hájek and Šidák,
1967) between the sign test and that of Wilcoxon (1945), whose weights are r alone. A pair that only one side solved
counts against the other side with the largest rank; a pair that neither solved counts for none.

The weights are bounded: no pair weighs more than twice as much as any other. If one of N pairs favours the other side,
p is at most 2 (N + 1) / 2**N, however far out that pair is: 2.1% with 10 pairs. With Wilcoxon's weights it may be 8.4%,
and with the ratio of the ERTs as the statistic it approaches 100%, so that one attempt that took 20 times as long as
usual left no power.

A verdict needs the ratio of the ERTs, too: side a is faster if the test rejects the null hypothesis in its favour and
ERT_a / ERT_b is below 1. The ranks say which side wins most pairs, the ERT which side costs less altogether.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from bench.clock import ClockName
from bench.stats.expected_time import STOPPED, attempt_costs, challenger_costs, cost_caps
from bench.stats.levels import LEVEL, fewest_pairs
from bench.storage.comparison_schema import Verdict
from bench.storage.schema import Run

POWER = 0.8  # of the comparisons that are planned
MOST_PAIRS = 10_000  # larger comparisons are not planned
MOST_EXACT_PAIRS = 200  # up to this number the distribution of the statistic is computed exactly
NUM_RESAMPLES = 9_999  # of the bootstrap
RESAMPLES_AT_ONCE = 1_000  # limits the memory
TIE = 1e-9  # log ratios closer than this are equal but for rounding


class ChargedAttempts(NamedTuple):
    """Attempts of one side; a leading axis, if any, is that of resamples."""

    costs: np.ndarray  # (..., N) float64, the seconds that each attempt is charged
    solved: np.ndarray  # (..., N) bool
    caps: np.ndarray  # (..., N) float64, the most seconds that count in an ERT; infinite outside comparisons

    @property
    def capped_costs(self) -> np.ndarray:
        """(..., N) float64, the seconds that count in an ERT."""
        return np.minimum(self.costs, self.caps)

    @property
    def num_capped(self) -> int:
        return int((self.costs > self.caps).sum())

    def at(self, indices: np.ndarray) -> "ChargedAttempts":
        """The attempts at the indices (..., N), which may repeat."""
        return ChargedAttempts(self.costs[indices], self.solved[indices], self.caps[indices])


class Pairs(NamedTuple):
    """The two sides of a comparison; attempts at the same index are a pair."""

    a: ChargedAttempts  # (N,)
    b: ChargedAttempts  # (N,)

    @property
    def num_pairs(self) -> int:
        return len(self.a.costs)


def charge_attempts(runs: Sequence[Run], clock: ClockName) -> ChargedAttempts:
    """The attempts of one batch, with the costs of `attempt_costs` and without caps."""
    costs = np.array(attempt_costs(runs, clock), dtype=np.float64)
    solved = np.array([run.outcome == "solved" for run in runs], dtype=bool)
    return ChargedAttempts(costs, solved, np.full(len(runs), math.inf))


def pair_runs(runs_a: Sequence[Run], runs_b: Sequence[Run], clock: ClockName, *, has_challenger: bool = False) -> Pairs:
    """The comparison of two lists of runs, both in the order of the pairs; raises ValueError if their seeds differ.

    With `has_challenger` side a challenges a record, and what is unclear counts against it: see `challenger_costs`. An
    attempt of side b that was killed or interrupted, in a pair that counts nevertheless, then counts as solved in the
    time of the fastest attempt of its side.
    """
    if [run.seed for run in runs_a] != [run.seed for run in runs_b]:
        raise ValueError("these runs are not pairs: their seeds differ")
    a, b = charge_attempts(runs_a, clock), charge_attempts(runs_b, clock)
    if has_challenger:
        a = a._replace(costs=np.array(challenger_costs(runs_a, runs_b, clock), dtype=np.float64))
        stopped = np.array([run.outcome in STOPPED for run in runs_b], dtype=bool)
        fastest = b.costs[~stopped].min(initial=math.inf if not stopped.all() else 0.0)
        b = b._replace(costs=np.where(stopped, fastest, b.costs), solved=b.solved | stopped)
    caps_a, caps_b = (np.array(cost_caps(runs, clock), dtype=np.float64) for runs in (runs_a, runs_b))
    return Pairs(a._replace(caps=caps_a), b._replace(caps=caps_b))


def log_ert(attempts: ChargedAttempts) -> np.ndarray:
    """Log of the ERT in seconds over the last axis; infinite if none succeeded."""
    num_solved = attempts.solved.sum(-1)
    with np.errstate(divide="ignore"):  # attempts of zero seconds
        return np.where(num_solved > 0, np.log(attempts.capped_costs.sum(-1) / np.maximum(num_solved, 1)), np.inf)


def log_ratios(a: ChargedAttempts, b: ChargedAttempts) -> np.ndarray:
    """log(ERT_a / ERT_b) over the last axis; 0 if both are the same infinity."""
    log_ert_a, log_ert_b = log_ert(a), log_ert(b)
    with np.errstate(invalid="ignore"):
        return np.where(log_ert_a == log_ert_b, 0.0, log_ert_a - log_ert_b)


def log_ert_ratio(pairs: Pairs) -> float:
    """log(ERT_a / ERT_b): inf if side a never solved, -inf if side b never solved, 0 if neither did."""
    return float(log_ratios(*pairs))


# -----------------------------------------------------------------------------
# the test


def signed_weights(pairs: Pairs) -> np.ndarray:
    """The weight of each pair, (N,) float64: positive if side b won it, negative if side a did, 0 for a tie.

    The costs are not capped: a cap that depends on the side would make the test inexact, and the ranks bound them.
    Swapping the labels of a pair changes the sign of its weight and no other weight.
    """
    from scipy.stats import rankdata

    a, b = pairs
    with np.errstate(divide="ignore", invalid="ignore"):  # attempts of zero seconds
        measured = np.where(a.costs == b.costs, 0.0, np.log(a.costs) - np.log(b.costs))
    missed = np.where(a.solved, -math.inf, np.where(b.solved, math.inf, 0.0))  # where at most one side solved
    ratios = np.round(np.where(a.solved & b.solved, measured, missed), 9)  # equal ratios may differ by rounding
    return np.sign(ratios) * (len(ratios) + rankdata(np.abs(ratios)))


def swap_test(pairs: Pairs) -> float:
    """The two-sided p-value of a randomization test (Fisher, 1935).

    It is the share of the 2**N ways to swap labels within pairs with a sum of weights at least as far from 0 as the
    observed one. The distribution of the sum is computed exactly, by convolution over the pairs. With more than 200
    pairs it is taken as normal, which overestimates p-values below 5% slightly, as the weights are bounded.
    """
    weights = signed_weights(pairs)
    if pairs.num_pairs > MOST_EXACT_PAIRS:
        deviation = math.sqrt((weights**2).sum())
        return 2 * NormalDist().cdf(-abs(weights.sum()) / deviation) if deviation else 1.0
    halves = np.rint(2 * weights).astype(np.int64)  # ranks of ties may end in 1/2
    won = (-halves[halves < 0].sum(), halves[halves > 0].sum())
    chances = np.zeros(min(won) + 1)  # that one side wins 0, 1, … halves of weight, as far as that is extreme
    chances[0] = 1.0
    for weight in np.abs(halves[halves != 0]):
        swapped = np.zeros_like(chances)
        swapped[weight:] = chances[:-weight]
        chances = (chances + swapped) / 2
    return min(1.0, 2 * float(chances.sum()))


def verdict(pairs: Pairs, level: float = LEVEL) -> Verdict:
    """Whether side a is faster or slower than side b at a level of the swap test, and by the ratio of the ERTs."""
    if swap_test(pairs) > level:
        return "not decided"
    directions = {float(np.sign(signed_weights(pairs).sum())), float(np.sign(log_ert_ratio(pairs)))}
    return "faster" if directions == {-1.0} else "slower" if directions == {1.0} else "not decided"


# -----------------------------------------------------------------------------
# intervals of the ratio, planning, drift


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


def pairs_needed(pairs: Pairs, level: float = LEVEL) -> int | None:
    """The number of pairs with which a new comparison decides with 80% power, if these pairs are typical.

    From the normal approximation to the sum of signed ranks (Noether, 1987). This is for planning only: a lucky
    comparison leads to too small a number. At least as many as can decide at the level; None if there is no difference,
    if the ranks and the ratio of the ERTs favour different sides, if there is only one pair, or above 10,000 pairs.
    """
    if pairs.num_pairs < 2:
        return None
    weights = signed_weights(pairs) / pairs.num_pairs  # from -2 to 2, whatever the number of pairs
    mean, log_ratio = float(weights.mean()), log_ert_ratio(pairs)
    if abs(mean) < TIE or abs(log_ratio) < TIE or (mean < 0) != (log_ratio < 0):
        return None
    level_quantile, power_quantile = NormalDist().inv_cdf(1 - level / 2), NormalDist().inv_cdf(POWER)
    deviation_without_difference = math.sqrt((weights**2).mean())
    deviation = float(weights.std(ddof=1))
    root = (level_quantile * deviation_without_difference + power_quantile * deviation) / abs(mean)
    needed = math.ceil(root**2)
    return max(needed, fewest_pairs(level)) if needed <= MOST_PAIRS else None


def drift(pairs: Pairs) -> float | None:
    """The relative increase of seconds from the first to the last pair: 0.2 is 20% slower at the end.

    From a linear fit to the mean log seconds of each pair; it describes the machine and is not part of the test. None
    for less than 3 pairs, or if an attempt took 0 seconds.
    """
    from scipy.stats import linregress

    seconds = np.stack([pairs.a.capped_costs, pairs.b.capped_costs])  # (2, N)
    if pairs.num_pairs < 3 or not (seconds > 0).all():
        return None
    line = linregress(np.arange(pairs.num_pairs), np.log(seconds).mean(0))
    return math.expm1(line.slope * (pairs.num_pairs - 1))
