"""The seconds that an attempt is charged, and the expected time to success (ERT)."""

import math
from collections import Counter
from collections.abc import Sequence

from bench.clock import MAX_WARMUP_SECONDS, ClockName
from bench.storage.schema import Run


def attempt_costs(runs: Sequence[Run], clock: ClockName) -> list[float]:
    """The seconds that each attempt of a batch is charged.

    A killed or interrupted attempt is charged its limit `max_seconds`, or the seconds of the slowest attempt of the
    batch if they are more, so that stopping an attempt never pays. For other attempts see `charged_seconds`.
    """
    measured = [charged_seconds(run, clock) for run in runs]
    slowest = max((seconds for seconds in measured if seconds is not None), default=0.0)
    return [
        max(slowest, float(run.settings.get("max_seconds") or 0.0))
        if seconds is None or run.outcome == "interrupted"
        else seconds
        for run, seconds in zip(runs, measured, strict=True)
    ]


def charged_seconds(run: Run, clock: ClockName) -> float | None:
    """Seconds on a clock; on `train` plus the warm-up beyond its limit. None if the attempt did not get that far."""
    if clock == "total":
        return run.seconds.total
    if run.seconds.train is None:
        return None
    return run.seconds.train + max(0.0, (run.seconds.warmup or 0.0) - MAX_WARMUP_SECONDS)


def expected_time_to_success(runs: Sequence[Run], clock: ClockName) -> float:
    """ERT in seconds: all costs over the number of successes, infinite without one (Hansen et al., COCO, 2009).

    Each seed has one vote. A seed that ran several times costs the mean of its attempts, and its success is the share
    of them that solved the track: such attempts differ by the noise of the machine alone.
    """
    counts = Counter(run.seed for run in runs)
    most = max(counts.values(), default=1)
    weights = [most / counts[run.seed] for run in runs]  # exactly 1 where all seeds ran equally often
    successes = sum(weight for run, weight in zip(runs, weights, strict=True) if run.outcome == "solved")
    costs = sum(weight * cost for weight, cost in zip(weights, attempt_costs(runs, clock), strict=True))
    return costs / successes if successes else math.inf


def count_solved_seeds(runs: Sequence[Run]) -> float:
    """The number of seeds that solved the track; a seed that ran several times counts as the share that solved."""
    counts = Counter(run.seed for run in runs)
    solved = Counter(run.seed for run in runs if run.outcome == "solved")
    return sum(number / counts[seed] for seed, number in solved.items())
