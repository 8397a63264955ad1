"""How attempts are summed up."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from bench.storage.schema import EXPLORATION_COMMANDS, Run


def overheads(runs: Sequence[Run]) -> dict[tuple[str, str], list[float]]:
    """(engine, machine class) -> seconds from one attempt's start to the next one's, less the former's `total`.

    Of matrices and searches whose attempts came one after the other; where several nodes made them at once, the gaps
    tell nothing.
    """
    sweeps: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.batch is not None and run.batch.command in EXPLORATION_COMMANDS:
            sweeps[run.batch.id].append(run)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for its in sweeps.values():
        in_order = sorted(its, key=lambda run: run.started_at)
        gaps = [gap for pair in itertools.pairwise(in_order) if (gap := gap_between(*pair)) is not None]
        if gaps and min(gaps) > 0:
            found[in_order[0].engine or "local", in_order[0].machine.class_ or "unknown machine"] += gaps
    return dict(sorted(found.items()))


def gap_between(run: Run, following: Run) -> float | None:
    """Seconds in which neither was under way; None for one that was killed, or stopped by somebody."""
    if run.seconds.total is None or run.outcome == "interrupted":
        return None
    return (following.started_at - run.started_at).total_seconds() - run.seconds.total


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
