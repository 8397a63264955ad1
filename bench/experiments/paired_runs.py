"""The attempts of a paired plan that the journal holds: which pairs count, and which are run again."""

import dataclasses
from collections.abc import Sequence

from bench.stats.expected_time import STOPPED
from bench.storage.comparison_schema import PairedPlan
from bench.storage.schema import Run, SideName

DISTURBED = "because the opponent's attempt was killed, interrupted or not clean"


@dataclasses.dataclass(frozen=True)
class PairedRuns:
    """The attempts of a plan so far, by the index of their pair, in its order; without an opponent `b` is empty."""

    plan: PairedPlan
    a: dict[int, Run]
    b: dict[int, Run]

    @property
    def sides(self) -> tuple[SideName, ...]:
        return ("a",) if self.plan.b is None else ("a", "b")

    @property
    def spare_seeds(self) -> list[int]:
        return self.plan.spare_seeds or []

    @property
    def repeated(self) -> list[int]:
        """The pairs that do not count: of a record, those whose opponent was disturbed and whose challenger solved.

        Each is run again with a spare seed, as a further pair after the planned ones, while there are such seeds. A
        pair that the challenger did not solve always counts, so that nobody can undo a miss by disturbing the opponent.
        """
        if self.plan.spare_seeds is None:
            return []
        solved = [index for index in self.b if index in self.a and self.a[index].outcome == "solved"]
        return [index for index in solved if is_disturbed(self.b[index], bool(self.plan.noisy))]

    @property
    def num_pairs(self) -> int:
        """The number of pairs to run, as far as it is known."""
        return self.plan.pairs + min(len(self.repeated), len(self.spare_seeds))

    @property
    def num_attempts(self) -> int:
        """The number of attempts of both sides to run, as far as it is known."""
        return len(self.sides) * self.num_pairs

    @property
    def num_runs(self) -> int:
        return len(self.a) + len(self.b)

    @property
    def is_complete(self) -> bool:
        return self.num_runs >= self.num_attempts

    @property
    def counted(self) -> list[int]:
        """The pairs that count, both of whose attempts are filed."""
        repeated = set(self.repeated)
        return [index for index in self.a if index in self.b and index not in repeated]

    def without_repeated(self, side: SideName) -> list[Run]:
        """The attempts of a side, except those of pairs that do not count; all of them if no pair counts."""
        runs = self.a if side == "a" else self.b
        repeated = set(self.repeated)
        return [run for index, run in runs.items() if index not in repeated] or list(runs.values())


def is_disturbed(run: Run, noisy: bool) -> bool:
    """Whether an opponent's attempt says little about it: it was stopped or, unless `noisy`, not clean."""
    return run.outcome in STOPPED or (not noisy and run.machine.clean is not True)


def paired_runs(plan: PairedPlan, runs: Sequence[Run]) -> PairedRuns:
    """The attempts of a plan among `runs`."""
    sides: dict[SideName, dict[int, Run]] = {"a": {}, "b": {}}
    for run in runs:
        batch = run.batch_of(plan.command)
        if batch is not None and batch.id == plan.id:
            sides[batch.side or "a"][batch.index] = run
    a, b = (dict(sorted(of_side.items())) for of_side in sides.values())
    return PairedRuns(plan, a, b)


def runs_by_side(plan: PairedPlan, runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of side a and of side b, in the order of their pairs."""
    filed = paired_runs(plan, runs)
    return list(filed.a.values()), list(filed.b.values())
