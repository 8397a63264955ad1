"""When a model learned: the steps at which each split was first answered rightly."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench.stats.loss_curve import loss_spikes
from bench.storage.schema import Certificate, Check, Run
from bench.storage.training_set import num_training

PERCENTAGES = (95, 100)  # of the problems of a split
SPLITS = ("train", "validation", "test")
MOST_EVEN_CHECKS, MOST_SPIKE_CHECKS = 900, 90  # of a run, in the journal
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


def thinned_checks(checks: Sequence[Check], reached: Mapping[str, float | None]) -> list[Check]:
    """The checks of a run that its line in the journal holds: all of them, or about 1,000 of a long run.

    Of more than MOST_EVEN_CHECKS, half as many are evenly spaced by their number, and half by its logarithm, with the
    first and the last. Those at which a target or a milestone was first reached are kept, and those at which the first
    MOST_SPIKE_CHECKS spikes of the loss begin. `reached` has the seconds of `train` of each target.
    """
    if len(checks) <= MOST_EVEN_CHECKS:
        return list(checks)
    half, last = MOST_EVEN_CHECKS // 2, len(checks) - 1
    even = {round(last * i / (half - 1)) for i in range(half)} | {round(last ** (i / (half - 1))) for i in range(half)}
    steps = {step for step in reached_steps(checks).values() if step is not None}
    steps.update(spike.step for spike in loss_spikes(checks)[:MOST_SPIKE_CHECKS])
    seconds = {value for value in reached.values() if value is not None}
    return [
        check for i, check in enumerate(checks) if i in even or check.step in steps or check.train_seconds in seconds
    ]


def split_label(split: str, runs: Sequence[Run]) -> str:
    """The name of a split; `train, samples of 512 or more` where checks did not evaluate all training problems."""
    asked = [size for run in runs for size in sample_sizes(run)] if split == "train" else []
    if not asked:
        return split
    smallest = min(asked)
    return f"{split}, {f'a sample of {smallest:,}' if smallest == max(asked) else f'samples of {smallest:,} or more'}"


def sample_sizes(run: Run) -> set[int]:
    """The numbers of training problems that checks of a run evaluated, but for those that evaluated all."""
    asked = {check.splits["train"].problems for check in run.checks if "train" in check.splits}
    whole = num_training(run) if asked else None
    return {size for size in asked if whole is None or size < whole}


class StepSpan(NamedTuple):
    """The optimizer steps after which a run reached two milestones; None: it did not reach that one."""

    start: int | None  # 0, the start of training, where there is only one milestone
    end: int | None
    last: int  # of the last check

    @property
    def is_finished(self) -> bool:
        return self.start is not None and self.end is not None

    @property
    def steps(self) -> int:
        """From the first milestone to the second; where one was not reached, those that the run took without it.

        They are below 0 if the second milestone came first.
        """
        if self.start is None:
            return self.last
        return (self.last if self.end is None else self.end) - self.start

    def __str__(self) -> str:
        prefix = "" if self.is_finished else "not begun in " if self.start is None else "> "
        return f"{prefix}{self.steps:,}"


def step_span(run: Run, milestones: Sequence[str]) -> StepSpan:
    """The steps of a run to a milestone such as `validation 100%`, or from the first of two milestones to the second.

    Only checks find a milestone, so the steps are exact up to the distance between two checks.
    """
    reached = {"": 0} | reached_steps(run.checks)
    start, end = (reached.get(milestone) for milestone in ("", *milestones)[-2:])
    return StepSpan(start, end, max((check.step for check in run.checks), default=0))


def reached_with_certificate(
    reached: Mapping[str, float | None], certificate: Certificate | None, seconds: float | None
) -> dict[str, float | None]:
    """The seconds of `train` at which each target was reached; the certificate adds `heldout` and `solved`.

    `reached` are those of the checks during training, `seconds` all of `train`.
    """
    found = dict(reached)
    if certificate is not None:
        if certificate.heldout_problems:
            found["heldout"] = None if certificate.heldout_errors else seconds
        found |= {name: seconds if is_met else found.get(name) for name, is_met in certificate.targets.items()}
        found["solved"] = seconds if certificate.is_solved else None
    return found
