"""What an attempt costs, and the expected time to success (ERT)."""

from collections.abc import Sequence

from bench.clock import MAX_WARMUP_SECONDS, ClockName
from bench.storage.schema import Run


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
