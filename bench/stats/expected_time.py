"""The seconds that an attempt is charged, and the expected time to success (ERT)."""

import math
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
    """ERT in seconds: all costs over the number of successes, infinite without one (Hansen et al., COCO, 2009)."""
    num_solved = sum(run.outcome == "solved" for run in runs)
    return sum(attempt_costs(runs, clock)) / num_solved if num_solved else math.inf
