"""Resolve a matrix on each executor, and run the attempts that the journal does not have yet."""

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.console import error_console
from bench.errors import UsageError
from bench.experiments.executors import Executor, run_jobs
from bench.experiments.launcher import Contestant, Refusal, Task, supervised
from bench.experiments.matrix_file import Matrix, options_of
from bench.experiments.matrix_results import (
    AttemptKey,
    MachineMatrix,
    PendingAttempt,
    ResolvedCell,
    matrix_runs,
    numbered_cells,
)
from bench.formatting import attempt_line, number
from bench.storage.journal import Journal
from bench.storage.schema import MATRIX, Batch, Run, new_id

Job = tuple[MachineMatrix, PendingAttempt, Batch]


def resolve_matrix(
    matrix: Matrix, script: Path, max_seconds: float | None, executors: Sequence[Executor]
) -> list[MachineMatrix]:
    """The cells as the trainer resolves them on each executor; executors that agree share one `MachineMatrix`.

    `max_seconds` limits `train` of all attempts. It is a UsageError when no executor can run any cell.
    """
    resolved: dict[frozenset[AttemptKey], MachineMatrix] = {}
    refusals: list[Refusal] = []
    for executor in executors:
        machine_matrix = resolve_on(executor, matrix, script, max_seconds)
        if machine_matrix.cells:
            resolved.setdefault(machine_matrix.keys, machine_matrix).executors.append(executor)
        else:
            refusals += machine_matrix.refusals
    if not resolved:
        raise UsageError(f"{matrix.path}: no cell can run here: {refusals[0].reason}")
    return sorted(resolved.values(), key=lambda machine_matrix: machine_matrix.machine_class)


def resolve_on(executor: Executor, matrix: Matrix, script: Path, max_seconds: float | None) -> MachineMatrix:
    """The matrix as one executor resolves it; a wrong cell, or two with the same settings, are a UsageError."""
    limit = [] if max_seconds is None else ["--max-seconds", str(max_seconds)]  # last, to override a cell's
    command_lines = [["--config", matrix.base, *options_of(cell.settings), *limit] for cell in matrix.cells()]
    refusals: list[Refusal] = []
    by_config_hash: dict[str, ResolvedCell] = {}
    answers = executor.resolve_all(script, command_lines)
    resolved = next((answer for answer in answers if isinstance(answer, Contestant)), None)
    if resolved is not None:
        matrix = matrix.like(resolved.planned.settings)
    for cell, answer in zip(matrix.cells(), answers, strict=True):
        if isinstance(answer, Refusal):
            if not answer.not_here:
                raise UsageError(f"{matrix.path}: {cell}: {answer.reason}")
            refusals.append(answer)
            continue
        other = by_config_hash.setdefault(answer.planned.config_hash, ResolvedCell(cell, answer))
        if other.cell is not cell:
            raise UsageError(f"{matrix.path}: {other.cell} and {cell} have the same settings here")
    return MachineMatrix(matrix, [], tuple(by_config_hash.values()), tuple(refusals))


def run_matrix(
    pending: Mapping[MachineMatrix, Sequence[PendingAttempt]], journal: Journal, max_minutes: float | None
) -> tuple[bool, int]:
    """Run the pending attempts; returns whether it was interrupted, and how many attempts no executor could run."""
    batch_id = new_id(f"matrix-{next(iter(pending)).matrix.name}")
    keys = {attempt.key for attempts in pending.values() for attempt in attempts}
    end, is_late = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes, False
    begun: set[AttemptKey] = set()  # machine matrices may share attempts

    def jobs_of(machine_matrix: MachineMatrix) -> Iterator[Job]:
        nonlocal is_late
        for attempt in pending[machine_matrix]:
            is_late = time.monotonic() > end
            if is_late:
                return
            if attempt.key not in begun:
                begun.add(attempt.key)
                batch = Batch(id=batch_id, command=MATRIX, planned=len(keys), index=len(begun) - 1)
                yield machine_matrix, attempt, batch

    def run_job(executor: Executor, job: Job) -> bool:
        machine_matrix, attempt, batch = job
        progress.begin(machine_matrix, attempt)
        run, interrupted = executor.run_attempt(Task(attempt.resolved.contestant, attempt.seed, batch), journal)
        progress.end(machine_matrix, attempt, run)
        return interrupted

    jobs: dict[Executor, Iterator[Job]] = {}
    for machine_matrix in pending:
        jobs |= dict.fromkeys(machine_matrix.executors, jobs_of(machine_matrix))
    with MatrixProgress(list(pending), len(keys), journal) as progress, supervised(journal, batch_id):
        interrupted = run_jobs(jobs, run_job, progress.print)
        num_left = len(keys) - progress.num_done
        if interrupted:
            progress.print(
                f"interrupted: {num_left} attempts are left; "
                "run the same command again to resume; it repeats the interrupted attempt"
            )
        elif is_late:
            progress.print(f"{max_minutes:g} minutes are over: {num_left} attempts are left")
        elif num_left:
            progress.print(f"{num_left} attempts are left without an executor; run the same command again to resume")
    return interrupted, 0 if is_late else num_left


class MatrixProgress:
    """The progress of a matrix on standard error: a live line in a terminal, otherwise a line for each attempt."""

    def __init__(self, machine_matrices: Sequence[MachineMatrix], num_planned: int, journal: Journal) -> None:
        self.machine_matrices, self.num_planned, self.num_done = machine_matrices, num_planned, 0
        self.matrix = matrix = self.machine_matrices[0].matrix
        self.known = matrix_runs(journal.read()[0])
        self.console = error_console()
        self.progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
            disable=not self.console.is_interactive,
        )
        self.task = self.progress.add_task(matrix.name, total=num_planned, status="")
        self.has_told_reasons = False  # why an attempt was not clean
        self.lock = threading.Lock()  # each executor reports from its own thread

    def __enter__(self) -> "MatrixProgress":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def begin(self, machine_matrix: MachineMatrix, attempt: PendingAttempt) -> None:
        with self.lock:
            status = f"{self.status(machine_matrix)}  now {attempt.resolved.cell}, seed {attempt.seed}"
            self.progress.update(self.task, status=status)

    def end(self, machine_matrix: MachineMatrix, attempt: PendingAttempt, run: Run) -> None:
        with self.lock:
            self.num_done += run.outcome != "interrupted"  # such an attempt is repeated
            self.known[attempt.key].append(run)
            self.progress.update(self.task, advance=1, status=self.status(machine_matrix))
            if not self.console.is_interactive or run.outcome in ("error", "lost"):
                line = attempt_line(run, with_reasons=not self.has_told_reasons)
                self.has_told_reasons |= run.machine.clean is False  # they hardly differ from attempt to attempt
                self.print(f"{self.num_done}/{self.num_planned}  {attempt.resolved.cell}  {line}")

    def status(self, latest: MachineMatrix) -> str:
        """Finished cells and solved attempts of all machine matrices, and the best cell of the latest one."""
        results = [result for machine_matrix in self.machine_matrices for result in machine_matrix.results(self.known)]
        matrix = self.matrix
        rank, best = numbered_cells(latest.results(self.known), matrix.clock, matrix.steps)[0]
        text = f"cells {sum(result.finished for result in results)}/{len(results)}  "
        text += f"solved {sum(result.num_solved for result in results)}"
        if rank is not None and best.num_solved:
            text += f"  best {number(best.ert(matrix.clock), '.2f')} s {best.cell}"
        return text

    def print(self, line: str) -> None:
        self.progress.console.print(line, soft_wrap=True)
