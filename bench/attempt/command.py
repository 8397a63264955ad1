"""The command line of `python speedrun.py`: an attempt, a batch of attempts, or a plan or probe of one."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import cli, distributed
from bench.attempt.interface import Build
from bench.attempt.lifecycle import lost_run, timed_attempt
from bench.attempt.plan import AttemptPlan, make_plan
from bench.attempt.request import plain_arguments
from bench.attempt.resources import device_turn
from bench.attempt.worker import run_worker, wait_for_first_process
from bench.clock import Clock
from bench.entry import program_name
from bench.errors import UnavailableHere, UsageError, describe_os_error
from bench.experiments.launcher import Contestant, NotBegun, Task, run_tasks, yardstick_task
from bench.formatting import attempt_line, batch_line, expected_text, interrupted_line, yardstick_line
from bench.interrupts import NOTHING_FILED
from bench.judge.protocol import INTERFACE, Channel, ProtocolError, judge_channel
from bench.processes import BATCH_VARIABLE
from bench.storage.evidence import write_evidence
from bench.storage.journal import Journal
from bench.storage.line_checks import line_faults
from bench.storage.results import runs_for_estimates
from bench.storage.schema import Run, SchemaModel
from bench.streams import lost_output, print_data, print_error


def main(settings_type: type, build: Build, clock: Clock, arguments: Sequence[str], description: str) -> int:
    """Run `python speedrun.py` and return its exit status.

    Args:
        settings_type: the trainer's settings, a frozen dataclass; see `request.Settings`.
        clock: started with the process.
        arguments: the command line without the program's name.
        description: for `--help`.
    """
    cli.handle_interrupts()
    judge = judge_channel()
    if judge is not None:
        clock.announce = functools.partial(announce, judge)
    program = program_name()
    if missing := distributed.missing_variables():
        cli.print_progress(
            f"{program}: TORCHELASTIC_RUN_ID is set without {', '.join(missing)}; this process trains alone"
        )
    try:
        clock.enter("setup")
        arguments = plain_arguments(settings_type, arguments)
        if list(arguments) == ["--plans"]:
            print_plans(settings_type, description)
            return cli.EXIT_SOLVED
        plan = make_plan(settings_type, arguments, description)
        torch.set_num_threads(plan.settings.threads)
        if plan.request.plan:
            return print_answer(program, lost_run(plan))
        if plan.request.probe is not None:
            from bench.attempt.probe import PROBES

            with device_turn(plan):  # although a probe is not an attempt
                return print_answer(program, PROBES[plan.request.probe](plan, build))
        if plan.memory_warning is not None and plan.batch is None and not plan.world.rank:
            cli.print_progress(f"{program}: {plan.memory_warning}")
        if plan.request.attempts is not None:
            return run_batch(plan, plan.request.attempts, arguments)
        if plan.world.rank:
            return distributed.leave(run_worker(plan, build))
        if judge is not None:
            judge.send("hello", interface=INTERFACE, track=plan.track.name)
        run = timed_attempt(plan, build, clock, judge)
    except UsageError as problem:
        if distributed.read_world().rank:
            wait_for_first_process()
        print_error(f"{program}: {cli.with_option_names(str(problem), arguments)}")
        return cli.EXIT_WRONG_REQUEST
    except OSError as problem:
        print_error(f"{program}: the results could not be filed: {describe_os_error(problem)}")
        return cli.EXIT_NOT_SOLVED
    except ProtocolError as problem:
        print_error(f"{program}: {problem}")
        return cli.EXIT_NOT_SOLVED
    except KeyboardInterrupt:
        if judge is None and BATCH_VARIABLE not in os.environ:  # else the command that started it prints its own line
            print_error(f"{program}: {NOTHING_FILED}")
        return cli.EXIT_INTERRUPTED
    if plan.request.json:
        print_data(run.model_dump_json())
    statuses = {"solved": cli.EXIT_SOLVED, "interrupted": cli.EXIT_INTERRUPTED}
    return distributed.leave(statuses.get(run.outcome, cli.EXIT_NOT_SOLVED))


def print_answer(program: str, answer: SchemaModel) -> int:
    """Print the answer to `--plan` or `--probe` as JSON; returns the exit status."""
    print_data(answer.model_dump_json())
    if (problem := lost_output()) is not None:
        print_error(f"{program}: standard output is incomplete: {describe_os_error(problem)}")
        return cli.EXIT_NOT_SOLVED
    return cli.EXIT_SOLVED


def announce(judge: Channel, edge: str) -> None:
    """Tell the judge that a phase begins; those from `train` on begin at its own messages."""
    if edge in ("setup", "warmup"):
        with contextlib.suppress(ProtocolError):  # found out at the next message
            judge.send("phase", name=edge)


def print_plans(settings_type: type, description: str) -> None:
    """Answer `--plans`: a line for each command line on standard input; see `bench.experiments.launcher`."""
    for arguments in json.load(sys.stdin):
        try:
            print_data(lost_run(make_plan(settings_type, arguments, description, settings_only=True)).model_dump_json())
        except UsageError as problem:
            print_data(json.dumps({"refused": str(problem), "not_here": isinstance(problem, UnavailableHere)}))


def run_batch(plan: AttemptPlan, num_attempts: int, arguments: Sequence[str]) -> int:
    """Run the yardstick and a batch of attempts, each in its own process; all are filed. Returns the exit status.

    The attempts differ from `plan` in their seeds; `arguments` is the command line of the batch.
    """
    # Imported here, because a single attempt does without them.
    from bench.experiments.paired_plan import Experiment, participant, plan_experiment
    from bench.report import leaderboard
    from bench.stats.ranking import RANKED_FROM

    journal = Journal(plan.request.results)
    _, without_attempts = cli.split_option(arguments, "--attempts")
    _, without_batch = cli.split_option(without_attempts, "--results")
    # With --json this process prints the runs, because it completes them.
    attempt_arguments = tuple(argument for argument in without_batch if argument != "--json")
    contestant = Contestant(Path(sys.argv[0]), attempt_arguments, lost_run(plan))
    experiment = Experiment(
        "speedrun",
        participant(contestant, plan.config, None),
        None,
        None,
        num_attempts,
        is_finished=lambda plan, runs: True,
        results=journal.results,
    )
    with cli.reject_unwritable(journal.results):
        journal.recover()
        with journal.lock():
            pass
        batch_plan, _ = plan_experiment(experiment)  # which draws the seeds
    batch_id = batch_plan.id
    attempts = [Task(contestant, seed, batch_plan.batch(index, "a")) for index, seed in enumerate(batch_plan.seeds)]
    tasks = [yardstick_task(contestant.script, plan.device.type, batch_id), *attempts]
    runs: list[Run] = []

    def on_filed(run: Run) -> None:
        leaderboard.update(plan.request.results, run)
        if run.command != "speedrun":
            cli.print_progress(yardstick_line(run))
            return
        runs.append(run)
        if plan.request.json:
            print_data(run.model_dump_json())
        cli.print_progress(f"{len(runs)}/{num_attempts}  {attempt_line(run)}")

    planned = [task.contestant.planned for task in tasks]
    expected = expected_text(runs_for_estimates(journal.results, planned), planned)
    cli.print_progress(f"beginning {batch_id}: {num_attempts} attempts and the yardstick, {expected}")
    try:
        run_tasks(tasks, journal, on_filed)
    except KeyboardInterrupt as interrupt:
        write_evidence(plan.request.results, runs)
        if runs and runs[-1].outcome in ("interrupted", "lost") and not isinstance(interrupt, NotBegun):
            cli.print_progress(interrupted_line(len(runs), runs, "train"))
        kept = " and stay in the journal" if runs else ""
        cli.print_progress(
            f"interrupted: {len(runs)} of {num_attempts} attempts were started{kept}; this batch cannot be continued, "
            "the same command begins a new one"
        )
        return cli.EXIT_INTERRUPTED
    write_evidence(plan.request.results, runs)
    cli.print_progress(batch_line(runs))
    if (reason := runs[0].unranked_because) is not None:
        cli.print_progress(f"not ranked, because these runs {reason}")
    elif num_attempts < RANKED_FROM:
        cli.print_progress(f"not ranked, because a ranked batch has at least {RANKED_FROM} attempts")
    elif faults := list(dict.fromkeys(fault for run in runs for fault in line_faults(run))):
        cli.print_progress(f"not ranked, because the batch is disputed: {'; '.join(faults)}")
    with contextlib.suppress(KeyboardInterrupt):  # all attempts are filed
        leaderboard.refresh_figures(plan.request.results)
    return cli.EXIT_SOLVED if all(run.outcome == "solved" for run in runs) else cli.EXIT_NOT_SOLVED
