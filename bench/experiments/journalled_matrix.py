"""The latest results of a matrix in the journal, on any machine and with any source.

A run belongs to a cell by its settings in the journal. `matrix_results` looks up attempts of the present source on the
machines at hand instead, and has cells without runs, too.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.config import current_names
from bench.experiments.matrix_file import Cell, Matrix
from bench.experiments.matrix_results import CellResult
from bench.storage.schema import MATRIX, Run

RESOLVED = {"precision", "kernel"}  # settings whose value `auto` the trainer replaced, differently for each cell


class JournalledMatrix(NamedTuple):
    """The latest results of a matrix on a machine class: runs with one source and one base."""

    machine_class: str
    results: list[CellResult]  # of the cells that have runs, in the matrix's order

    @property
    def runs(self) -> list[Run]:
        return [run for result in self.results for run in result.runs]


def journalled_matrices(matrix: Matrix, runs: Sequence[Run]) -> list[JournalledMatrix]:
    """The latest results on each machine class, in the order in which these first ran a cell."""
    cells = list(matrix.cells())
    base = matrix.base_name
    by_machine: dict[str, list[tuple[Cell, Run]]] = defaultdict(list)
    for run in runs:
        is_finished = run.command == MATRIX and run.outcome != "interrupted"
        if is_finished and run.config in (base, f"{base}-cpu", f"{base}-cuda") and run.seed in matrix.seeds:
            settings = current_names(run.settings)
            for cell in cells:
                if is_of_cell(run, settings, cell, matrix.keys):
                    by_machine[run.machine_class_name].append((cell, run))
    matrices = []
    for machine_class, pairs in by_machine.items():
        own = [run for _, run in pairs if run.batch is not None and is_of_matrix(run.batch.id, matrix)]
        if own:
            matrices.append(JournalledMatrix(machine_class, latest_results(matrix, cells, pairs, own[-1])))
    return matrices


def is_of_matrix(batch_id: str, matrix: Matrix) -> bool:
    """Whether a batch of attempts is one of this matrix; matrices may share attempts."""
    return re.fullmatch(rf"[\d-]+-matrix-{re.escape(matrix.name)}-\w{{6}}", batch_id) is not None


def is_of_cell(run: Run, settings: dict[str, Any], cell: Cell, keys: frozenset[str]) -> bool:
    """Whether a run has the cell's settings, and the base's values of the `keys` that the cell does not set."""
    given = current_names(cell.settings)
    if not given.items() <= settings.items():
        return False
    others = keys - given.keys()
    return not others or (run.overrides is not None and others.isdisjoint(run.overrides))


def latest_results(
    matrix: Matrix, cells: Sequence[Cell], pairs: Sequence[tuple[Cell, Run]], latest: Run
) -> list[CellResult]:
    """The results of the runs that have the source and the base of `latest`."""

    def context(run: Run) -> tuple[str, frozenset[tuple[str, Any]]]:
        """The source of a run, and its settings that are the same in all cells."""
        ignored = matrix.keys | RESOLVED
        settings = current_names(run.settings).items()
        return run.source_sha256, frozenset(item for item in settings if item[0] not in ignored)

    latest_context, results = context(latest), []
    for cell in cells:
        by_seed: dict[int, list[Run]] = defaultdict(list)
        for other, run in pairs:
            if other is cell and context(run) == latest_context:
                by_seed[run.seed].append(run)
        if by_seed:
            last = tuple(by_seed[seed][-1] for seed in matrix.seeds if seed in by_seed)
            repeated = sum(map(len, by_seed.values())) - len(last)
            results.append(CellResult(cell, last[0].machine.class_, len(matrix.seeds), last, repeated))
    return results
