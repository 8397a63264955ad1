"""`python -m bench matrix FILE`: run every combination of some settings with every seed, and rank them by ERT."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from bench.cli import EXIT_INTERRUPTED, check_positive, handle_interrupts, print_progress, reject_unwritable
from bench.clock import ClockName
from bench.commands.options import DEFAULT_RESULTS, AddressOption, EngineOption, ResultsOption, open_executors
from bench.console import output_console
from bench.errors import UsageError
from bench.experiments.executors import EXIT_UNFINISHED, Executor
from bench.experiments.launcher import SCRIPT, supervised
from bench.experiments.matrix_file import MATRICES, Matrix, read_matrix
from bench.experiments.matrix_results import CellResult, MachineMatrix, matrix_runs, numbered_cells, results_csv
from bench.experiments.matrix_run import resolve_matrix, run_matrix
from bench.experiments.toml_file import find_file
from bench.formatting import (
    counted,
    duration,
    limit_text,
    number,
    spread_text,
    steps_text,
    steps_title,
    terminal_table,
)
from bench.report.matrix_page import matrix_files, rank_text, unranked_sentences
from bench.report.matrix_plot import draw_matrix
from bench.stats.estimates import expected_seconds
from bench.storage.journal import Journal
from bench.storage.jsonl import replace_file
from bench.storage.results import runs_for_estimates
from bench.storage.schema import MATRIX, Run
from bench.streams import print_line

MOST_ATTEMPTS = 500  # larger matrices need --yes


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Run all cells of a matrix with all seeds, each attempt in its own process, and rank the cells by ERT.

    The journal is the only state: the same command resumes an interrupted matrix, and repeats no finished attempt.
    Attempts that were interrupted are repeated.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A TOML file, or the name of one in bench/matrices."""
    yes: tyro.conf.FlagCreatePairsOff[bool] = False
    """Run a matrix of more than 500 attempts."""
    retry_failed: tyro.conf.FlagCreatePairsOff[bool] = False
    """Repeat attempts that ended in `error` or `lost`; their lines stay in the journal."""
    max_seconds: float | None = None
    """Limit on `train` of each attempt, seconds. Changing this limit starts the matrix afresh."""
    max_minutes: float | None = None
    """Start no attempt after this many minutes; the same command resumes."""
    engine: EngineOption = "local"
    address: AddressOption = None
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    matrix = read_matrix(find_file(arguments.file, MATRICES))
    check_positive(arguments, "max_seconds", "max_minutes")
    check_size(matrix, arguments.yes)
    handle_interrupts()
    journal = Journal(arguments.results)
    with reject_unwritable(arguments.results):
        journal.recover()
        with journal.lock():
            pass
    interrupted, num_left = False, 0
    with open_executors(arguments.engine, arguments.address, SCRIPT) as executors:
        machine_matrices = resolve_matrix(matrix, SCRIPT, arguments.max_seconds, executors)
        with supervised(journal, f"matrix-{matrix.name}"):
            journal.collect_orphans(MATRIX)
            runs, _ = journal.read()
            pending = {each: each.pending(runs, arguments.retry_failed) for each in machine_matrices}
            for machine_matrix, attempts in pending.items():
                announce(machine_matrix, len(attempts), runs, arguments.results)
            if any(pending.values()):
                interrupted, num_left = run_matrix(pending, journal, arguments.max_minutes)
    report(machine_matrices, journal, arguments.results)
    return EXIT_INTERRUPTED if interrupted else EXIT_UNFINISHED if num_left else 0


def check_size(matrix: Matrix, is_large_allowed: bool) -> None:
    """Raises UsageError before any cell is resolved: there is none, or there are too many to run without `--yes`."""
    most_cells = MOST_ATTEMPTS // len(matrix.seeds)
    first_cells = list(itertools.islice(matrix.cells(), most_cells + 1))  # the product of the axes can be astronomical
    if not first_cells:
        raise UsageError(f"{matrix.path}: exclude: no cell is left")
    if len(first_cells) > most_cells and not is_large_allowed:
        possible = math.prod(len(choices) for choices in matrix.axes.values())
        raise UsageError(
            f"{matrix.path}: up to {possible * len(matrix.seeds):,} attempts ({possible:,} cells, "
            f"{counted(len(matrix.seeds), 'seed')}) are more than {MOST_ATTEMPTS}; --yes runs them nevertheless"
        )


# -----------------------------------------------------------------------------
# before the first attempt


def announce(machine_matrix: MachineMatrix, num_pending: int, runs: Sequence[Run], results: Path) -> None:
    """Print the numbers of cells and attempts, an estimate of the duration, and which earlier attempts do not count.

    `runs` are those of the results folder.
    """
    matrix, executors = machine_matrix.matrix, machine_matrix.executors
    if len(executors) > 1 or executors[0].name != Executor.name:
        print_progress(f"{', '.join(executor.name for executor in executors)}: {machine_matrix.machine_class}")
    total = len(machine_matrix.cells) * len(matrix.seeds)
    planned = [resolved.contestant.planned for resolved in machine_matrix.cells]
    seconds = expected_seconds(runs_for_estimates(results, planned), planned)
    expected = "duration unknown" if seconds is None else f"about {duration(seconds * num_pending / len(executors))}"
    print_progress(
        f"{matrix.name}: {counted(len(machine_matrix.cells), 'cell')}, {counted(len(matrix.seeds), 'seed')}: "
        f"{counted(total, 'attempt')}, "
        f"{total - num_pending} done, " + (f"{num_pending} to run, {expected}" if num_pending else "nothing to run")
    )
    for reason, count in sorted(Counter(refusal.reason for refusal in machine_matrix.refusals).items()):
        are = "is" if count == 1 else "are"
        print_progress(f"{counted(count, 'cell')} cannot run here and {are} left out: {reason}")
    machine_class, uncounted = machine_matrix.cells[0].contestant.planned.machine.class_, machine_matrix.uncounted(runs)
    elsewhere = sum(key.machine_class != machine_class for key in uncounted)
    if elsewhere:
        print_progress(f"{elsewhere} attempts were run on another machine class and do not count here")
    if len(uncounted) > elsewhere:
        print_progress(f"{len(uncounted) - elsewhere} attempts were run with other source and do not count")


# -----------------------------------------------------------------------------
# after the last attempt


def report(machine_matrices: Sequence[MachineMatrix], journal: Journal, results_folder: Path) -> None:
    """Write the ranking of each machine matrix as CSV and as a plot, and the page; then print it as a table."""
    runs = journal.read()[0]
    matrix, known = machine_matrices[0].matrix, matrix_runs(runs)
    folder = results_folder / MATRIX
    tables = [machine_matrix.results(known) for machine_matrix in machine_matrices]
    paths = [folder / f"{matrix.name}.csv"]
    replace_file(paths[0], results_csv(tables, matrix.clock, matrix.steps))
    is_single = len(machine_matrices) == 1
    machine_classes = [machine_matrix.machine_class for machine_matrix in machine_matrices]
    if matrix.plot and not matrix.steps:
        for index, (machine_class, results) in enumerate(zip(machine_classes, tables, strict=True), start=1):
            paths.append(folder / (f"{matrix.name}.svg" if is_single else f"{matrix.name}-{index}.svg"))
            title = f"{matrix.name}: ERT by {matrix.clock}, s"
            limit = limit_text(resolved.contestant.planned for resolved in machine_matrices[index - 1].cells)
            subtitle = f"{machine_class}; {limit}"
            replace_file(paths[-1], draw_matrix(results, matrix, title, subtitle))
    texts, pictures = matrix_files(matrix, runs, results_folder)
    for path, text in (texts | {path: draw() for path, draw in pictures.items()}).items():
        paths.append(path)
        replace_file(path, text)
    console = output_console(piped_width=120)
    for machine_class, results in zip(machine_classes, tables, strict=True):
        if not is_single:
            console.print(machine_class, soft_wrap=True)
        console.print(results_table(results, matrix.clock, matrix.steps))
        for sentence in unranked_sentences(results, matrix.steps):
            console.print(sentence, soft_wrap=True)
    for path in paths:
        print_line(str(path))


def results_table(results: Sequence[CellResult], clock: ClockName, steps: Sequence[str] = ()) -> Table:
    axes = list(results[0].cell.choices)
    other: ClockName = "total" if clock == "train" else "train"
    steps_heading = [steps_title(steps)] if steps else []
    headings = ("rank", *axes, *steps_heading, "solved", f"ERT {clock}, s", f"{clock}, s: median (min … max)")
    headings += (f"ERT {other}, s", "other outcomes")
    table = terminal_table(headings, text=(*axes, "other outcomes"))
    for rank, result in numbered_cells(results, clock, steps):
        otherwise = [f"{count} {name}" for name, count in sorted(result.outcomes.items())]
        otherwise += [f"{result.repeated} repeated"] if result.repeated else []
        table.add_row(
            rank_text(rank, result),
            *result.cell.labels().values(),
            *([steps_text(result.step_spans(steps))] if steps else []),
            f"{result.num_solved}/{len(result.runs)}" + ("" if result.finished else f" of {result.planned}"),
            number(result.ert(clock), ".2f"),
            spread_text(result.seconds(clock), ".2f"),
            number(result.ert(other), ".2f"),
            ", ".join(otherwise),
            style="bold" if rank == 1 and result.num_solved else None,
        )
    return table
