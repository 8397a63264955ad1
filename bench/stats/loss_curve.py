"""Stretches of a run in which the loss is stuck, and spikes of the loss, found by fixed rules in its checks.

`bench show --help` states the rules.
"""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.storage.schema import Check

STUCK_SHARE = 0.2  # of the run's steps, the shortest stretch
STUCK_CHECKS = 10  # the fewest checks of a stretch
STUCK_FALL = 0.05  # the largest fall of the lowest loss within a stretch, relative
LEARNED_PERCENT = 99  # of a check's problems right: from that check on a run is not stuck
SPIKE_RATIO = 1.2  # of the loss to the median of the checks before
SPIKE_RISE = 0.1  # above that median at least, nats
SPIKE_BACK = 1.05  # times that median, at or below which the spike is over
WINDOW = 5  # checks of a median


class StuckStretch(NamedTuple):
    """Neighbouring checks between which the lowest loss so far hardly fell."""

    first_step: int
    last_step: int
    loss: float  # the lowest so far at the end of the stretch, nats


class LossSpike(NamedTuple):
    """A sudden rise of the loss."""

    step: int  # of the first check above the threshold
    loss: float  # the highest until the spike is over, nats
    loss_before: float  # the median of the checks before, nats
    step_back: int | None  # of the check at which the spike is over; None if it never is


def has_learned(check: Check) -> bool:
    """Whether at least LEARNED_PERCENT of the training problems of a check were right."""
    result = check.splits.get("train")
    return check.errors == 0 if result is None else result.is_right(LEARNED_PERCENT)


def stuck_stretches(checks: Sequence[Check]) -> list[StuckStretch]:
    """The stretches by the rule of `bench show --help`, in order, none overlapping: the longest one, then the longest
    before and after it, and so on.

    Checks whose loss is not finite are passed over.
    """
    before_learned = itertools.takewhile(lambda check: not has_learned(check), checks)
    points = [(check.step, check.loss) for check in before_learned if check.loss is not None]
    steps, losses, half = [step for step, _ in points], [loss for _, loss in points], WINDOW // 2
    medians = (statistics.median(losses[max(0, i - half) : i + half + 1]) for i in range(len(losses)))
    lowest = list(itertools.accumulate(medians, min))
    shortest = STUCK_SHARE * checks[-1].step if checks else 0.0

    def longest_first(start: int, end: int) -> Iterator[StuckStretch]:
        """The stretches among the points from `start` to before `end`."""
        best = first = last = start
        for i in range(start, end):  # `lowest` never rises, so that neither do the ends of the stretches
            last = max(last, i)
            while last + 1 < end and lowest[last + 1] >= (1 - STUCK_FALL) * lowest[i]:
                last += 1
            if last - i + 1 >= STUCK_CHECKS and steps[last] - steps[i] > max(steps[best] - steps[first], shortest):
                first, best = i, last
        if best > first:
            yield from longest_first(start, first)
            yield StuckStretch(steps[first], steps[best], lowest[best])
            yield from longest_first(best + 1, end)

    return list(longest_first(0, len(points)))


def loss_spikes(checks: Sequence[Check]) -> list[LossSpike]:
    """The spikes by the rule of `bench show --help`, in order; checks whose loss is not finite are passed over."""
    points = [(check.step, check.loss) for check in checks if check.loss is not None]
    spikes, position = [], WINDOW
    while position < len(points):
        step, loss = points[position]
        before = statistics.median(other for _, other in points[position - WINDOW : position])
        if loss <= max(SPIKE_RATIO * before, before + SPIKE_RISE):
            position += 1
            continue
        rest = points[position:]
        length = next((i for i, (_, other) in enumerate(rest) if other <= SPIKE_BACK * before), None)
        highest = max(other for _, other in rest[:length])
        spikes.append(LossSpike(step, highest, before, None if length is None else rest[length][0]))
        position = len(points) if length is None else position + length
    return spikes
