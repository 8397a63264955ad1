"""Descriptive statistics of attempts, lower bounds on their time, and intervals of rates."""

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from bench.storage.schema import EXPLORATION_COMMANDS, Run


def overheads(runs: Sequence[Run]) -> dict[tuple[str, str], list[float]]:
    """(engine, machine class) -> seconds from the end of each attempt, if not cut short, to the start of the next one.

    Of matrices and searches that ran one attempt at a time: where attempts overlapped, the gaps are meaningless.
    """
    batches: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.started_at):
        if (batch := run.batch_of(*EXPLORATION_COMMANDS)) is not None:
            batches[batch.id].append(run)
    all_gaps: dict[tuple[str, str], list[float]] = defaultdict(list)
    for in_order in batches.values():
        gaps = [
            (following.started_at - run.started_at).total_seconds() - run.seconds.total
            for run, following in itertools.pairwise(in_order)
            if run.seconds.total is not None and run.outcome != "interrupted"
        ]
        if gaps and min(gaps) > 0:
            all_gaps[in_order[0].engine or "local", in_order[0].machine_class_name] += gaps
    return dict(sorted(all_gaps.items()))


class Spread(NamedTuple):
    """Median and extremes of some values."""

    median: float
    minimum: float
    maximum: float


def spread(values: Sequence[float]) -> Spread | None:
    """Median, minimum and maximum; None if there are no values."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def utilisation(run: Run) -> float | None:
    """FLOP/s of the matrix products in `train` over the machine's measured peak, 0..1; None if not measured."""
    bound_seconds = matmul_bound_seconds(run)
    return bound_seconds / run.seconds.train if bound_seconds and run.seconds.train else None


def peak_memory(run: Run) -> int | None:
    """Peak memory in bytes, of the device that trained."""
    return run.peak_device_memory_bytes if run.device == "cuda" else run.peak_memory_bytes


def matmul_bound_seconds(run: Run) -> float | None:
    """Lower bound on `train`: the matrix products of all steps at the machine's measured peak; None if not measured."""
    if not (run.train_flops and run.matmul_flops_per_second):
        return None
    return run.train_flops / run.matmul_flops_per_second


def launch_bound_seconds(run: Run) -> float | None:
    """Lower bound on `train`: the launches of the torch operations of all steps; None if not measured."""
    if not (run.steps and run.step_launches and run.launch_seconds):
        return None
    return run.steps * run.step_launches * run.launch_seconds


def wilson_interval(num_solved: float, num_attempts: int) -> tuple[float, float]:
    """The 95% interval of a rate of which `num_solved` of `num_attempts` were observed (Wilson, 1927)."""
    if num_attempts == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.975)  # by its formula: the commands that only read do not import scipy
    rate, shrinkage = num_solved / num_attempts, z**2 / num_attempts
    middle = rate + shrinkage / 2
    half_width = math.sqrt(rate * (1 - rate) * shrinkage + shrinkage**2 / 4)
    bounds = ((middle + sign * half_width) / (1 + shrinkage) for sign in (-1, 1))
    low, high = (min(max(bound, 0.0), 1.0) for bound in bounds)
    return (0.0 if num_solved == 0 else low), (1.0 if num_solved == num_attempts else high)


class Interval(NamedTuple):
    """A mean and the ends of its 95% interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of at least one value and its 95% interval by Student's t (1908); of one value, the value itself."""
    from scipy.special import stdtrit  # the quantile of the t distribution

    mean, count = statistics.fmean(values), len(values)
    width = 0.0
    if count > 1:
        width = float(stdtrit(count - 1, 0.975)) * statistics.stdev(values) / math.sqrt(count)
    return Interval(mean, mean - width, mean + width)


def means_differ(values: Sequence[float], others: Sequence[float], significance: float) -> bool:
    """Whether the means of two samples differ (Welch's t-test, 1947); never with fewer than two values of each."""
    from scipy.stats import ttest_ind

    if min(len(values), len(others)) < 2:
        return False
    if not statistics.pvariance(values) + statistics.pvariance(others):
        return values[0] != others[0]
    return bool(ttest_ind(values, others, equal_var=False).pvalue < significance)


def clopper_pearson_upper(errors: int, problems: int) -> float:
    """The one-sided 95% upper bound of an error rate (Clopper and Pearson, 1934); about 3 / problems without errors."""
    from scipy.special import betaincinv  # the quantile of the beta distribution; imports faster than scipy.stats

    return float(betaincinv(errors + 1, problems - errors, 0.95)) if errors < problems else 1.0


def solve_rates_agree(num_solved: int, num_attempts: int, other_solved: int, other_attempts: int) -> bool:
    """Whether two solve rates do not differ at the 5% level (Fisher's exact test, 1935); few attempts rarely do."""
    from scipy.stats import fisher_exact

    table = [[num_solved, num_attempts - num_solved], [other_solved, other_attempts - other_solved]]
    return bool(fisher_exact(table).pvalue >= 0.05)
