"""The command line of `python speedrun.py`: one attempt, a batch of attempts, or a question about either."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench import distributed
from bench.attempt.interface import Build
from bench.attempt.lifecycle import lost_run, timed_attempt
from bench.attempt.plan import AttemptPlan, make_plan
from bench.attempt.resources import device_turn
from bench.attempt.worker import run_worker, wait_for_first_process
from bench.cli import (
    EXIT_INTERRUPTED,
    EXIT_NOT_SOLVED,
    EXIT_SOLVED,
    EXIT_WRONG_REQUEST,
    handle_interrupts,
    reject_unwritable,
    without_option,
)
from bench.clock import Clock
from bench.errors import UnavailableHere, UsageError
from bench.experiments.launcher import PIPE_VARIABLE, Contestant, Task, run_tasks, yardstick_task
from bench.formatting import attempt_line, batch_line
from bench.storage.journal import Journal
from bench.storage.schema import Batch, Run, new_id


def announcer() -> Callable[[str], None]:
    """Tells the command that started this attempt, if one did, when its clock crosses an edge."""
    number = os.environ.pop(PIPE_VARIABLE, "")  # not for the processes that this one starts
    if not number.isdecimal():
        return lambda edge: None
    os.set_inheritable(int(number), False)

    def announce(edge: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(int(number), f"{edge}\n".encode())

    return announce


def run_batch(plan: AttemptPlan, arguments: Sequence[str]) -> int:
    """Run as many attempts as were asked for, and the yardstick's; every one of them ends in the journal.

    Args:
        plan: the first attempt's; the others differ in the seed.
        arguments: the command line that asked for the batch.

    Raises:
        UsageError: the results folder cannot be written to.

    Returns:
        Exit status 0 when all attempts solved the track, 130 when interrupted, else 1.
    """
    from bench.report import leaderboard
    from bench.stats.ranking import RANKED_FROM

    journal, planned, batch_id = Journal(plan.request.results), plan.request.attempts, new_id(plan.config)
    with reject_unwritable(plan.request.results):
        journal.recover()
        with journal.lock():
            pass
    own = without_option(without_option(arguments, "--attempts"), "--results")
    own = tuple(argument for argument in own if argument != "--json")  # what is printed is what is filed, hence here
    contestant = Contestant(Path(sys.argv[0]), own, lost_run(plan))
    batches = [Batch(id=batch_id, command="speedrun", planned=planned, index=index) for index in range(planned)]
    tasks = [Task(contestant, (plan.seed + batch.index) % 2**31, batch) for batch in batches]
    runs: list[Run] = []

    def filed(run: Run) -> None:
        leaderboard.update(plan.request.results, run)
        if run.command == "speedrun":
            runs.append(run)
            if plan.request.json:
                print(run.line(), flush=True)
            print(f"{len(runs)}/{planned}  {attempt_line(run)}", file=sys.stderr, flush=True)
        else:
            print(f"yardstick  {attempt_line(run)}", file=sys.stderr, flush=True)

    try:
        run_tasks([yardstick_task(contestant.script, plan.device.type, batch_id), *tasks], journal, filed)
    except KeyboardInterrupt:
        print(f"interrupted: {len(runs)} of {planned} attempts were started", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(batch_line(runs), file=sys.stderr)
    if planned < RANKED_FROM:
        print(f"not ranked: that takes a batch of {RANKED_FROM}", file=sys.stderr)
    return EXIT_SOLVED if all(run.outcome == "solved" for run in runs) else EXIT_NOT_SOLVED


def print_plans(settings_type: type, description: str) -> None:
    """For each of the command lines that stand on standard input, a line: what it would file, or why it is refused."""
    for arguments in json.load(sys.stdin):
        try:
            print(lost_run(make_plan(settings_type, arguments, description)).line())
        except UsageError as problem:
            print(json.dumps({"refused": str(problem), "not_here": isinstance(problem, UnavailableHere)}))


def probed(plan: AttemptPlan, build: Build) -> str:
    """What a probe finds, as JSON; not an attempt, but the device is its own all the same."""
    from bench.attempt.probe import PROBES

    with device_turn(plan):
        return PROBES[plan.request.probe](plan, build).model_dump_json()


def main(settings_type: type, build: Build, clock: Clock, arguments: Sequence[str], description: str) -> int:
    """`python speedrun.py`: the exit status of one attempt, or of a batch of them.

    Args:
        settings_type: the trainer's settings, a frozen dataclass; see `bench.plan.Settings`.
        build: makes the trainer.
        clock: started with the process.
        arguments: the command line, without the program's name.
        description: for `--help`.
    """
    handle_interrupts()
    clock.announce = announcer()
    try:
        clock.enter("setup")
        if list(arguments) == ["--plans"]:
            print_plans(settings_type, description)
            return EXIT_SOLVED
        plan = make_plan(settings_type, arguments, description)
        torch.set_num_threads(plan.settings.threads)
        if plan.request.plan:
            print(lost_run(plan).line())
            return EXIT_SOLVED
        if plan.request.probe is not None:
            print(probed(plan, build))
            return EXIT_SOLVED
        if plan.request.attempts is not None:
            return run_batch(plan, arguments)
        if plan.world.rank:
            return distributed.leave(run_worker(plan, build))
        run = timed_attempt(plan, build, clock)
    except UsageError as problem:
        if distributed.read_world().rank:
            wait_for_first_process()
        print(f"{Path(sys.argv[0]).name}: {problem}", file=sys.stderr)
        return EXIT_WRONG_REQUEST
    except OSError as problem:
        print(f"{Path(sys.argv[0]).name}: the results could not be filed: {problem}", file=sys.stderr)
        return EXIT_NOT_SOLVED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    if plan.request.json:
        try:
            print(run.line(), flush=True)
        except OSError:  # nobody reads it; the run is filed all the same
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return distributed.leave({"solved": EXIT_SOLVED, "interrupted": EXIT_INTERRUPTED}.get(run.outcome, EXIT_NOT_SOLVED))
