"""What the cells of a matrix have come to, by the journal alone: what is still to be made, and the ranking."""

import csv
import dataclasses
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bench.grid import Cell
from bench.journal import MATRIX, Run
from bench.run import Contestant
from bench.stats import ClockName, expected_time_to_success, spread

UNFINISHED = {"interrupted"}  # broken off from outside: made again whenever the matrix goes on
FAILED = {"error", "lost"}  # made again when that is asked for


class Key(NamedTuple):
    """What makes two attempts the same: with the source come data, and with the config its track."""

    config_hash: str
    source_sha256: str
    machine_class: str | None
    seed: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """A cell, and the contestant that makes its attempts."""

    cell: Cell
    contestant: Contestant

    def key(self, seed: int) -> Key:
        planned = self.contestant.planned
        return Key(planned.config_hash, planned.source_sha256, planned.machine.class_, seed)


def known_runs(runs: Iterable[Run]) -> dict[Key, list[Run]]:
    """The attempts that matrices have made, in the journal's order."""
    found: dict[Key, list[Run]] = defaultdict(list)
    for run in runs:
        if run.batch is not None and run.batch.command == MATRIX:
            found[Key(run.config_hash, run.source_sha256, run.machine.class_, run.seed)].append(run)
    return found


def is_due(made: Sequence[Run], retry_failed: bool) -> bool:
    """Whether an attempt is still to be made, of which these lines are there; a miss is never made again."""
    return not made or made[-1].outcome in UNFINISHED or (retry_failed and made[-1].outcome in FAILED)


@dataclasses.dataclass(frozen=True)
class Result:
    """What one cell has come to."""

    cell: Cell
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


def results_of(entries: Sequence[Entry], seeds: Sequence[int], known: Mapping[Key, Sequence[Run]]) -> list[Result]:
    """One for each cell, in the grid's order."""
    found = []
    for entry in entries:
        made = [lines for seed in seeds if (lines := known.get(entry.key(seed)))]
        latest, repeated = tuple(lines[-1] for lines in made), sum(len(lines) - 1 for lines in made)
        found.append(Result(entry.cell, len(seeds), latest, repeated))
    return found


def ranked(results: Sequence[Result], clock: ClockName) -> list[Result]:
    """By ERT; cells that solved nothing, then those not tried yet, come last."""

    def order(result: Result) -> tuple[float, int]:
        ert = result.ert(clock)
        return (math.inf if ert is None else ert), -len(result.runs)

    return sorted(results, key=order)


def results_csv(results: Sequence[Result], clock: ClockName) -> str:
    """A row for each cell, the best first; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    axes = list(results[0].cell.choices) if results else []
    clocks: tuple[ClockName, ...] = ("train", "total")
    figures = [f"{clock}_{name}_seconds" for clock in clocks for name in ("ert", "median", "min", "max")]
    writer.writerow(["rank", *axes, "solved", "attempts", "planned", "repeated", *figures, "outcomes"])
    for rank, result in enumerate(ranked(results, clock), start=1):
        row = [rank, *result.cell.labels().values(), result.num_solved, len(result.runs), result.planned]
        row.append(result.repeated)
        for each in clocks:
            known, ert = spread(result.seconds(each)), result.ert(each)
            row += [ert, known.median, known.minimum, known.maximum] if known else [ert, None, None, None]
        writer.writerow([*row, " ".join(f"{name}={count}" for name, count in sorted(result.outcomes.items()))])
    return out.getvalue()
