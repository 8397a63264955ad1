"""When a model learned: the steps at which each split was first answered rightly."""

from collections.abc import Sequence

from bench.storage.schema import Check

PERCENTAGES = (95, 100)  # of the problems of a split


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
