"""Starts attempts as processes, judges them or times them from outside, and files a run for each.

A command and an attempt communicate by this protocol. Snapshots of old records use it, so it must not change:

- `SCRIPT ARGUMENTS` runs an attempt. ADDITION_SPEEDRUN_JUDGE in the environment holds a file descriptor: the
  contestant's end of `bench.judge.protocol`, by which it also reports its run.
- `SCRIPT ARGUMENTS --plan` prints the run that would be filed if the attempt were lost, as JSON, and exits.
- `SCRIPT --plans` does the same for each command line in a JSON list on standard input. A command line that is refused
  is answered with `{"refused": REASON, "not_here": BOOL}`. Only the current source is started with `--plans`.
- SIGUSR1 tells an attempt that it is pruned.

Snapshots older than the judge, and all where no descriptor can be inherited, get `--seed N --results DIR` and the batch
of the attempt in ADDITION_SPEEDRUN_BATCH, as JSON. They write their finished run to their start mark in DIR/started,
from which the command files it. To the descriptor in ADDITION_SPEEDRUN_PIPE they write a line at each edge of their
clock (the name of the phase that begins, `off` and `on` around waiting for the device, `stop`), and in a search each
check, as JSON.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from bench.cli import EXIT_INTERRUPTED, EXIT_WRONG_REQUEST, ignore_interrupts
from bench.config import lacks_target
from bench.errors import UsageError
from bench.experiments.outer_clock import CAN_LISTEN, EdgeListener, disagreements, off_seconds, outer_seconds
from bench.processes import (
    BATCH_VARIABLE,
    PIPE_VARIABLE,
    RunningProcess,
    end_process,
    json_lines,
    last_error_line,
    run_python,
    start_python,
)
from bench.provenance import ROOT
from bench.storage.journal import Journal
from bench.storage.results import find_weights
from bench.storage.schema import YARDSTICK, Batch, Check, Outcome, Run, Seconds, new_id

SCRIPT = ROOT / "speedrun.py"
PATIENCE_SECONDS = 60.0  # for an interrupted attempt to write its run


class NotBegun(KeyboardInterrupt):
    """An attempt was interrupted before it had a start mark: it has not begun, and nothing is filed for it."""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A trainer's script and a config: everything that defines an attempt except its seed."""

    script: Path
    arguments: tuple[str, ...]  # the config and overrides
    planned: Run  # filed for an attempt that leaves no run; its seed is the one derived from config and source
    commit: str | None = None  # of an unpacked snapshot; None for a checkout


def check_may_rank(planned: Run, where: str) -> None:
    """Raises UsageError, which begins with `where`: attempts with these settings never rank, so none are compared."""
    reason, settings = planned.unranked_because, planned.settings
    if reason is not None:
        fix = "curves to false"
        if settings.get("control", "none") != "none":
            fix = "control to none"
        elif lacks_target(settings):
            fix = "it above 0"
        elif settings.get("init_from"):
            fix = 'init_from to ""'
        raise UsageError(f"{where}: a run that {reason} never ranks; set {fix}")


@dataclasses.dataclass(frozen=True)
class Task:
    """One attempt to run."""

    contestant: Contestant
    seed: int
    batch: Batch
    arguments: tuple[str, ...] = ()  # in addition to the contestant's
    relabelling: int | None = None  # a secret seed by which the judge gives answers other ids than prompts


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why a trainer refuses a command line."""

    reason: str
    not_here: bool  # another machine could run it


# -----------------------------------------------------------------------------
# resolving contestants


def resolve_contestants(script: Path, command_lines: Sequence[Sequence[str]]) -> list[Contestant | Refusal]:
    """Ask a trainer what it would run for each command line, in one process; UsageError if it does not start."""
    process = run_python([str(script), "--plans"], json.dumps(list(map(list, command_lines))))
    if process.returncode:
        raise UsageError(f"{script.name} does not start: {last_error_line(process.stderr)}")
    try:
        answers = map(json.loads, json_lines(process.stdout, len(command_lines)))
    except ValueError as problem:
        raise UsageError(f"{script.name} --plans: {problem}") from None
    return [
        Refusal(answer["refused"], answer["not_here"])
        if "refused" in answer
        else Contestant(script, tuple(arguments), Run.model_validate(answer))
        for arguments, answer in zip(command_lines, answers, strict=True)
    ]


def resolve_contestant(script: Path, arguments: Sequence[str], commit: str | None = None) -> Contestant:
    """Ask a trainer what it would run; UsageError if it refuses, with its message, or does not start."""
    process = run_python([str(script), *arguments, "--plan"])
    if process.returncode == EXIT_WRONG_REQUEST:
        raise UsageError(last_error_line(process.stderr).removeprefix(f"{script.name}: "))
    if process.returncode:
        raise UsageError(f"{script.name} does not start: {last_error_line(process.stderr)}")
    try:
        planned = Run.model_validate_json(*json_lines(process.stdout))
    except ValueError as problem:
        raise UsageError(f"{script.name} --plan: {problem}") from None
    return Contestant(script, tuple(arguments), planned, commit)


def yardstick_task(
    script: Path, device: str, batch_id: str, resolve: Callable[[Path, Sequence[str]], Contestant] = resolve_contestant
) -> Task:
    """One attempt of the frozen yardstick config beside a batch, which shows how fast the machine was on that day."""
    contestant = resolve(script, ["--config", YARDSTICK, "--device", device])
    return Task(contestant, seed=0, batch=Batch(id=batch_id, command=YARDSTICK, planned=1, index=0))


# -----------------------------------------------------------------------------
# running attempts


def run_tasks(
    tasks: Iterable[Task],
    journal: Journal,
    on_filed: Callable[[Run], None],
    run_task: Callable[[Task, Journal], tuple[Run, bool]] | None = None,
) -> list[Run]:
    """Run the attempts that the journal does not hold yet, one after the other, and file each.

    Args:
        tasks: of one batch, or of batches with the same id; each is taken when the one before it has been filed.
        on_filed: called with each run, including those that the journal already held.
        run_task: runs one attempt; `run_attempt` by default.

    Raises:
        KeyboardInterrupt: this process was interrupted; the current attempt is filed first, if it had begun.
        UsageError: another process is running the same batch.
    """
    runs, remaining = [], iter(tasks)
    first = next(remaining)
    with supervised(journal, first.batch.id):
        filed_runs = {run.batch: run for run in journal.read()[0] if run.batch is not None}
        for task in itertools.chain([first], remaining):
            # The attempt may have gone on after its command was killed.
            run = filed_runs.get(task.batch) or journal.collect(task.batch, functools.partial(complete_run, task, None))
            interrupted = False
            if run is None:
                run, interrupted = (run_task or run_attempt)(task, journal)
            runs.append(run)
            on_filed(run)
            if interrupted:
                raise KeyboardInterrupt
    return runs


@contextlib.contextmanager
def supervised(journal: Journal, batch_id: str) -> Iterator[None]:
    """Hold a batch, so that no other command collects its attempts; UsageError if another process holds it."""
    try:
        with journal.supervise(batch_id):
            yield
    except filelock.Timeout:
        raise UsageError(f"another process is running the batch {batch_id}") from None


def run_attempt(
    task: Task,
    journal: Journal,
    quietly: bool = False,
    is_hopeless: Callable[[Check], bool] | None = None,
    on_started: Callable[[RunningProcess], None] | None = None,
) -> tuple[Run, bool]:
    """Start one attempt, wait for its end, and file its run.

    Args:
        quietly: hide the attempt's progress.
        is_hopeless: decides at each check whether to prune an attempt of a search.
        on_started: called with the process, so that another thread can stop it.

    Returns the run, and whether the attempt or this process was interrupted. Raises NotBegun if that happened before
    the attempt began.
    """
    if task.contestant.planned.judge is not None and CAN_LISTEN:
        return run_judged_attempt(task, journal, quietly, is_hopeless, on_started)
    edges: list[tuple[str, float]] = []

    def on_line(line: str, written: float) -> None:
        if not line.startswith("{"):
            edges.append((line.strip(), written))
        elif is_hopeless is not None and is_hopeless(Check.model_validate_json(line)):
            process.send_signal(signal.SIGUSR1)

    # Keys without a value are left out, because a snapshot may be older than a key.
    variables = {BATCH_VARIABLE: task.batch.model_dump_json(exclude_none=True)}
    listener = EdgeListener(on_line) if CAN_LISTEN else None
    if listener is not None:
        variables[PIPE_VARIABLE] = str(listener.descriptor)
    interrupted = False
    script, arguments = task.contestant.script, (*task.contestant.arguments, *task.arguments)
    options = ["--seed", str(task.seed), "--results", str(journal.results)]
    started = time.perf_counter()
    descriptors = [] if listener is None else [listener.descriptor]
    process = start_python([str(script), *arguments, *options], variables, descriptors, quietly)
    if on_started is not None:
        on_started(process)
    try:
        status = process.wait()
    except KeyboardInterrupt as interrupt:
        interrupted = True
        ignore_interrupts()  # the run must still be filed
        status = stop_process(process, signal.SIGTERM if str(interrupt) == "SIGTERM" else signal.SIGINT)
    ended = time.perf_counter()
    if listener is not None:
        listener.close()
    outer = outer_seconds(started, edges) if edges else None
    wall = ended - started - off_seconds(edges)
    complete = functools.partial(complete_run, task, outer, wall=wall)
    return ended_attempt(task, journal, complete, status, interrupted)


def run_judged_attempt(
    task: Task,
    journal: Journal,
    quietly: bool,
    is_hopeless: Callable[[Check], bool] | None,
    on_started: Callable[[RunningProcess], None] | None,
) -> tuple[Run, bool]:
    """As `run_attempt`, of a contestant that another process can judge: this one does."""
    from bench.experiments.judged import run_judged  # imports torch

    arguments = [str(task.contestant.script), *task.contestant.arguments, *task.arguments]
    planned = complete_run(task, None, task.contestant.planned)
    planned = planned.model_copy(update={"batch": task.batch, "seed": task.seed})
    if planned.init_from is not None:  # the contestant does not know the results folder
        arguments += ["--init-from", str(find_weights(planned.init_from, journal.results)[0].resolve())]
    try:
        return run_judged(arguments, planned, journal, quietly, task.relabelling, is_hopeless, on_started)
    except KeyboardInterrupt:
        raise NotBegun from None


def ended_attempt(
    task: Task, journal: Journal, complete: Callable[[Run], Run], status: int, interrupted: bool
) -> tuple[Run, bool]:
    """File the run of an attempt whose process has ended; see `run_attempt`."""
    run = journal.collect(task.batch, complete, ended=True)
    if run is None:
        if interrupted or status in (EXIT_INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
            raise NotBegun
        message = f"the process ended with status {status} before it could begin"
        run = run_without_answer(task, "lost" if status < 0 else "error", message)
        journal.append(run)
    return run, interrupted or status == EXIT_INTERRUPTED


def stop_process(process: RunningProcess, number: int = signal.SIGINT) -> int:
    """Interrupt an attempt, kill it after PATIENCE_SECONDS, and return its exit status.

    The attempt files the signal's name. Ctrl-C reaches it, too; a signal that is sent to this process alone does not.
    """
    process.send_signal(number if os.name == "posix" else signal.SIGTERM)  # Windows can only terminate
    return end_process(process, PATIENCE_SECONDS)


def complete_run(task: Task, outer: Mapping[str, float | None] | None, run: Run, wall: float | None = None) -> Run:
    """Add what only the command knows to a run: the outer clock's seconds, and the commit of a snapshot.

    `wall` is the lifetime of the process, seconds; None if this command did not see it.
    """
    update: dict[str, Any] = {}
    if run.seconds.total is not None and run.judge is None:
        update["seconds"] = run.seconds.model_copy(update={"wall": wall})
    if task.contestant.commit is not None:
        update |= {"commit": task.contestant.commit, "dirty": False, "config": task.contestant.planned.config}
    if outer is not None:
        update["outer_seconds"] = Seconds.model_validate(outer)
        if run.outcome != "lost":  # a lost attempt has no seconds of its own
            update["machine"] = run.machine.with_reasons(disagreements(run.seconds.model_dump(), outer))
    return run.model_copy(update=update)


def run_without_answer(task: Task, outcome: Outcome, message: str) -> Run:
    """The run of an attempt that left none, for example because it ended before it wrote its start mark."""
    planned = task.contestant.planned
    update = {"run_id": new_id(planned.config), "batch": task.batch, "seed": task.seed, "started_at": datetime.now(UTC)}
    return complete_run(task, None, planned.model_copy(update=update | {"outcome": outcome, "message": message}))
