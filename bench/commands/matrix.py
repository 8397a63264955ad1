"""`python -m bench matrix FILE`: every combination of some settings, each with every seed, ranked by ERT."""

import contextlib
import dataclasses
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench.cli import EXIT_INTERRUPTED, check_positive, handle_interrupts, print_progress, reject_unwritable
from bench.clock import ClockName
from bench.errors import UsageError
from bench.experiments.executors import EXIT_UNFINISHED, EngineName, Executor, LocalExecutor, open_executors, run_jobs
from bench.experiments.launcher import SCRIPT, Refusal, Task, supervised
from bench.experiments.matrix_file import MATRICES, Matrix, options_of, read_matrix
from bench.experiments.matrix_results import (
    AttemptKey,
    CellResult,
    MachineMatrix,
    PendingAttempt,
    ResolvedCell,
    is_pending,
    matrix_runs,
    rank_cells,
    results_csv,
)
from bench.experiments.toml_file import find_file
from bench.formatting import attempt_line, duration, number, spread_text, terminal_table
from bench.provenance import ROOT
from bench.report.matrix_plot import draw_matrix
from bench.stats.descriptive import overheads
from bench.storage.journal import Journal
from bench.storage.jsonl import replace_file
from bench.storage.schema import MATRIX, Batch, Run, new_id

LARGE = 500  # attempts; more need --yes


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Run all cells of a matrix with all of its seeds, each attempt a process of its own, and rank the cells by ERT.

    The journal is the only state: the same command goes on where it stopped, and never repeats a finished attempt.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A TOML file, or the name of one in bench/matrices."""
    yes: tyro.conf.FlagCreatePairsOff[bool] = False
    """Run it however large it is."""
    retry_failed: tyro.conf.FlagCreatePairsOff[bool] = False
    """Make attempts again that ended in `error` or `lost`; their lines stay."""
    max_seconds: float | None = None
    """Limit on `train` of each attempt, seconds; it is a setting, so that other limits are other cells."""
    max_minutes: float | None = None
    """Start no attempt after so many minutes; the same command goes on."""
    engine: EngineName = "local"
    """Where attempts are made: in processes of this machine, or on all nodes of a Ray cluster."""
    address: str | None = None
    """Of a running Ray cluster; without it, one of this machine alone is started."""
    results: Path = ROOT / "results"
    """The folder of the journal, of the table and of the plot."""


def main(arguments: Arguments) -> int:
    grid = read_matrix(find_file(arguments.file, MATRICES))
    check_positive(arguments, "max_seconds", "max_minutes")
    count_cells(grid, arguments.yes)
    handle_interrupts()
    journal = Journal(arguments.results)
    with reject_unwritable(arguments.results):
        journal.recover()
        with journal.lock():
            pass
    interrupted, left = False, 0
    with open_executors(arguments.engine, arguments.address, SCRIPT) as places:
        sweeps = resolve_matrix(grid, arguments.max_seconds, places)
        with supervised(journal, f"matrix-{grid.name}"):
            journal.collect_left(MATRIX)
            runs, _ = journal.read()
            known = matrix_runs(runs)
            due = {}
            for sweep in sweeps:
                asked = sweep.attempts()
                due[sweep] = [each for each in asked if is_pending(known[each.key], arguments.retry_failed)]
                announce(sweep, due[sweep], runs)
            if any(due.values()):
                interrupted, left = run_matrix(due, journal, arguments.max_minutes)
    report(sweeps, journal, arguments.results)
    return EXIT_INTERRUPTED if interrupted else EXIT_UNFINISHED if left else 0


def count_cells(grid: Matrix, allowed: bool) -> int:
    """How many cells there are, before anything is made of them.

    Raises:
        UsageError: none, or more attempts than are run without `--yes`.
    """
    most = LARGE // len(grid.seeds)
    cells = 0
    for cells, _ in enumerate(grid.cells(), start=1):  # a product of axes can be endless
        if cells > most and not allowed:
            possible = 1
            for choices in grid.axes.values():
                possible *= len(choices)
            raise UsageError(
                f"{grid.path}: up to {possible * len(grid.seeds):,} attempts ({possible:,} cells, "
                f"{len(grid.seeds)} seeds) are more than {LARGE}; --yes runs them all the same"
            )
    if not cells:
        raise UsageError(f"{grid.path}: exclude: no cell is left")
    return cells


def resolve_matrix(grid: Matrix, max_seconds: float | None, places: Sequence[Executor]) -> list[MachineMatrix]:
    """Let the trainer say at each place what each cell is there; places that say the same are one sweep's.

    Raises:
        UsageError: it refuses a cell for other reasons than the machine, or all of them everywhere.
    """
    found: dict[frozenset, MachineMatrix] = {}
    nowhere: list[Refusal] = []
    for place in places:
        sweep = resolve_at(place, grid, max_seconds)
        if not sweep.cells:
            nowhere += sweep.refusals
            continue
        same = found.get(sweep.keys)
        found[sweep.keys] = sweep if same is None else dataclasses.replace(same, executors=(*same.executors, place))
    if not found:
        raise UsageError(f"{grid.path}: no cell can run here: {nowhere[0].reason}")
    return sorted(found.values(), key=lambda sweep: sweep.machine_class)


def resolve_at(place: Executor, grid: Matrix, max_seconds: float | None) -> MachineMatrix:
    """The matrix at one place; raises UsageError: see `find_sweeps`."""
    common = [] if max_seconds is None else ["--max-seconds", str(max_seconds)]
    cells = list(grid.cells())
    command_lines = [["--config", grid.base, *options_of(cell.settings), *common] for cell in cells]
    answers = place.resolve_all(SCRIPT, command_lines)
    entries, refused = [], []
    for cell, answer in zip(cells, answers, strict=True):
        if not isinstance(answer, Refusal):
            entries.append(ResolvedCell(cell, answer))
        elif answer.not_here:
            refused.append(answer)
        else:
            raise UsageError(f"{grid.path}: {cell}: {answer.reason}")
    same: dict[str, ResolvedCell] = {}
    for entry in entries:
        other = same.setdefault(entry.contestant.planned.config_hash, entry)
        if other is not entry:
            raise UsageError(f"{grid.path}: {other.cell} and {entry.cell} come to the same settings here")
    return MachineMatrix(grid, (place,), tuple(entries), tuple(refused))


# -----------------------------------------------------------------------------
# before it starts


def announce(sweep: MachineMatrix, due: Sequence[PendingAttempt], runs: Sequence[Run]) -> None:
    """How many cells and attempts there are, what they may take, and what is not continued."""
    total = len(sweep.cells) * len(sweep.matrix.seeds)
    seconds = estimate(sweep, runs)
    takes = "nothing is known of how long they take"
    if seconds is not None:
        takes = f"about {duration(seconds * len(due) / len(sweep.executors))}"
    if len(sweep.executors) > 1 or sweep.executors[0].name != LocalExecutor.name:
        print_progress(f"{', '.join(place.name for place in sweep.executors)}: {sweep.machine_class}")
    print_progress(
        f"{sweep.matrix.name}: {len(sweep.cells)} cells, {len(sweep.matrix.seeds)} seeds: {total} attempts, "
        f"{total - len(due)} made already" + (f", {len(due)} to make, {takes}" if due else ", nothing to do")
    )
    for reason in sorted({refusal.reason for refusal in sweep.refusals}):
        count = sum(refusal.reason == reason for refusal in sweep.refusals)
        print_progress(f"{count} cells cannot run here and are left out: {reason}")
    planned = [entry.contestant.planned for entry in sweep.cells]
    wanted = {(run.config_hash, run.machine.class_, run.source_sha256) for run in planned}
    hashes = {run.config_hash for run in planned}
    others = [
        run
        for lines in matrix_runs(runs).values()
        for run in lines
        if run.config_hash in hashes and (run.config_hash, run.machine.class_, run.source_sha256) not in wanted
    ]
    elsewhere = sum(run.machine.class_ != planned[0].machine.class_ for run in others)
    if elsewhere:
        print_progress(
            f"{elsewhere} attempts were made on machines of another class and do not count here; this one starts anew"
        )
    if len(others) > elsewhere:
        print_progress(f"{len(others) - elsewhere} attempts were made by another source and do not count")


def estimate(sweep: MachineMatrix, runs: Sequence[Run]) -> float | None:
    """Seconds from one attempt to the next: the median of the matrix's own, else of the base's on this class."""
    planned = sweep.cells[0].contestant.planned
    hashes = {entry.contestant.planned.config_hash for entry in sweep.cells}
    here = [run for run in runs if run.machine.class_ == planned.machine.class_ and run.seconds.total is not None]
    own = [run for run in here if run.config_hash in hashes]
    like = own or [run for run in here if (run.track, run.config) == (planned.track, planned.config)]
    if not like:
        return None
    between = [gap for (_, name), gaps in overheads(runs).items() if name == planned.machine.class_ for gap in gaps]
    return statistics.median(run.seconds.total for run in like) + (statistics.median(between) if between else 0.0)


# -----------------------------------------------------------------------------
# the attempts


def run_matrix(
    due: Mapping[MachineMatrix, Sequence[PendingAttempt]], journal: Journal, max_minutes: float | None
) -> tuple[bool, int]:
    """Make the attempts, each kind of machine its own; whether that was interrupted, and how many nobody could make.

    Raises:
        OSError: the journal could not be written.
    """
    batch_id = new_id(f"matrix-{next(iter(due)).matrix.name}")
    planned = len({each.key for its in due.values() for each in its})
    began, is_over = time.monotonic(), False
    begun: set[AttemptKey] = set()  # kinds of machines that refuse different cells can have others in common

    def in_time(sweep: MachineMatrix) -> Iterator[tuple[MachineMatrix, PendingAttempt, Batch]]:
        nonlocal is_over
        for each in due[sweep]:
            is_over = max_minutes is not None and time.monotonic() - began > 60 * max_minutes
            if is_over:
                return
            key = each.key
            if key not in begun:
                begun.add(key)
                yield sweep, each, Batch(id=batch_id, command=MATRIX, planned=planned, index=len(begun) - 1)

    def make(place: Executor, job: tuple[MachineMatrix, PendingAttempt, Batch]) -> bool:
        sweep, each, batch = job
        tally.begin(sweep, each)
        run, interrupted = place.run_attempt(Task(each.resolved.contestant, each.seed, batch), journal)
        tally.end(sweep, each, run)
        return interrupted

    jobs: dict[Executor, Iterator[tuple[MachineMatrix, PendingAttempt, Batch]]] = {}
    for sweep in due:
        jobs |= dict.fromkeys(sweep.executors, in_time(sweep))
    with contextlib.closing(MatrixProgress(list(due), planned, journal)) as tally, supervised(journal, batch_id):
        interrupted = run_jobs(jobs, make, tally.say)
        left = planned - tally.done
        if interrupted:
            tally.say(f"interrupted: {left} attempts are left; the same command goes on")
        elif is_over:
            tally.say(f"{max_minutes:g} minutes are over: {left} attempts are left")
        elif left:
            tally.say(f"{left} attempts are left and nobody to make them; the same command goes on")
    return interrupted, 0 if is_over else left


class MatrixProgress:
    """The progress of a matrix, on standard error: a live line in a terminal, else a line for each attempt."""

    def __init__(self, sweeps: Sequence[MachineMatrix], planned: int, journal: Journal) -> None:
        self.sweeps, self.clock = sweeps, sweeps[0].matrix.clock
        self.known = matrix_runs(journal.read()[0])
        self.console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task(sweeps[0].matrix.name, total=planned, status="")
        self.done, self.planned = 0, planned
        self.turn = threading.Lock()  # several places report
        self.progress.start()

    def close(self) -> None:
        self.progress.stop()

    def begin(self, sweep: MachineMatrix, due: PendingAttempt) -> None:
        with self.turn:
            self.progress.update(self.task, status=f"{self.status(sweep)}  now {due.cell}, seed {due.seed}")

    def end(self, sweep: MachineMatrix, due: PendingAttempt, run: Run) -> None:
        with self.turn:
            self.done += 1
            self.known[due.key].append(run)
            self.progress.update(self.task, advance=1, status=self.status(sweep))
            if not self.console.is_terminal or run.outcome in ("error", "lost"):
                self.say(f"{self.done}/{self.planned}  {due.cell}  {attempt_line(run)}")

    def status(self, latest: MachineMatrix) -> str:
        """What all have come to, and the best of the kind of machine that reported last."""
        results = [result for sweep in self.sweeps for result in sweep.results(self.known)]
        best = rank_cells(latest.results(self.known), self.clock)[0]
        ert = best.ert(self.clock)
        text = f"cells {sum(result.finished for result in results)}/{len(results)}  "
        text += f"solved {sum(result.num_solved for result in results)}"
        return text + (f"  best {number(ert, '.2f')} s {best.cell}" if best.num_solved else "")

    def say(self, line: str) -> None:
        self.progress.console.print(line, soft_wrap=True, markup=False)


# -----------------------------------------------------------------------------
# the end


def report(sweeps: Sequence[MachineMatrix], journal: Journal, folder: Path) -> None:
    """The ranking of each kind of machine as a table on standard output; the same as CSV, and as a picture.

    Raises:
        OSError: a file could not be written.
    """
    grid, clock, known = sweeps[0].matrix, sweeps[0].matrix.clock, matrix_runs(journal.read()[0])
    stem = folder / MATRIX / grid.name
    stem.parent.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    tables = [sweep.results(known) for sweep in sweeps]
    files = {stem.with_suffix(".csv"): results_csv(tables, clock)}
    for index, (sweep, results) in enumerate(zip(sweeps, tables, strict=True), start=1):
        if len(sweeps) > 1:
            console.print(sweep.machine_class, soft_wrap=True, markup=False)
        console.print(results_table(results, clock))
        if grid.plot:
            path = stem.with_name(f"{stem.name}-{index}.svg") if len(sweeps) > 1 else stem.with_suffix(".svg")
            files[path] = draw_matrix(results, grid, f"{grid.name}: ERT by {clock}, s", sweep.machine_class)
    for path, text in files.items():
        replace_file(path, text)
        print(path)


def results_table(results: Sequence[CellResult], clock: ClockName) -> Table:
    axes = list(results[0].cell.choices)
    other: ClockName = "total" if clock == "train" else "train"
    headings = ("rank", *axes, "solved", f"ERT {clock}", f"{clock}, s", f"ERT {other}", "otherwise")
    table = terminal_table(headings, text=(*axes, "otherwise"))
    for rank, result in enumerate(rank_cells(results, clock), start=1):
        otherwise = [f"{count} {name}" for name, count in sorted(result.outcomes.items())]
        otherwise += [f"{result.repeated} repeated"] if result.repeated else []
        table.add_row(
            str(rank),
            *result.cell.labels().values(),
            f"{result.num_solved}/{len(result.runs)}" + ("" if result.finished else f" of {result.planned}"),
            number(result.ert(clock), ".2f"),
            spread_text(result.seconds(clock), ".2f"),
            number(result.ert(other), ".2f"),
            ", ".join(otherwise),
            style="bold" if rank == 1 and result.num_solved else None,
        )
    return table
