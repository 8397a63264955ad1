"""Starts an attempt as a process and judges it here: device lock, clock, noise, certificate."""

import contextlib
import dataclasses
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.cli import ignore_interrupts
from bench.clock import Clock
from bench.experiments.device_turn import hold_devices
from bench.judge.environment import adopt_orphans, clean_environment, end_remaining_processes, find_compiler
from bench.judge.protocol import DESCRIPTOR_VARIABLE, Channel
from bench.judge.session import Judged, Session, prepared_track
from bench.processes import start_python
from bench.stats.learning_curves import reached_with_certificate
from bench.storage.schema import Check, Outcome, Run, Seconds

Stop = Callable[[subprocess.Popen[bytes], KeyboardInterrupt], int]  # ends a process; returns its exit status


@dataclasses.dataclass(frozen=True)
class JudgedProcess:
    """A judged attempt whose process has ended."""

    judged: Judged
    seed: int
    seconds: Seconds
    status: int  # of the process
    interrupted: bool
    is_shared: bool  # ran without the device's lock
    left_behind: list[str]  # names of processes that it left running
    is_altered: bool = False  # its answers had other ids than prompts


def run_judged(
    arguments: Sequence[str],
    variables: dict[str, str],
    planned: Run,
    seed: int,
    stop: Stop,
    quietly: bool,
    relabelling: int | None = None,
    is_hopeless: Callable[[Check], bool] | None = None,
    prune: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
    on_started: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
) -> JudgedProcess:
    """Start an attempt, judge it, and wait for its end.

    Args:
        arguments: script and options, without the seed, which the attempt gets when it begins to train.
        variables: added to the environment.
        planned: the run as the contestant has planned it.
        stop: ends the process when this one is interrupted.
        relabelling: a secret seed by which answers get other ids than prompts.
        is_hopeless: decides at each check whether to `prune` the attempt.
    """
    track = prepared_track(planned.settings)
    device, is_shared = torch.device(planned.device), "--shared" in arguments
    torch.set_num_threads(planned.threads or 1)
    lock = contextlib.nullcontext() if is_shared else hold_devices([device])
    adopt_orphans()
    with lock, clean_environment() as environment:
        ours, theirs = socket.socketpair()
        environment |= {**variables, DESCRIPTOR_VARIABLE: str(theirs.fileno())}
        clock = Clock(age=lambda: (0.0, None))
        process = start_python(arguments, environment, [theirs.fileno()], quietly, is_clean=True)
        theirs.close()
        on_started(process)

        def on_check(values: dict[str, Any]) -> None:
            if is_hopeless is not None and is_hopeless(Check.model_validate(values)):
                prune(process)

        limit, is_fresh = float(planned.settings.get("max_seconds") or 1e9), not planned.settings.get("init_from")
        session = Session(Channel(ours), track, seed, device, clock, limit, is_fresh, relabelling, on_check)
        interrupted = False
        try:
            judged = session.run()
            status = process.wait()
        except KeyboardInterrupt as interrupt:
            interrupted = True
            ignore_interrupts()  # the run must still be filed
            status, judged = stop(process, interrupt), session.judged
        wall = clock.wall()
        left_behind = end_remaining_processes(environment["HOME"])
    seconds = Seconds.model_validate({**clock.seconds, "total": clock.total, "wall": wall})
    return JudgedProcess(judged, seed, seconds, status, interrupted, is_shared, left_behind, relabelling is not None)


def complete_judged(result: JudgedProcess, results: Path, keeps_weights: bool, run: Run) -> Run:
    """Replace what the attempt says of itself by what the judge has found; what the judge cannot know stays."""
    judged, verdict = result.judged, result.judged.verdict
    certificate = None if verdict is None else verdict.certificate
    outcome, message = judged_outcome(result, run)
    compiler = find_compiler()
    update: dict[str, Any] = {
        "judge": "harness",
        "altered": result.is_altered,
        "seed": result.seed,
        "outcome": outcome,
        "message": message,
        "seconds": result.seconds,
        "certificate": certificate if outcome in ("solved", "missed") else None,
        "reached": reached_with_certificate(run.reached, certificate, result.seconds.train),
        "weights": None,
        "weights_sha256": None,
        "machine": judged_machine(result, run),
        "compiler": compiler._asdict() if compiler is not None and run.compiler_seconds is not None else None,
    }
    if verdict is not None and keeps_weights:
        name = f"weights/{run.run_id}.safetensors"
        path = results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(judged.weights or b"")
        update |= {"weights": name, "weights_sha256": verdict.weights_sha256}
    return run.model_copy(update=update)


def judged_outcome(result: JudgedProcess, run: Run) -> tuple[Outcome, str | None]:
    """The outcome and its message: by the judge where there is a verdict, else as the attempt ended."""
    limit = float(run.settings.get("max_seconds") or 1e9)
    if result.judged.verdict is not None:
        if (result.seconds.train or 0.0) > 1.05 * limit + 1.0:
            return "timeout", f"train took {result.seconds.train:.2f} s; its limit is {limit:g} s"
        return result.judged.verdict.outcome, None
    if result.judged.problem is not None and run.outcome not in ("interrupted", "timeout", "diverged", "pruned"):
        return "error", result.judged.problem
    if run.outcome in ("solved", "missed"):
        return "error", "the attempt ended without a verdict"
    return run.outcome, run.message


def judged_machine(result: JudgedProcess, run: Run) -> Any:
    """The machine with the noise that the judge measured."""
    before, during = result.judged.noise_before, result.judged.noise_during_train
    reasons = ["ran without the device's lock (--shared)"] if result.is_shared else []
    reasons += result.judged.noise_reasons
    if result.left_behind:
        reasons.append(f"left processes running: {', '.join(result.left_behind)}")
    is_known = before is not None and during is not None and None not in (before.others, during.others)
    update = {
        "clean": False if reasons else (True if is_known else None),
        "reasons": reasons,
        "others_before": None if before is None else before.others,
        "others_train": None if during is None else during.others,
    }
    return run.machine.model_copy(update=update)
