"""How learning to add grows with the number of digits: the attempts of a config on tracks of every length.

A config's name stays the same when settings are changed on the command line, so that the name alone does not tell which
attempts are alike. Those of one family have the order of the answer's digits, the source, the machine class and all
settings in common but the track and the limit of seconds. Families are never pooled, and none of their attempts is left
out.
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
ORDERS = (FORWARDS, REVERSED)  # in which the digits of an answer are written
OWN_SETTINGS = ("track", "max_seconds")  # in which the attempts of one family may differ

# What grows, each with what it is in a run: null where it is not known.
QUANTITIES: dict[str, Callable[[Run], float | None]] = {
    "seconds": lambda run: run.seconds.train,
    "steps": lambda run: run.steps,
    "FLOPs": lambda run: run.train_flops,
}


class ScalingAttempt(NamedTuple):
    """A run of one of the configs, and what its track asks."""

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
        """Those that all attempts have in common."""
        return common_settings(self.attempts[0].run)

    @property
    def num_solved(self) -> int:
        return sum(attempt.solved for attempt in self.attempts)

    @property
    def exponents(self) -> list[str]:
        """Those of all QUANTITIES in words."""
        return [exponent_text(fit(points(self.attempts, quantity))) for quantity in QUANTITIES]


def common_settings(run: Run) -> dict[str, Any]:
    return {key: value for key, value in current_names(run.settings).items() if key not in OWN_SETTINGS}


def families(runs: Iterable[Run]) -> list[Family]:
    """The configs' attempts on `addN` and `addN-reversed`.

    Machine classes in alphabetical order; on each either order, with that family first that was asked most tracks,
    whether it solved them or not, and of several the one with the latest attempt.
    """
    found: dict[tuple[str, str, str, str], list[ScalingAttempt]] = defaultdict(list)
    for run in runs:
        name = TRACK.fullmatch(run.track)
        if run.config in CONFIGS and name and run.is_contest:
            settings = json.dumps(common_settings(run), sort_keys=True)
            order = REVERSED if name["reversed"] else FORWARDS
            key = run.machine_class_name, order, run.source_sha256, settings
            found[key].append(ScalingAttempt(int(name["digits"]), run))
    alike = [
        Family(machine, order, tuple(sorted(attempts, key=lambda attempt: attempt.digits)))
        for (machine, order, _, _), attempts in found.items()
    ]
    alike.sort(key=lambda family: max(attempt.run.started_at for attempt in family.attempts), reverse=True)
    alike.sort(key=lambda family: len({attempt.run.track for attempt in family.attempts}), reverse=True)
    return sorted(alike, key=lambda family: (family.machine_class, ORDERS.index(family.order)))


def plotted(found: Sequence[Family]) -> list[Family]:
    """The first family of each machine class and order: those that are shown."""
    return list({(family.machine_class, family.order): family for family in reversed(found)}.values())[::-1]


def points(attempts: Sequence[ScalingAttempt], quantity: str) -> list[tuple[int, float]]:
    """(digits, quantity) of the solved attempts; one whose quantity is not known has no point."""
    read = QUANTITIES[quantity]
    solved = [(attempt.digits, read(attempt.run)) for attempt in attempts if attempt.solved]
    return [(digits, value) for digits, value in solved if value]
