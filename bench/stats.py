"""How attempts are summed up."""

import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

from bench.journal import Run

ClockName = Literal["train", "total"]


class Spread(NamedTuple):
    """Median and extremes of some seconds."""

    median: float
    minimum: float
    maximum: float


def spread(values: Sequence[float]) -> Spread | None:
    """None when there are no values."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def attempt_costs(runs: Sequence[Run], clock: ClockName) -> list[float]:
    """The seconds that each attempt is charged.

    An attempt that was killed cost time that nobody measured. It is charged its limit, `max_seconds`, or as much as
    the slowest attempt of the batch if that is more: killing an attempt never pays.
    """
    known = [getattr(run.seconds, clock) for run in runs]
    slowest = max((seconds for seconds in known if seconds is not None), default=0.0)
    return [
        max(slowest, run.settings.get("max_seconds") or 0.0) if seconds is None else seconds
        for run, seconds in zip(runs, known, strict=True)
    ]


def expected_time_to_success(runs: Sequence[Run], clock: ClockName) -> float:
    """ERT in seconds: what all attempts cost over how many of them succeeded (Hansen et al., COCO, 2009).

    Infinite when none succeeded.
    """
    num_solved = sum(run.outcome == "solved" for run in runs)
    return sum(attempt_costs(runs, clock)) / num_solved if num_solved else float("inf")
