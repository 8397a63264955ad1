"""The state of a matrix, computed from the journal: the attempts still to run, and the ranking of the cells."""

import dataclasses
import hashlib
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bench.clock import ClockName
from bench.config import settings_key
from bench.experiments.executors import Executor
from bench.experiments.launcher import Contestant, Refusal
from bench.experiments.matrix_file import Cell, Matrix
from bench.formatting import csv_rows
from bench.stats.descriptive import spread
from bench.stats.expected_time import expected_time_to_success
from bench.stats.learning_curves import StepSpan, step_span
from bench.stats.ranking import CLOCKS
from bench.storage.schema import MATRIX, Run

UNFINISHED = {"interrupted"}  # stopped by the user: repeated when the matrix is resumed
FAILED = {"error", "lost"}  # repeated only on request


class AttemptKey(NamedTuple):
    """Attempts with the same key are repetitions; the source hash covers the data, the settings name the track."""

    settings: frozenset[tuple[str, Any]]  # see `settings_key`
    source_sha256: str
    machine_class: str | None
    seed: int


def attempt_key(run: Run) -> AttemptKey:
    return AttemptKey(settings_key(run.settings), run.source_sha256, run.machine.class_, run.seed)


@dataclasses.dataclass(frozen=True)
class ResolvedCell:
    """A cell, and the contestant that runs its attempts."""

    cell: Cell
    contestant: Contestant

    def key(self, seed: int) -> AttemptKey:
        return attempt_key(self.contestant.planned)._replace(seed=seed)


class PendingAttempt(NamedTuple):
    """An attempt still to run."""

    resolved: ResolvedCell
    seed: int
    key: AttemptKey


@dataclasses.dataclass(frozen=True, eq=False)
class MachineMatrix:
    """A matrix on the executors of one kind of machine."""

    matrix: Matrix
    executors: list[Executor]
    cells: tuple[ResolvedCell, ...]  # those that these executors can run
    refusals: tuple[Refusal, ...]  # for the other cells

    @property
    def keys(self) -> frozenset[AttemptKey]:
        """Executors with the same keys can share the attempts."""
        return frozenset(resolved.key(0) for resolved in self.cells)

    @property
    def machine_class(self) -> str:
        """The machine class; all of them for a matrix with an axis of devices."""
        return "; ".join(sorted({resolved.contestant.planned.machine_class_name for resolved in self.cells}))

    def pending(self, runs: Iterable[Run], retry_failed: bool) -> list[PendingAttempt]:
        """The attempts still to run, seed by seed: those that never ran or were interrupted, on request failed ones.

        The cells are shuffled for each seed, which spreads the machine's drift.
        """
        digests = "".join(resolved.contestant.planned.config_hash for resolved in self.cells)
        generator = random.Random(hashlib.sha256(digests.encode()).hexdigest())
        shuffled = [(seed, generator.sample(self.cells, len(self.cells))) for seed in self.matrix.seeds]
        attempts = [PendingAttempt(cell, seed, cell.key(seed)) for seed, cells in shuffled for cell in cells]
        outcomes = {key: repeats[-1].outcome for key, repeats in matrix_runs(runs).items()}
        repeated = UNFINISHED | FAILED if retry_failed else UNFINISHED
        return [attempt for attempt in attempts if outcomes.get(attempt.key) in {None, *repeated}]

    def uncounted(self, runs: Iterable[Run]) -> list[AttemptKey]:
        """The attempts of the same cells on another machine class, or with other source."""
        counted, settings = self.keys, {key.settings for key in self.keys}
        keys = [attempt_key(run) for run in runs if run.command == MATRIX]
        return [key for key in keys if key.settings in settings and key._replace(seed=0) not in counted]

    def results(self, runs: Mapping[AttemptKey, Sequence[Run]]) -> list["CellResult"]:
        """A result for each cell, in the matrix's order."""
        results = []
        for resolved in self.cells:
            runs_by_seed = [repeats for seed in self.matrix.seeds if (repeats := runs.get(resolved.key(seed)))]
            latest = tuple(repeats[-1] for repeats in runs_by_seed)
            num_repeated = sum(len(repeats) - 1 for repeats in runs_by_seed)
            machine_class = resolved.contestant.planned.machine.class_
            results.append(CellResult(resolved.cell, machine_class, len(self.matrix.seeds), latest, num_repeated))
        return results


def matrix_runs(runs: Iterable[Run]) -> dict[AttemptKey, list[Run]]:
    """The runs made by matrices, grouped by key, in the journal's order."""
    groups: dict[AttemptKey, list[Run]] = defaultdict(list)
    for run in runs:
        if run.command == MATRIX:
            groups[attempt_key(run)].append(run)
    return groups


@dataclasses.dataclass(frozen=True)
class CellResult:
    """The runs of one cell."""

    cell: Cell
    machine_class: str | None
    planned: int  # number of seeds
    runs: tuple[Run, ...]  # the latest of each seed that has one
    repeated: int  # number of earlier runs of the same seeds

    @property
    def num_solved(self) -> int:
        return sum(run.outcome == "solved" for run in self.runs)

    @property
    def finished(self) -> bool:
        return len(self.runs) == self.planned

    @property
    def outcomes(self) -> dict[str, int]:
        """How often each outcome other than `solved` occurred."""
        return dict(Counter(run.outcome for run in self.runs if run.outcome != "solved"))

    def ert(self, clock: ClockName) -> float | None:
        """Expected time to success, seconds; None without runs, infinite when none solved the track."""
        return expected_time_to_success(self.runs, clock) if self.runs else None

    @property
    def unranked_because(self) -> str | None:
        """What its runs did because of which no ERT ranks them; see `Run`."""
        return self.runs[0].unranked_because if self.runs else None

    def seconds(self, clock: ClockName) -> list[float]:
        return [value for run in self.runs if (value := getattr(run.seconds, clock)) is not None]

    def step_spans(self, milestones: Sequence[str]) -> list[StepSpan]:
        """The steps of each run to or between milestones; empty without milestones."""
        return [step_span(run, milestones) for run in self.runs] if milestones else []


def rank_cells(results: Sequence[CellResult], clock: ClockName, steps: Sequence[str] = ()) -> list[CellResult]:
    """Results sorted by ERT, or by the median steps to or between milestones, where unfinished runs count as infinite.

    Cells that solved nothing, then cells without runs, come last. By ERT, cells that are never ranked follow them.
    """

    def cost(result: CellResult) -> tuple[bool, float, float, int]:
        is_unranked = not steps and result.unranked_because is not None
        found = spread([span.steps if span.is_finished else math.inf for span in result.step_spans(steps)])
        median = found.median if found else math.inf if steps else 0.0
        return is_unranked, median, expected_time_to_success(result.runs, clock), -len(result.runs)

    return sorted(results, key=cost)


def numbered_cells(
    results: Sequence[CellResult], clock: ClockName, steps: Sequence[str] = ()
) -> list[tuple[int | None, CellResult]]:
    """The cells of `rank_cells` with their ranks; None for a cell without runs, or one that no ERT ranks."""
    cells = enumerate(rank_cells(results, clock, steps), start=1)
    return [
        (rank if result.runs and (steps or result.unranked_because is None) else None, result) for rank, result in cells
    ]


def results_csv(tables: Sequence[Sequence[CellResult]], clock: ClockName, steps: Sequence[str] = ()) -> str:
    """A row for each cell of each kind of machine, ranked; unknown values are empty.

    The column `never_ranks`, with the reason, is there if any cell is never ranked by ERT.
    """
    has_unranked = any(result.unranked_because for results in tables for result in results)
    axes = list(tables[0][0].cell.choices)
    figures = [f"{name}_{figure}_seconds" for name in CLOCKS for figure in ("ert", "median", "min", "max")]
    counts = ["solved", "attempts", "planned", "repeated", *(["steps"] if steps else [])]
    rows: list[list[object]] = [["rank", *axes, *counts, *figures, "outcomes", "machine_class"]]
    rows[0] += ["never_ranks"] if has_unranked else []
    for results in tables:
        for rank, result in numbered_cells(results, clock, steps):
            row: list[object] = [rank, *result.cell.labels().values()]
            row += [result.num_solved, len(result.runs), result.planned, result.repeated]
            row += ["; ".join(map(str, result.step_spans(steps)))] if steps else []
            for name in CLOCKS:
                seconds, ert = spread(result.seconds(name)), result.ert(name)
                row += [ert, seconds.median, seconds.minimum, seconds.maximum] if seconds else [ert, None, None, None]
            outcomes = " ".join(f"{name}={count}" for name, count in sorted(result.outcomes.items()))
            row += [outcomes, result.machine_class]
            rows.append([*row, result.unranked_because] if has_unranked else row)
    return csv_rows(rows)
