"""How attempts are summed up."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from bench.clock import MAX_WARMUP_SECONDS, ClockName
from bench.journal import Run


class Spread(NamedTuple):
    """Median and extremes of some seconds."""

    median: float
    minimum: float
    maximum: float


def spread(values: Sequence[float]) -> Spread | None:
    """None when there are no values."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def utilisation(run: Run) -> float | None:
    """The share of the machine's measured peak of matrix products that `train` made use of, 0..1."""
    if not (run.train_flops and run.seconds.train and run.matmul_flops_per_second):
        return None
    return run.train_flops / (run.seconds.train * run.matmul_flops_per_second)


def peak_memory(run: Run) -> int | None:
    """Bytes, of the device that trained."""
    return run.peak_device_memory_bytes if run.device == "cuda" else run.peak_memory_bytes


def flops_floor(run: Run) -> float | None:
    """The seconds that the steps' matrix products would take at the machine's measured peak."""
    known = run.train_flops and run.matmul_flops_per_second
    return run.train_flops / run.matmul_flops_per_second if known else None


def launch_floor(run: Run) -> float | None:
    """The seconds that it would take to launch the steps' operations if they had nothing to do."""
    known = run.steps and run.step_launches and run.launch_seconds
    return run.steps * run.step_launches * run.launch_seconds if known else None


def attempt_costs(runs: Sequence[Run], clock: ClockName) -> list[float]:
    """The seconds that each attempt is charged.

    An attempt that was killed or interrupted would have cost time that nobody measured. It is charged its limit,
    `max_seconds`, or as much as the slowest attempt of the batch if that is more: stopping an attempt never pays. Nor
    does a long warm-up: by `train`, what it takes beyond its limit counts.
    """
    known = [charged_seconds(run, clock) for run in runs]
    slowest = max((seconds for seconds in known if seconds is not None), default=0.0)
    return [
        max(slowest, run.settings.get("max_seconds") or 0.0)
        if seconds is None or run.outcome == "interrupted"
        else seconds
        for run, seconds in zip(runs, known, strict=True)
    ]


def charged_seconds(run: Run, clock: ClockName) -> float | None:
    """What a run's own clock says, with what its warm-up took beyond the limit; None where `clock` never ran."""
    seconds = getattr(run.seconds, clock)
    if seconds is None or clock == "total":
        return seconds
    return seconds + max(0.0, (run.seconds.warmup or 0.0) - MAX_WARMUP_SECONDS)


def expected_time_to_success(runs: Sequence[Run], clock: ClockName) -> float:
    """ERT in seconds: what all attempts cost over how many of them succeeded (Hansen et al., COCO, 2009).

    Infinite when none succeeded.
    """
    num_solved = sum(run.outcome == "solved" for run in runs)
    return sum(attempt_costs(runs, clock)) / num_solved if num_solved else float("inf")


# -----------------------------------------------------------------------------
# how often attempts solve, and models err


def wilson_interval(num_solved: int, num_attempts: int) -> tuple[float, float]:
    """The 95% interval of a share that was seen as `num_solved` of `num_attempts` (Wilson, 1927)."""
    from scipy.stats import binomtest

    if num_attempts == 0:
        return 0.0, 1.0
    low, high = binomtest(num_solved, num_attempts).proportion_ci(confidence_level=0.95, method="wilson")
    return float(low), float(high)


def clopper_pearson_upper(errors: int, problems: int) -> float:
    """The one-sided 95% upper bound of a rate that was seen as `errors` of `problems` (Clopper and Pearson, 1934).

    With no error it is close to 3 / problems.
    """
    from scipy.special import betaincinv  # the quantile of a beta distribution, without the weight of scipy.stats

    return float(betaincinv(errors + 1, problems - errors, 0.95)) if errors < problems else 1.0


def solve_rates_agree(num_solved: int, num_attempts: int, other_solved: int, other_attempts: int) -> bool:
    """Whether nothing speaks against two batches solving equally often: Fisher's exact test (1935), two-sided, at 5%.

    Few attempts agree with almost anything.
    """
    from scipy.stats import fisher_exact

    table = [[num_solved, num_attempts - num_solved], [other_solved, other_attempts - other_solved]]
    return bool(fisher_exact(table).pvalue >= 0.05)
