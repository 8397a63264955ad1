"""Starts attempts as processes of their own, listens to their clocks, and sees to it that each ends in the journal.

What a command and an attempt say to each other must not change, as the snapshots of old records still speak it:
- the command line is `SCRIPT ARGUMENTS --seed N --results DIR`; with `--plan` instead, the attempt prints the line that
  would stand for it if it never came back, and ends; `SCRIPT --plans` does so for each command line of a JSON list on
  standard input (only today's source is asked like this);
- the environment holds the attempt's batch, and the descriptor to which it writes the edges of its clock, and, when a
  search has started it, each check as JSON, a line at a time; by SIGUSR1 it learns that it is given up;
- the attempt leaves its finished line in its start mark, where the command collects it.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import filelock

from bench.cli import EXIT_INTERRUPTED, EXIT_WRONG_REQUEST, ignore_interrupts
from bench.errors import UsageError
from bench.experiments.outer_clock import CAN_HAND_OVER, EdgeListener, disagreements, outer_seconds
from bench.provenance import ROOT
from bench.storage.journal import Journal
from bench.storage.schema import YARDSTICK, Batch, Check, Run, Seconds, mark_not_clean, new_id

# In the environment of an attempt that a command has started:
BATCH_VARIABLE = "ADDITION_SPEEDRUN_BATCH"  # its batch, as JSON
PIPE_VARIABLE = "ADDITION_SPEEDRUN_PIPE"  # the file descriptor to announce the clock's edges on
SCRIPT = ROOT / "speedrun.py"
PATIENCE_SECONDS = 60.0  # for an interrupted attempt to file itself


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A trainer's script and a config: all that makes an attempt, but for its seed."""

    script: Path
    arguments: tuple[str, ...]  # the config and what goes with it
    planned: Run  # the line for an attempt that leaves none; its seed is the one that follows from config and source
    commit: str | None = None  # of a source that is no checkout


@dataclasses.dataclass(frozen=True)
class Task:
    """One attempt to be made."""

    contestant: Contestant
    seed: int
    batch: Batch
    arguments: tuple[str, ...] = ()  # beside the contestant's own


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why a trainer would not do what it was asked for."""

    reason: str
    not_here: bool  # another machine could


def resolve_contestants(script: Path, asked: Sequence[Sequence[str]]) -> list[Contestant | Refusal]:
    """Let a trainer say what it would do with each of some command lines, in one process.

    Raises:
        UsageError: it does not start.
    """
    command, lines = [sys.executable, str(script), "--plans"], json.dumps(list(map(list, asked)))
    answer = subprocess.run(
        command, input=lines, capture_output=True, text=True, encoding="utf-8", env=child_environment({})
    )
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise UsageError(f"{script.name} does not start: {last}")
    found: list[Contestant | Refusal] = []
    for arguments, line in zip(asked, answer.stdout.splitlines(), strict=True):
        told = json.loads(line)
        if "refused" in told:
            found.append(Refusal(told["refused"], told["not_here"]))
        else:
            found.append(Contestant(script, tuple(arguments), Run.model_validate(told)))
    return found


def resolve_contestant(script: Path, arguments: Sequence[str], commit: str | None = None) -> Contestant:
    """Let a trainer say what it would do.

    Raises:
        UsageError: it refuses, in its own words, or does not start.
    """
    command = [sys.executable, str(script), *arguments, "--plan"]
    answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=child_environment({}))
    last = (answer.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    if answer.returncode == EXIT_WRONG_REQUEST:
        raise UsageError(last.removeprefix(f"{script.name}: "))
    if answer.returncode:
        raise UsageError(f"{script.name} does not start: {last}")
    return Contestant(script, tuple(arguments), Run.model_validate_json(answer.stdout.splitlines()[-1]), commit)


def yardstick_task(
    script: Path, device: str, batch_id: str, ask: Callable[[Path, Sequence[str]], Contestant] = resolve_contestant
) -> Task:
    """The frozen config's one attempt beside a batch: it shows how fast the machine was that day."""
    contestant = ask(script, ["--config", YARDSTICK, "--device", device])
    return Task(contestant, seed=0, batch=Batch(id=batch_id, command=YARDSTICK, planned=1, index=0))


# -----------------------------------------------------------------------------
# a series of attempts


def run_tasks(
    tasks: Sequence[Task],
    journal: Journal,
    filed: Callable[[Run], None],
    make: Callable[[Task, Journal], tuple[Run, bool]] | None = None,
) -> list[Run]:
    """Make the attempts that the journal does not have yet, one after the other; every one of them ends there.

    Args:
        tasks: of one batch, or of batches with one id.
        filed: is told of each run, also of those that the journal had.
        make: makes one attempt; `make_attempt` unless it is to be made elsewhere.

    Raises:
        KeyboardInterrupt: this process was interrupted; the attempt under way is filed all the same.
        UsageError: another process carries out the same batch.
    """
    runs = []
    with supervised(journal, tasks[0].batch.id):
        known = {run.batch: run for run in journal.read()[0] if run.batch is not None}
        for task in tasks:
            run, interrupted = known.get(task.batch), False
            if run is None:  # or it was under way when this batch was broken off
                run = journal.collect(task.batch, lambda left, task=task: complete_run(left, task, None))
            if run is None:
                run, interrupted = (make or run_attempt)(task, journal)
            runs.append(run)
            filed(run)
            if interrupted:
                raise KeyboardInterrupt
    return runs


@contextlib.contextmanager
def supervised(journal: Journal, batch_id: str) -> Iterator[None]:
    try:
        with journal.supervise(batch_id):
            yield
    except filelock.Timeout:
        raise UsageError(f"another process is carrying out the batch {batch_id}") from None


def run_attempt(
    task: Task,
    journal: Journal,
    quietly: bool = False,
    is_hopeless: Callable[[Check], bool] | None = None,
    started: Callable[[subprocess.Popen], None] | None = None,
) -> tuple[Run, bool]:
    """Start one attempt, wait for its end, file it; and whether it or this process was interrupted.

    Args:
        quietly: keep its progress to itself.
        is_hopeless: by a check, whether to give up an attempt of a search.
        started: is handed the process, to stop it from another thread.
    """
    heard: list[tuple[str, float]] = []

    def heed(line: str, written: float) -> None:
        if not line.startswith("{"):
            heard.append((line.strip(), written))
        elif is_hopeless is not None and is_hopeless(Check.model_validate_json(line)):
            process.send_signal(signal.SIGUSR1)

    # Only what is set, so that a snapshot may be older than a key.
    set_here = {BATCH_VARIABLE: task.batch.model_dump_json(exclude_none=True)}
    ear, inherited = None, ()
    if CAN_HAND_OVER:  # elsewhere there is no outer clock
        ear = EdgeListener(heed)
        set_here[PIPE_VARIABLE], inherited = str(ear.descriptor), (ear.descriptor,)
    contestant = task.contestant
    own = [*contestant.arguments, *task.arguments, "--seed", str(task.seed), "--results", str(journal.results)]
    command = [sys.executable, str(contestant.script), *own]
    interrupted = False
    told = subprocess.DEVNULL if quietly else None
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=child_environment(set_here), pass_fds=inherited, stdout=told, stderr=told)
    if started is not None:
        started(process)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        interrupted = True
        ignore_interrupts()  # what is left takes a moment, and must be filed
        status = stop_process(process)
    if ear is not None:
        ear.close()
    outer = outer_seconds(begun, heard) if heard else None
    run = journal.collect(task.batch, lambda left: complete_run(left, task, outer))
    if run is None:
        run = run_without_mark(task, status, interrupted)
        journal.append(run)
    return run, interrupted or status == EXIT_INTERRUPTED


def stop_process(process: subprocess.Popen) -> int:
    """The exit status of an attempt that is told to stop, and killed when it does not."""
    process.send_signal(signal.SIGTERM)  # a Ctrl-C reached it already, a signal sent to us alone did not
    try:
        return process.wait(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def complete_run(left: Run, task: Task, outer: Mapping[str, float | None] | None) -> Run:
    """What an attempt has left, with what its command knows: the outer clock, and where a snapshot came from."""
    found = {}
    if task.contestant.commit is not None:
        found |= {"commit": task.contestant.commit, "dirty": False, "config": task.contestant.planned.config}
    if outer is not None:
        found["outer_seconds"] = Seconds.model_validate(outer)
        if left.outcome != "lost":  # that one never read its own clock
            found["machine"] = mark_not_clean(left.machine, disagreements(left.seconds.model_dump(), outer))
    return left.model_copy(update=found)


def run_without_mark(task: Task, status: int, interrupted: bool) -> Run:
    """The line for an attempt that did not live long enough to leave a mark; `interrupted` tells whether we were."""
    stopped = interrupted or status in (EXIT_INTERRUPTED, -signal.SIGINT, -signal.SIGTERM)
    outcome = "interrupted" if stopped else "lost" if status < 0 else "error"
    found = {
        "run_id": new_id(task.contestant.planned.config),
        "batch": task.batch,
        "seed": task.seed,
        "outcome": outcome,
        "message": f"the process ended with status {status} before it could begin",
        "started_at": datetime.now(UTC),
    }
    return complete_run(task.contestant.planned.model_copy(update=found), task, None)


def child_environment(set_here: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, without what it was told as an attempt itself."""
    kept = {name: value for name, value in os.environ.items() if name not in (BATCH_VARIABLE, PIPE_VARIABLE)}
    return kept | dict(set_here)
