"""Families of attempts at addition tracks of different lengths, from which scaling exponents are estimated.

The attempts of a family agree in the order of the answer's digits, the source, the machine class and all settings
except the track and the time limit. A config's name does not suffice, as the command line can override settings.
Families are never pooled, and none of their attempts is left out.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from bench.config import current_names
from bench.stats.power_law import exponent_text, fit
from bench.storage.schema import Run

CONFIGS = ("scaling", "scaling-forwards")
TRACK = re.compile(r"add(?P<digits>\d+)(?P<reversed>-reversed)?")
FORWARDS, REVERSED = "most significant first", "reversed"
ORDERS = (FORWARDS, REVERSED)  # of the digits of an answer
VARIED_SETTINGS = ("track", "max_seconds")  # in which the attempts of one family may differ

# Name of a quantity -> its value in a run, None where it is unknown.
QUANTITIES: dict[str, Callable[[Run], float | None]] = {
    "seconds": lambda run: run.seconds.train,
    "steps": lambda run: run.steps,
    "FLOPs": lambda run: run.train_flops,
}


class ScalingAttempt(NamedTuple):
    """A run of one of the configs, and the length of its track."""

    digits: int  # of each operand
    run: Run

    @property
    def solved(self) -> bool:
        return self.run.outcome == "solved"


class Family(NamedTuple):
    """Attempts that differ in their track and their seed."""

    machine_class: str
    order: str  # one of ORDERS
    attempts: tuple[ScalingAttempt, ...]  # shorter tracks first, in file order

    @property
    def config(self) -> str:
        return self.attempts[0].run.config

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that all attempts have in common."""
        return common_settings(self.attempts[0].run)

    @property
    def num_solved(self) -> int:
        return sum(attempt.solved for attempt in self.attempts)

    @property
    def exponents(self) -> list[str]:
        """The exponent of each of the QUANTITIES as text."""
        return [exponent_text(fit(points(self.attempts, quantity))) for quantity in QUANTITIES]


def common_settings(run: Run) -> dict[str, Any]:
    return {key: value for key, value in current_names(run.settings).items() if key not in VARIED_SETTINGS}


def families(runs: Iterable[Run]) -> list[Family]:
    """The attempts of the configs on `addN` and `addN-reversed`.

    Sorted by machine class and order of digits; within these the family with the most tracks, solved or not, comes
    first, then the one with the latest attempt.
    """
    grouped: dict[tuple[str, str, str, str], list[ScalingAttempt]] = defaultdict(list)
    for run in runs:
        name = TRACK.fullmatch(run.track)
        if run.config in CONFIGS and name and run.is_contest:
            settings = json.dumps(common_settings(run), sort_keys=True)
            order = REVERSED if name["reversed"] else FORWARDS
            key = run.machine_class_name, order, run.source_sha256, settings
            grouped[key].append(ScalingAttempt(int(name["digits"]), run))
    result = [
        Family(machine, order, tuple(sorted(attempts, key=lambda attempt: attempt.digits)))
        for (machine, order, _, _), attempts in grouped.items()
    ]
    result.sort(key=lambda family: max(attempt.run.started_at for attempt in family.attempts), reverse=True)
    result.sort(key=lambda family: len({attempt.run.track for attempt in family.attempts}), reverse=True)
    return sorted(result, key=lambda family: (family.machine_class, ORDERS.index(family.order)))


def plotted(all_families: Sequence[Family]) -> list[Family]:
    """The first family of each machine class and order."""
    return list({(family.machine_class, family.order): family for family in reversed(all_families)}.values())[::-1]


def points(attempts: Sequence[ScalingAttempt], quantity: str) -> list[tuple[int, float]]:
    """(digits, quantity) of the solved attempts whose quantity is known."""
    read = QUANTITIES[quantity]
    solved = [(attempt.digits, read(attempt.run)) for attempt in attempts if attempt.solved]
    return [(digits, value) for digits, value in solved if value]
