"""The seconds that an attempt is charged, and the expected time to success (ERT)."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence

from bench.clock import MAX_WARMUP_SECONDS, ClockName
from bench.storage.schema import Run

STOPPED = ("lost", "interrupted")  # outcomes of attempts that were stopped from outside
CAP = 3.0  # times the usual seconds, at most which a solved attempt is charged in the ERT ratio of a comparison


def attempt_costs(runs: Sequence[Run], clock: ClockName) -> list[float]:
    """The seconds that each attempt of a batch is charged.

    A killed or interrupted attempt is charged its limit `max_seconds`, or the seconds of the slowest attempt of the
    batch if they are more, so that stopping an attempt never pays. For other attempts see `charged_seconds`.
    """
    measured = [charged_seconds(run, clock) for run in runs]
    slowest = max((seconds for seconds in measured if seconds is not None), default=0.0)
    return [
        max(slowest, limit_seconds(run)) if seconds is None or run.outcome == "interrupted" else seconds
        for run, seconds in zip(runs, measured, strict=True)
    ]


def challenger_costs(runs: Sequence[Run], opponents: Sequence[Run], clock: ClockName) -> list[float]:
    """The seconds that each attempt of a record's challenger is charged, given those of its opponent.

    One that was killed, interrupted or crashed is charged the largest limit of both sides, or the seconds of the
    slowest attempt of either side if they are more. Other attempts are charged as by `attempt_costs`.
    """
    costs = attempt_costs(runs, clock)
    limits = map(limit_seconds, (*runs, *opponents))
    most = max([*costs, *attempt_costs(opponents, clock), *limits], default=0.0)
    return [most if run.outcome in (*STOPPED, "error") else cost for run, cost in zip(runs, costs, strict=True)]


def charged_seconds(run: Run, clock: ClockName) -> float | None:
    """Seconds on a clock; on `train` plus the warm-up beyond its limit. None if the attempt did not get that far."""
    if clock == "total":
        return run.seconds.total
    if run.seconds.train is None:
        return None
    return run.seconds.train + max(0.0, (run.seconds.warmup or 0.0) - MAX_WARMUP_SECONDS)


def limit_seconds(run: Run) -> float:
    """The limit on `train`, `max_seconds`; 0 if it is not known."""
    return float(run.settings.get("max_seconds") or 0.0)


def cost_caps(runs: Sequence[Run], clock: ClockName) -> list[float]:
    """The most seconds that each attempt of a side is charged in the ERT ratio of a comparison.

    It is CAP times the usual seconds for the attempt's steps: the side's median seconds of `train` a step, times the
    steps; by `total` also the side's median of the seconds beside `train`. So a machine that was disturbed in one
    attempt does not decide, while further rounds of training count in full. Attempts that did not solve the track, or
    whose steps are not known, have no cap: infinity.
    """
    paces, others = [], [0.0] if clock == "train" else []
    for run in runs:
        train, total = charged_seconds(run, "train"), run.seconds.total
        if train is not None and run.steps:
            paces.append(train / run.steps)
            if clock == "total" and total is not None:
                others.append(total - train)
    if not paces or not others:
        return [math.inf] * len(runs)
    pace, other = statistics.median(paces), statistics.median(others)
    return [CAP * (pace * run.steps + other) if run.outcome == "solved" and run.steps else math.inf for run in runs]


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
