"""When a model learned: the steps at which each split was first answered rightly."""

from collections.abc import Sequence
from typing import NamedTuple

from bench.storage.schema import Check, Run

PERCENTAGES = (95, 100)  # of the problems of a split
SPLITS = ("train", "validation", "test")
MILESTONES = tuple(f"{split} {percent}%" for split in SPLITS for percent in PERCENTAGES)


def reached_steps(checks: Sequence[Check]) -> dict[str, int | None]:
    """The step of the first check at which 95% and 100% of each split were right, such as `validation 95%` -> 150.

    None where no check found as many right; a split that no check evaluated is left out.
    """
    steps: dict[str, int | None] = {}
    for split in dict.fromkeys(name for check in checks for name in check.splits):
        results = [(check.step, check.splits[split]) for check in checks if split in check.splits]
        for percent in PERCENTAGES:
            steps[f"{split} {percent}%"] = next((step for step, result in results if result.is_right(percent)), None)
    return steps


class StepCount(NamedTuple):
    """A number of optimizer steps; of a run that did not get to its last milestone, those that it took in vain."""

    steps: int
    is_reached: bool  # the last milestone
    is_begun: bool = True  # the first milestone was reached, or there is none

    def __str__(self) -> str:
        return f"{'' if self.is_reached else '> ' if self.is_begun else 'not begun in '}{self.steps:,}"


def steps_between(run: Run, milestones: Sequence[str]) -> StepCount:
    """The steps of a run to a milestone such as `validation 100%`, or from the first milestone to the second.

    They are below 0 if the second milestone came first. They are exact up to the steps between two checks.
    """
    reached = {"": 0} | reached_steps(run.checks)
    start, end = (reached.get(milestone) for milestone in ("", *milestones)[-2:])
    last = max((check.step for check in run.checks), default=0)
    if start is None:
        return StepCount(last, is_reached=False, is_begun=False)
    return StepCount((last if end is None else end) - start, is_reached=end is not None)
