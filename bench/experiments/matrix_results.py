"""What the cells of a matrix have come to, by the journal alone: what is still to be made, and the ranking."""

import csv
import dataclasses
import hashlib
import io
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bench.clock import ClockName
from bench.experiments.executors import Executor
from bench.experiments.launcher import Contestant, Refusal
from bench.experiments.matrix_file import Cell, Matrix
from bench.stats.descriptive import spread
from bench.stats.expected_time import expected_time_to_success
from bench.storage.schema import MATRIX, Run

UNFINISHED = {"interrupted"}  # broken off from outside: made again whenever the matrix goes on
FAILED = {"error", "lost"}  # made again when that is asked for


class AttemptKey(NamedTuple):
    """What makes two attempts the same: with the source come data, and with the config its track."""

    config_hash: str
    source_sha256: str
    machine_class: str | None
    seed: int


@dataclasses.dataclass(frozen=True)
class CellContestant:
    """A cell, and the contestant that makes its attempts."""

    cell: Cell
    contestant: Contestant

    def key(self, seed: int) -> AttemptKey:
        planned = self.contestant.planned
        return AttemptKey(planned.config_hash, planned.source_sha256, planned.machine.class_, seed)


@dataclasses.dataclass(frozen=True)
class PendingAttempt:
    """An attempt that is still to be made."""

    entry: CellContestant
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class MachineMatrix:
    """A matrix on one kind of machine."""

    grid: Matrix
    places: tuple[Executor, ...]  # that are of this kind
    entries: tuple[CellContestant, ...]  # the cells that can run there
    refused: tuple[Refusal, ...]  # and why others cannot

    @property
    def keys(self) -> frozenset[AttemptKey]:
        """What makes two places of one kind."""
        return frozenset(entry.key(0) for entry in self.entries)

    @property
    def machine_class(self) -> str:
        """Its class; of a matrix over devices, the classes."""
        classes = {entry.contestant.planned.machine.class_ or "unknown machine" for entry in self.entries}
        return "; ".join(sorted(classes))

    def in_order(self) -> Iterator[PendingAttempt]:
        """All attempts, seed by seed and the cells in ever new order, so that the machine's drift spreads over all."""
        digests = "".join(entry.contestant.planned.config_hash for entry in self.entries)
        chance = random.Random(hashlib.sha256(digests.encode()).hexdigest())
        for seed in self.grid.seeds:
            for entry in chance.sample(self.entries, len(self.entries)):
                yield PendingAttempt(entry, seed)

    def results(self, known: Mapping[AttemptKey, Sequence[Run]]) -> list["CellResult"]:
        """One for each cell, in the grid's order."""
        found = []
        for entry in self.entries:
            made = [lines for seed in self.grid.seeds if (lines := known.get(entry.key(seed)))]
            latest, repeated = tuple(lines[-1] for lines in made), sum(len(lines) - 1 for lines in made)
            machine_class = entry.contestant.planned.machine.class_
            found.append(CellResult(entry.cell, machine_class, len(self.grid.seeds), latest, repeated))
        return found


def known_runs(runs: Iterable[Run]) -> dict[AttemptKey, list[Run]]:
    """The attempts that matrices have made, in the journal's order."""
    found: dict[AttemptKey, list[Run]] = defaultdict(list)
    for run in runs:
        if run.batch is not None and run.batch.command == MATRIX:
            found[AttemptKey(run.config_hash, run.source_sha256, run.machine.class_, run.seed)].append(run)
    return found


def is_pending(made: Sequence[Run], retry_failed: bool) -> bool:
    """Whether an attempt is still to be made, of which these lines are there; a miss is never made again."""
    return not made or made[-1].outcome in UNFINISHED or (retry_failed and made[-1].outcome in FAILED)


@dataclasses.dataclass(frozen=True)
class CellResult:
    """What one cell has come to."""

    cell: Cell
    machine_class: str | None
    planned: int  # seeds
    runs: tuple[Run, ...]  # of each seed that was tried, the latest
    repeated: int  # earlier lines of the same seeds

    @property
    def num_solved(self) -> int:
        return sum(run.outcome == "solved" for run in self.runs)

    @property
    def finished(self) -> bool:
        return len(self.runs) == self.planned

    @property
    def outcomes(self) -> dict[str, int]:
        return dict(Counter(run.outcome for run in self.runs if run.outcome != "solved"))

    def ert(self, clock: ClockName) -> float | None:
        """None while no attempt has been made; infinite when none solved the track."""
        return expected_time_to_success(self.runs, clock) if self.runs else None

    def seconds(self, clock: ClockName) -> list[float]:
        return [value for run in self.runs if (value := getattr(run.seconds, clock)) is not None]


def rank_cells(results: Sequence[CellResult], clock: ClockName) -> list[CellResult]:
    """By ERT; cells that solved nothing, then those not tried yet, come last."""

    def order(result: CellResult) -> tuple[float, int]:
        ert = result.ert(clock)
        return (math.inf if ert is None else ert), -len(result.runs)

    return sorted(results, key=order)


def results_csv(tables: Sequence[Sequence[CellResult]], clock: ClockName) -> str:
    """A row for each cell of each kind of machine, the best of it first; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    axes = list(tables[0][0].cell.choices)
    clocks: tuple[ClockName, ...] = ("train", "total")
    figures = [f"{clock}_{name}_seconds" for clock in clocks for name in ("ert", "median", "min", "max")]
    counts = ["solved", "attempts", "planned", "repeated"]
    writer.writerow(["rank", *axes, *counts, *figures, "outcomes", "machine_class"])
    for results in tables:
        for rank, result in enumerate(rank_cells(results, clock), start=1):
            row = [rank, *result.cell.labels().values(), result.num_solved, len(result.runs), result.planned]
            row.append(result.repeated)
            for each in clocks:
                known, ert = spread(result.seconds(each)), result.ert(each)
                row += [ert, known.median, known.minimum, known.maximum] if known else [ert, None, None, None]
            outcomes = " ".join(f"{name}={count}" for name, count in sorted(result.outcomes.items()))
            writer.writerow([*row, outcomes, result.machine_class])
    return out.getvalue()
