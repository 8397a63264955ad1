"""Starts attempts as processes of their own."""

import contextlib
import dataclasses
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from bench.display import errors_in_words
from bench.journal import Batch, Journal, Run, new_id
from bench.plan import BATCH_VARIABLE, Plan, refusing_unwritable
from bench.stats import expected_time_to_success, spread

EXIT_INTERRUPTED = 130
PATIENCE_SECONDS = 60.0  # for an interrupted attempt to file itself


def without_option(arguments: Sequence[str], option: str) -> list[str]:
    """The command line less one option and its value."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == option:
            skip = True
        elif not argument.startswith(f"{option}="):
            kept.append(argument)
    return kept


def start_attempt(arguments: Sequence[str], batch: Batch) -> int:
    """Run the trainer's script on `arguments` in a new process and wait; its exit status, negative for a signal.

    Raises:
        KeyboardInterrupt: this process was interrupted; the attempt was told, and has had time to file itself.
    """
    environment = os.environ | {BATCH_VARIABLE: batch.model_dump_json()}
    process = subprocess.Popen([sys.executable, sys.argv[0], *arguments], env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)  # a Ctrl-C reached it already, a signal sent to us alone did not
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=PATIENCE_SECONDS)
        raise


def run_batch(plan: Plan, arguments: Sequence[str], lost_run: Callable[[Plan], Run]) -> int:
    """Run as many attempts as were asked for, one after the other; every one of them ends in the journal.

    Args:
        plan: the first attempt's; the others differ in the seed.
        arguments: the command line that asked for the batch.
        lost_run: makes the line for an attempt that left none.

    Raises:
        WrongRequest: the results folder cannot be written to.

    Returns:
        Exit status 0 when all attempts solved the track, 130 when interrupted, else 1.
    """
    console = Console(stderr=True, highlight=False, markup=False)
    journal = Journal(plan.request.results)
    with refusing_unwritable(plan.request.results):
        journal.recover()
        with journal.lock():
            pass
    batch_id, planned = new_id(plan.config), plan.request.attempts
    own_arguments = without_option(arguments, "--attempts")
    runs: list[Run] = []
    for index in range(planned):
        batch = Batch(id=batch_id, command="speedrun", planned=planned, index=index)
        seed = (plan.seed + index) % 2**31
        try:
            status = start_attempt([*own_arguments, "--seed", str(seed)], batch)
        except KeyboardInterrupt:
            status = EXIT_INTERRUPTED
        run = attempt_of(journal, batch)
        if run is None:  # it did not live long enough to leave a mark
            run = lost_run(dataclasses.replace(plan, seed=seed, batch=batch))
            ended = {
                "outcome": "lost" if status < 0 else "error",
                "message": f"the process ended with status {status} before it could begin",
            }
            run = run.model_copy(update=ended)
            journal.append(run)
        runs.append(run)
        console.print(f"{index + 1}/{planned}  {attempt_line(run)}", soft_wrap=True)
        if status == EXIT_INTERRUPTED:
            console.print(f"interrupted: {index + 1} of {planned} attempts were started")
            return EXIT_INTERRUPTED
    console.print(batch_line(runs), soft_wrap=True)
    return 0 if all(run.outcome == "solved" for run in runs) else 1


def attempt_of(journal: Journal, batch: Batch) -> Run | None:
    """The journal's line about one attempt of a batch, filed as lost if it died."""
    journal.recover()
    return next((run for run in journal.read()[0] if run.batch == batch), None)


def attempt_line(run: Run) -> str:
    def seconds(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.2f} s"

    verdict = run.message or ("" if run.certificate is None else errors_in_words(run.certificate.errors))
    return (
        f"seed {run.seed}  {run.outcome}  {verdict}  "
        f"train {seconds(run.seconds.train)}  total {seconds(run.seconds.total)}"
    )


def batch_line(runs: Sequence[Run]) -> str:
    solved = sum(run.outcome == "solved" for run in runs)
    parts = [f"batch {runs[0].batch.id}: solved {solved}/{len(runs)}"]
    for clock in ("train", "total"):
        known = spread([s for run in runs if (s := getattr(run.seconds, clock)) is not None])
        middle = f"median {known.median:.2f} s ({known.minimum:.2f} … {known.maximum:.2f}), " if known else ""
        ert = expected_time_to_success(runs, clock)
        parts.append(f"{clock} {middle}ERT {'never' if math.isinf(ert) else f'{ert:.2f} s'}")
    return "; ".join(parts)
