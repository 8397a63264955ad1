"""Starts an attempt as a process and judges it here: device lock, start mark, clock, noise, certificate, filed run.

The contestant writes nothing into the results folder and does not know where it is. What only the contestant can know,
it reports over the channel.
"""

import contextlib
import dataclasses
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from bench.cli import EXIT_INTERRUPTED, ignore_interrupts
from bench.clock import PHASES, Clock
from bench.entry import described, save_traceback
from bench.experiments.device_turn import hold_devices
from bench.judge.environment import adopt_orphans, clean_environment, find_compiler
from bench.judge.isolation import prepare_contestant
from bench.judge.protocol import DESCRIPTOR_VARIABLE, Channel, ProtocolError
from bench.judge.session import Judged, Session, prepared_track
from bench.machine.peaks import machine_peak
from bench.processes import RunningProcess, end_process
from bench.provenance import ROOT, commit_and_dirty, harness_sha256, source_sha256
from bench.stats.learning_curves import reached_with_certificate
from bench.storage.journal import Journal
from bench.storage.jsonl import describe_invalid
from bench.storage.results import checkpoint_path
from bench.storage.schema import AUDIT, EXPLORATION_COMMANDS, Check, Machine, Outcome, Run, Seconds, new_id
from bench.streams import print_error

PATIENCE_SECONDS = 60.0  # for a contestant to end once nobody listens to it
# What a run has by the contestant's word: nothing that ranks it. A judge cannot know it, or would measure it worse.
REPORTED = (
    *("outcome", "message", "steps", "examples", "parameters", "train_flops", "step_launches", "checks", "reached"),
    *("reached_steps", "initial_weights_sha256", "data_sha256", "tokenizer_seconds", "compiler_seconds"),
    *("display_seconds", "peak_memory_bytes", "peak_device_memory_bytes", "energy_joules", "energy_method"),
    *("hardware", "software"),
)


@dataclasses.dataclass(frozen=True)
class JudgedProcess:
    """A judged attempt whose process has ended."""

    judged: Judged
    seconds: Seconds
    status: int  # of the process
    interrupt: str | None = None  # the signal that has interrupted the judge
    left_behind: Sequence[str] = ()  # names of processes that it left running
    is_isolated: bool = False  # in namespaces of its own


def run_judged(
    arguments: Sequence[str],
    planned: Run,
    journal: Journal,
    quietly: bool,
    relabelling: int | None = None,
    is_hopeless: Callable[[Check], bool] | None = None,
    on_started: Callable[[RunningProcess], None] | None = None,
) -> tuple[Run, bool]:
    """Start an attempt, judge it, wait for its end, and file its run.

    Args:
        arguments: the contestant's script and options.
        planned: the run as the contestant has planned it, with the batch and the seed of the attempt.
        relabelling: a secret seed by which answers get other ids than prompts.
        is_hopeless: decides at each check whether to prune the attempt.
        on_started: called with the process, so that another thread can stop it.

    Returns the run, and whether the attempt or this process was interrupted. Raises KeyboardInterrupt if that happened
    before the attempt had begun, which it does with its start mark, once the device is free.
    """
    track = prepared_track(planned.settings)
    torch.set_num_threads(planned.threads or 1)
    lock = contextlib.nullcontext() if "--shared" in arguments else hold_devices([torch.device(planned.device)])
    adopt_orphans()
    with lock, clean_environment() as environment:
        begun = begun_run(planned, Path(arguments[0]).parent, relabelling is not None, "--shared" in arguments)
        ours, theirs = socket.socketpair()
        variables = {**environment, DESCRIPTOR_VARIABLE: str(theirs.fileno())}
        journal.results.mkdir(parents=True, exist_ok=True)  # a folder that does not exist cannot be hidden
        prepared = prepare_contestant(arguments, variables, [theirs.fileno()], journal.results, quietly)
        with contextlib.closing(prepared) as process, journal.attempt(begun) as mark:
            clock = Clock(age=lambda: (0.0, None))

            def on_check(check: Check) -> None:
                if is_hopeless is not None and is_hopeless(check):
                    process.send_signal(signal.SIGUSR1)

            def on_checkpoint(step: int, weights: bytes) -> None:
                if begun.command not in (AUDIT, *EXPLORATION_COMMANDS):
                    save_file(checkpoint_path(begun.run_id, step, journal.results), weights)

            limit, is_fresh = limit_seconds(begun), not begun.settings.get("init_from")
            session = Session(
                Channel(ours), track, begun.seed, torch.device(begun.device), clock, limit, is_fresh, relabelling,
                on_check, on_checkpoint,
            )  # fmt: skip
            interrupt = None
            try:
                clock.restart()
                with theirs:
                    process.start()
                if on_started is not None:
                    on_started(process)
                session.run()
                status = end_process(process, PATIENCE_SECONDS)
            except KeyboardInterrupt as problem:
                ignore_interrupts()  # the run must still be filed
                if not process.is_started:
                    mark.path.unlink(missing_ok=True)
                    raise
                interrupt = str(problem) or "SIGINT"
                process.send_signal(signal.SIGTERM if interrupt == "SIGTERM" else signal.SIGINT)
                session.receive_report(PATIENCE_SECONDS)
                status = end_process(process, PATIENCE_SECONDS)
            wall = clock.wall()
            left_behind = process.end_remaining()
            seconds = Seconds.model_validate({**clock.seconds, "total": clock.total, "wall": wall})
            result = JudgedProcess(session.judged, seconds, status, interrupt, left_behind, process.is_isolated)
            run = finished_run(result, begun, journal.results)
            mark.file(run)
    return run, interrupt is not None or status == EXIT_INTERRUPTED


def save_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def limit_seconds(run: Run) -> float:
    return float(run.settings.get("max_seconds") or 1e9)


# -----------------------------------------------------------------------------
# the run


def begun_run(planned: Run, source: Path, is_altered: bool, is_shared: bool) -> Run:
    """The run to file if this process dies: the plan of the contestant, with all that is the judge's at its beginning.

    `source` is the root of the contestant's source tree.
    """
    reasons = ["ran without the device's lock (--shared)"] if is_shared else []
    unknown = (
        *("certificate", "weights", "weights_sha256", "outer_seconds", "matmul_flops_per_second", "launch_seconds"),
        *("isolated", "compiler", "clock_resolution_seconds", "warmed_weights_sha256", "engine"),
    )
    update: dict[str, Any] = dict.fromkeys(unknown) | {
        "run_id": new_id(planned.config),
        "judge": "harness",
        "altered": is_altered,
        "outcome": "lost",
        "message": "the process that judged the attempt ended before it",
        "seconds": Seconds.model_validate(dict.fromkeys((*PHASES, "total"))),
        "machine": Machine(class_=planned.machine.class_, clean=False if reasons else None, reasons=reasons),
        "started_at": datetime.now(UTC),
    }
    if (source / "bench").is_dir():  # the source may have changed since it was planned
        update |= {"source_sha256": source_sha256(source), "harness_sha256": harness_sha256(source)}
        if update["source_sha256"] != planned.source_sha256:
            here = commit_and_dirty() if source.resolve() == ROOT else (None, None)
            update |= zip(("commit", "dirty"), here, strict=True)
    return planned.model_copy(update=update)


def finished_run(result: JudgedProcess, begun: Run, results: Path) -> Run:
    """The run to file: what the judge has found, and for what it cannot know the contestant's word."""
    judged, verdict = result.judged, result.judged.verdict
    certificate = None if verdict is None else verdict.certificate
    claimed = None
    if judged.report is not None:
        try:
            claimed = reported_run(begun, judged.report)
        except ProtocolError as problem:
            judged.problem = judged.problem or str(problem)
        if trace := judged.report.get("traceback"):
            print_error(save_traceback(str(trace), results))
    outcome, message = judged_outcome(result, begun, claimed)
    run = begun if claimed is None else claimed
    compiler = find_compiler()
    update: dict[str, Any] = {
        "outcome": outcome,
        "message": message,
        "seconds": result.seconds,
        "isolated": result.is_isolated,
        "certificate": certificate if outcome in ("solved", "missed") else None,
        "reached": reached_with_certificate(run.reached, certificate, result.seconds.train),
        "machine": judged_machine(result, begun.machine),
        "compiler": compiler._asdict() if compiler is not None and run.compiler_seconds is not None else None,
    }
    if outcome in ("solved", "missed"):
        update |= measured_limits(begun, results)
    if verdict is not None and begun.command not in EXPLORATION_COMMANDS:
        name = f"weights/{begun.run_id}.safetensors"
        save_file(results / name, judged.weights or b"")
        update |= {"weights": name, "weights_sha256": verdict.weights_sha256}
    return run.model_copy(update=update)


def reported_run(begun: Run, report: Mapping[str, Any]) -> Run:
    """The run with the contestant's word for what the judge cannot know; ProtocolError if the report is ill-formed."""
    word = {key: report[key] for key in REPORTED if key in report}
    try:
        return Run.model_validate(begun.model_dump() | word)
    except ValidationError as problem:
        raise ProtocolError(f"report: {describe_invalid(problem)}") from None


def judged_outcome(result: JudgedProcess, begun: Run, claimed: Run | None) -> tuple[Outcome, str | None]:
    """The outcome and its message: by the judge where there is a verdict, else as the attempt ended."""
    judged, limit = result.judged, limit_seconds(begun)
    if judged.problem is not None and result.interrupt is None:
        return "error", judged.problem
    if judged.verdict is not None:
        if (result.seconds.train or 0.0) > 1.05 * limit + 1.0:
            return "timeout", f"train took {result.seconds.train:.2f} s; its limit is {limit:g} s"
        return judged.verdict.outcome, None
    if result.interrupt is not None:
        return "interrupted", result.interrupt
    if claimed is not None and claimed.outcome not in ("solved", "missed", "lost"):
        return claimed.outcome, claimed.message and claimed.message.splitlines()[0]
    if claimed is not None:
        return "error", "the attempt ended without a verdict"
    if result.status in (EXIT_INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
        return "interrupted", "SIGTERM" if result.status == -signal.SIGTERM else "SIGINT"
    if result.status < 0:
        return "lost", "the process ended without a report"
    return "error", f"the process ended with status {result.status} and without a report"


def judged_machine(result: JudgedProcess, machine: Machine) -> Machine:
    """The machine with the noise that the judge measured."""
    before, during = result.judged.noise_before, result.judged.noise_during_train
    reasons = [*machine.reasons, *result.judged.noise_reasons]
    if result.left_behind:
        reasons.append(f"left processes running: {', '.join(result.left_behind)}")
    is_known = before is not None and during is not None and None not in (before.others, during.others)
    update = {
        "clean": False if reasons else (True if is_known else None),
        "reasons": reasons,
        "others_before": None if before is None else before.others,
        "others_train": None if during is None else during.others,
    }
    return machine.model_copy(update=update)


def measured_limits(begun: Run, results: Path) -> dict[str, float]:
    """The machine's limits, by key of the run; empty if they cannot be measured."""
    try:
        peak = machine_peak(begun, results)
    except Exception as problem:  # the values that were not measured stay null
        print_error(f"the limits of the machine were not measured: {described(problem)}")
        return {}
    return {"matmul_flops_per_second": peak.matmul_flops_per_second, "launch_seconds": peak.launch_seconds}
