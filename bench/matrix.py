"""`python -m bench matrix FILE`: every combination of some settings, each with every seed, ranked by ERT."""

import contextlib
import dataclasses
import hashlib
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench.agenda import SCRIPT
from bench.cells import Entry, Result, is_due, known_runs, ranked, results_csv, results_of
from bench.config import WrongRequest
from bench.grid import Grid, find_matrix, options_of, read_grid
from bench.journal import MATRIX, Batch, Journal, Run, new_id
from bench.lines import replace_file
from bench.matrix_plot import draw_matrix
from bench.pages import duration, number, spread_text
from bench.plan import refusing_unwritable
from bench.provenance import ROOT
from bench.run import (
    EXIT_INTERRUPTED,
    Refusal,
    Task,
    ask_contestants,
    attempt_line,
    heed_interrupts,
    make_attempt,
    supervised,
)
from bench.stats import ClockName

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
    results: Path = ROOT / "results"
    """The folder of the journal, of the table and of the plot."""


@dataclasses.dataclass(frozen=True)
class Due:
    """An attempt that is still to be made."""

    entry: Entry
    seed: int


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A matrix on this machine."""

    grid: Grid
    entries: tuple[Entry, ...]  # the cells that can run here
    refused: tuple[Refusal, ...]  # and why others cannot

    def in_order(self) -> Iterator[Due]:
        """All attempts, seed by seed and the cells in ever new order, so that the machine's drift spreads over all."""
        digests = "".join(entry.contestant.planned.config_hash for entry in self.entries)
        chance = random.Random(hashlib.sha256(digests.encode()).hexdigest())
        for seed in self.grid.seeds:
            for entry in chance.sample(self.entries, len(self.entries)):
                yield Due(entry, seed)

    def results(self, runs: Sequence[Run]) -> list[Result]:
        return results_of(self.entries, self.grid.seeds, known_runs(runs))


def main(arguments: Arguments) -> int:
    grid = read_grid(find_matrix(arguments.file))
    for name in ("max_seconds", "max_minutes"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise WrongRequest(f"--{name.replace('_', '-')} {value:g}: must be above 0")
    count_cells(grid, arguments.yes)
    heed_interrupts()
    journal = Journal(arguments.results)
    with refusing_unwritable(arguments.results):
        journal.recover()
        with journal.lock():
            pass
    sweep = find_sweep(grid, arguments.max_seconds)
    interrupted = False
    with supervised(journal, f"matrix-{grid.name}"):
        journal.collect_left(MATRIX)
        runs, _ = journal.read()
        known = known_runs(runs)
        due = [each for each in sweep.in_order() if is_due(known[each.entry.key(each.seed)], arguments.retry_failed)]
        announce(sweep, due, runs)
        if due:
            interrupted = carry_out(sweep, due, journal, arguments.max_minutes)
    results = sweep.results(journal.read()[0])
    report(sweep, results, arguments.results)
    return EXIT_INTERRUPTED if interrupted else 0


def count_cells(grid: Grid, allowed: bool) -> int:
    """How many cells there are, before anything is made of them.

    Raises:
        WrongRequest: none, or more attempts than are run without `--yes`.
    """
    most = LARGE // len(grid.seeds)
    cells = 0
    for cells, _ in enumerate(grid.cells(), start=1):  # a product of axes can be endless
        if cells > most and not allowed:
            possible = 1
            for choices in grid.axes.values():
                possible *= len(choices)
            raise WrongRequest(
                f"{grid.path}: up to {possible * len(grid.seeds):,} attempts ({possible:,} cells, "
                f"{len(grid.seeds)} seeds) are more than {LARGE}; --yes runs them all the same"
            )
    if not cells:
        raise WrongRequest(f"{grid.path}: exclude: no cell is left")
    return cells


def find_sweep(grid: Grid, max_seconds: float | None) -> Sweep:
    """Let the trainer say what each cell is.

    Raises:
        WrongRequest: it refuses a cell for other reasons than this machine, or all of them.
    """
    common = [] if max_seconds is None else ["--max-seconds", str(max_seconds)]
    cells = list(grid.cells())
    answers = ask_contestants(SCRIPT, [["--config", grid.base, *options_of(cell.settings), *common] for cell in cells])
    entries, refused = [], []
    for cell, answer in zip(cells, answers, strict=True):
        if not isinstance(answer, Refusal):
            entries.append(Entry(cell, answer))
        elif answer.not_here:
            refused.append(answer)
        else:
            raise WrongRequest(f"{grid.path}: {cell}: {answer.reason}")
    if not entries:
        raise WrongRequest(f"{grid.path}: no cell can run here: {refused[0].reason}")
    same: dict[str, Entry] = {}
    for entry in entries:
        other = same.setdefault(entry.contestant.planned.config_hash, entry)
        if other is not entry:
            raise WrongRequest(f"{grid.path}: {other.cell} and {entry.cell} come to the same settings here")
    return Sweep(grid, tuple(entries), tuple(refused))


# -----------------------------------------------------------------------------
# before it starts


def announce(sweep: Sweep, due: Sequence[Due], runs: Sequence[Run]) -> None:
    """How many cells and attempts there are, what they may take, and what is not continued."""
    total = len(sweep.entries) * len(sweep.grid.seeds)
    seconds = estimate(sweep, runs)
    takes = "nothing is known of how long they take" if seconds is None else f"about {duration(seconds * len(due))}"
    tell(
        f"{sweep.grid.name}: {len(sweep.entries)} cells, {len(sweep.grid.seeds)} seeds: {total} attempts, "
        f"{total - len(due)} made already" + (f", {len(due)} to make, {takes}" if due else ", nothing to do")
    )
    for reason in sorted({refusal.reason for refusal in sweep.refused}):
        count = sum(refusal.reason == reason for refusal in sweep.refused)
        tell(f"{count} cells cannot run here and are left out: {reason}")
    planned = [entry.contestant.planned for entry in sweep.entries]
    wanted = {(run.config_hash, run.machine.class_, run.source_sha256) for run in planned}
    hashes = {run.config_hash for run in planned}
    others = [
        run
        for lines in known_runs(runs).values()
        for run in lines
        if run.config_hash in hashes and (run.config_hash, run.machine.class_, run.source_sha256) not in wanted
    ]
    elsewhere = sum(run.machine.class_ != planned[0].machine.class_ for run in others)
    if elsewhere:
        tell(f"{elsewhere} attempts were made on machines of another class and do not count here; this one starts anew")
    if len(others) > elsewhere:
        tell(f"{len(others) - elsewhere} attempts were made by another source and do not count")


def estimate(sweep: Sweep, runs: Sequence[Run]) -> float | None:
    """Seconds that an attempt takes: the median of the matrix's own, else of the base's track on this machine class."""
    planned = sweep.entries[0].contestant.planned
    hashes = {entry.contestant.planned.config_hash for entry in sweep.entries}
    here = [run for run in runs if run.machine.class_ == planned.machine.class_ and run.seconds.total is not None]
    own = [run for run in here if run.config_hash in hashes]
    like = own or [run for run in here if (run.track, run.config) == (planned.track, planned.config)]
    return statistics.median(run.seconds.total for run in like) if like else None


# -----------------------------------------------------------------------------
# the attempts


def carry_out(sweep: Sweep, due: Sequence[Due], journal: Journal, max_minutes: float | None) -> bool:
    """Make the attempts; whether that was interrupted.

    Raises:
        OSError: the journal could not be written.
    """
    batch_id, began = new_id(f"matrix-{sweep.grid.name}"), time.monotonic()
    with contextlib.closing(Tally(sweep, len(due), journal)) as tally, supervised(journal, batch_id):
        for index, each in enumerate(due):
            if max_minutes is not None and time.monotonic() - began > 60 * max_minutes:
                tally.say(f"{max_minutes:g} minutes are over: {len(due) - index} attempts are left")
                break
            tally.begin(each)
            batch = Batch(id=batch_id, command=MATRIX, planned=len(due), index=index)
            run, interrupted = make_attempt(Task(each.entry.contestant, each.seed, batch), journal, quietly=True)
            tally.end(each, run)
            if interrupted:
                tally.say(f"interrupted: {len(due) - index - 1} attempts are left; the same command goes on")
                return True
    return False


class Tally:
    """The progress of a matrix, on standard error: a live line in a terminal, else a line for each attempt."""

    def __init__(self, sweep: Sweep, planned: int, journal: Journal) -> None:
        self.sweep, self.clock = sweep, sweep.grid.clock
        self.known = known_runs(journal.read()[0])
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
        self.task = self.progress.add_task(sweep.grid.name, total=planned, status="")
        self.done, self.planned = 0, planned
        self.progress.start()

    def close(self) -> None:
        self.progress.stop()

    def begin(self, due: Due) -> None:
        self.progress.update(self.task, status=f"{self.status()}  now {due.entry.cell}, seed {due.seed}")

    def end(self, due: Due, run: Run) -> None:
        self.done += 1
        self.known[due.entry.key(due.seed)].append(run)
        self.progress.update(self.task, advance=1, status=self.status())
        if not self.console.is_terminal or run.outcome in ("error", "lost"):
            self.say(f"{self.done}/{self.planned}  {due.entry.cell}  {attempt_line(run)}")

    def status(self) -> str:
        results = results_of(self.sweep.entries, self.sweep.grid.seeds, self.known)
        best = ranked(results, self.clock)[0]
        ert = best.ert(self.clock)
        text = f"cells {sum(result.finished for result in results)}/{len(results)}  "
        text += f"solved {sum(result.num_solved for result in results)}"
        return text + (f"  best {number(ert, '.2f')} s {best.cell}" if best.num_solved else "")

    def say(self, line: str) -> None:
        self.progress.console.print(line, soft_wrap=True, markup=False)


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# -----------------------------------------------------------------------------
# the end


def report(sweep: Sweep, results: Sequence[Result], folder: Path) -> None:
    """The ranking as a table on standard output; the same as CSV, and as a picture.

    Raises:
        OSError: a file could not be written.
    """
    clock: ClockName = sweep.grid.clock
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(results_table(results, clock))
    stem = folder / MATRIX / sweep.grid.name
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = {stem.with_suffix(".csv"): results_csv(results, clock)}
    if sweep.grid.plot:
        title = f"{sweep.grid.name}: ERT by {clock}, s"
        subtitle = sweep.entries[0].contestant.planned.machine.class_ or "unknown machine"
        files[stem.with_suffix(".svg")] = draw_matrix(results, sweep.grid, title, subtitle)
    for path, text in files.items():
        replace_file(path, text)
        print(path)


def results_table(results: Sequence[Result], clock: ClockName) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    axes = list(results[0].cell.choices)
    other = "total" if clock == "train" else "train"
    for column in ("rank", *axes, "solved", f"ERT {clock}", f"{clock}, s", f"ERT {other}", "otherwise"):
        table.add_column(column, justify="left" if column in (*axes, "otherwise") else "right")
    for rank, result in enumerate(ranked(results, clock), start=1):
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
