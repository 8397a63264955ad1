"""One attempt, from the command line to its line in the journal.

The trainer hands over what to build; this file owns the order, the clock, the verdict and the record of it.
"""

import contextlib
import dataclasses
import functools
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench import distributed
from bench.attempt.certify import certify
from bench.attempt.interface import Build, Diverged, Pruned, Timeout, Trainer, TrainingMonitor
from bench.attempt.plan import AttemptPlan
from bench.attempt.progress import Display
from bench.attempt.resources import device_turn, empty_compile_caches
from bench.attempt.worker import gather_resource_use
from bench.cli import ignore_interrupts, reject_unwritable
from bench.clock import PHASES, Clock
from bench.machine.energy import EnergyMeter
from bench.machine.hardware import hardware_record, machine_class, software_record
from bench.machine.memory import peak_device_memory_bytes, peak_memory_bytes
from bench.machine.noise import Noise, NoiseMonitor
from bench.machine.peaks import launch_seconds, launches_of
from bench.provenance import ROOT, commit_and_dirty, harness_sha256, source_sha256
from bench.report.summary import show_summary
from bench.storage import weights
from bench.storage.journal import Journal
from bench.storage.schema import (
    EXPLORATION_COMMANDS,
    TUNE,
    Certificate,
    Machine,
    Outcome,
    Run,
    Seconds,
    new_id,
)
from data import index_sets_sha256

QUIET_SECONDS = 1.0  # looked at before the start, on no clock


# -----------------------------------------------------------------------------
# the phases


class Attempt:
    """One attempt under way; what it has found out so far is always ready to be filed."""

    def __init__(self, plan: AttemptPlan, lost: Run, clock: Clock, lookout: NoiseMonitor, before: Noise) -> None:
        """`lost` is the line that stands for this attempt until it has a better one.

        `before` is what went on on the machine before the start.
        """
        self.plan = plan
        self.lost = lost
        self.clock = clock
        self.lookout = lookout
        self.before, self.during = before, None  # the machine's noise; of `train`, once it has ended
        self.display = Display(f"{plan.config} seed {plan.seed}")
        is_followed = lost.command == TUNE
        self.watch = TrainingMonitor(
            clock, self.display, plan.settings.max_seconds, clock.announce if is_followed else None
        )
        if is_followed and hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, lambda *_: setattr(self.watch, "is_given_up", True))
        self.trainer: Trainer | None = None
        self.certificate: Certificate | None = None
        self.sentences: list[str] = []
        self.found: dict[str, Any] = {}  # what goes into the line as it is

    def perform(self, build: Build) -> None:
        """All phases after `import`; whatever goes wrong in one of them comes out as an exception."""
        plan, found = self.plan, self.found
        self.display.phase("setup", plan.remark)
        self.trainer = build(plan.settings, plan.track, plan.device, plan.dtype, plan.seed)
        found["initial_weights_sha256"] = weights.state_sha256(self.trainer.model)

        self.display.phase("warmup")
        self.clock.enter("warmup")
        self.trainer.warm_up()
        found["warmed_weights_sha256"] = weights.state_sha256(self.trainer.model)

        self.display.phase("train")
        meter = EnergyMeter(plan.device)
        noise, energy = self.lookout.reading(), meter.reading()
        self.clock.enter("train")
        distributed.barrier()
        try:
            self.train()
            self.clock.enter("certify")
        finally:  # also of a training that failed
            found["energy_joules"], found["energy_method"] = meter.since(energy)
            self.during = self.lookout.since(noise, "during train")

        self.display.phase("certify")
        with self.weights_folder() as folder:
            path = folder / f"{self.lost.run_id}.safetensors"
            digest = weights.save(path, self.trainer.model, plan.track, plan.settings_dict)
            if self.keeps_weights:
                found["weights"], found["weights_sha256"] = f"{folder.name}/{path.name}", digest
            if plan.world.size > 1:
                distributed.broadcast(path.read_bytes())
            model, track = weights.load(path, plan.device)
            if self.trainer.model.kernel is not None:
                model.use_kernel(plan.settings.threads)
            self.certificate, self.sentences = certify(model.answerer(), track, plan.device, plan.seed)
        self.clock.stop()

    def look_back(self) -> None:
        """With the verdict, which nothing here changes, go the peak of the machine and what a step is made of."""
        plan, found = self.plan, self.found
        spent, reasons = gather_resource_use(plan, found["energy_joules"], self.during.reasons)
        found |= spent
        self.during = dataclasses.replace(self.during, reasons=reasons)
        if plan.world.size > 1:
            return  # a step alone would wait for the others
        found["launch_seconds"] = launch_seconds(plan.device)
        step = getattr(self.trainer, "step", None)  # trainers of older records may have none
        if self.trainer.model.kernel is not None:
            step = functools.partial(self.trainer.take_steps, 1)
        if step is not None and not plan.settings.compile:  # inductor's kernels are none of torch's operations
            found["step_launches"] = launches_of(step)

    def train(self) -> None:
        """A control shows what so much training leads to, whatever the trainer thinks of it: its limit is its end."""
        try:
            self.trainer.train(self.watch)
            self.watch.tick()
        except Timeout:
            if self.plan.settings.control == "none":
                raise

    @property
    def keeps_weights(self) -> bool:
        """A matrix or a search keeps none: they make thousands of attempts."""
        return self.plan.request.journal and self.lost.command not in EXPLORATION_COMMANDS

    @contextlib.contextmanager
    def weights_folder(self) -> Iterator[Path]:
        if self.keeps_weights:
            yield self.plan.request.results / "weights"
        else:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder)

    def without_paths(self, message: str) -> str:
        """The journal is published: the folders of this machine stay out of it."""
        for folder, name in ((self.plan.request.results.resolve(), "results"), (ROOT, ".")):
            message = message.replace(str(folder), name)
        return message

    def file(self, outcome: Outcome, message: str | None) -> Run:
        """The finished line, from whatever is known by now."""
        trainer, seconds = self.trainer, self.clock.seconds
        certificate = self.certificate if outcome in ("solved", "missed") else None
        reached = dict(self.watch.reached)
        if certificate is not None:
            if certificate.heldout_problems:
                reached["heldout"] = None if certificate.heldout_errors else seconds["train"]
            reached["solved"] = None if certificate.errors else seconds["train"]
        found: dict[str, Any] = (
            self.peak_memory()
            | self.found
            | {
                "outcome": outcome,
                "message": message and self.without_paths(message),
                "seconds": Seconds.model_validate({**seconds, "total": self.clock.total}),
                "clock_resolution_seconds": self.clock.resolution_seconds,
                "display_seconds": None if seconds["train"] is None else self.display.processor_seconds,
                "checks": self.watch.checks,
                "reached": reached,
                "certificate": certificate,
                "machine": self.machine(),
                "data_sha256": index_sets_sha256(self.plan.track),
            }
        )
        if trainer is not None:
            found["steps"], found["examples"] = trainer.steps, trainer.examples
            found["train_flops"] = trainer.steps * trainer.step_flops
            found["parameters"] = sum(weight.numel() for weight in trainer.model.parameters())
        if self.plan.device.type == "cuda":
            with contextlib.suppress(RuntimeError):  # of a GPU that has failed
                found["hardware"] = hardware_record(self.plan.device)  # again: clocks and throttling under load
        return self.lost.model_copy(update=found)

    def machine(self) -> Machine:
        """The machine with what was heard of others on it."""
        if self.during is None:
            return self.lost.machine.with_reasons(self.before.reasons)
        seen = {"others_before": self.before.others, "others_train": self.during.others}
        if self.lost.machine.clean is None and None not in seen.values():
            seen["clean"] = True
        reasons = [*self.before.reasons, *self.during.reasons]
        return self.lost.machine.model_copy(update=seen).with_reasons(reasons)

    def peak_memory(self) -> dict[str, int | None]:
        on_device = peak_device_memory_bytes(self.plan.device)
        return {"peak_memory_bytes": peak_memory_bytes(), "peak_device_memory_bytes": on_device}


def classify_exception(problem: BaseException) -> tuple[Outcome, str]:
    """The outcome that an exception stands for, and one line about it."""
    line = (str(problem).splitlines() or [""])[0]
    match problem:
        case Timeout():
            return "timeout", line
        case Diverged():
            return "diverged", line
        case Pruned():
            return "pruned", line
        case KeyboardInterrupt():
            return "interrupted", line or "SIGINT"
        case MemoryError() | torch.OutOfMemoryError():
            return "error", f"out of memory: {line}"
        case RuntimeError() if "can't allocate memory" in line:  # how torch's CPU allocator says it
            return "error", f"out of memory: {line}"
    traceback.print_exception(problem)
    return "error", f"{type(problem).__name__}: {line}"


def lost_run(plan: AttemptPlan) -> Run:
    """The line for an attempt that never comes back: all that is known before it begins."""
    hardware, software = hardware_record(plan.device), software_record()
    commit, dirty = commit_and_dirty()
    known = {
        "run_id": new_id(plan.config),
        "batch": plan.batch,
        "track": plan.track.name,
        "config": plan.config,
        "settings": plan.settings_dict,
        "config_hash": plan.config_hash,
        "seed": plan.seed,
        "outcome": "lost",
        "message": "the process ended without a word",
        "note": plan.request.note,
        "device": plan.device.type,
        "precision": plan.settings.precision,
        "compiled": plan.settings.compile,
        "threads": plan.settings.threads,
        "processes": plan.world.size,
        "seconds": dict.fromkeys((*PHASES, "total")),
        "checks": [],
        "reached": {},
        "machine": Machine(
            class_=machine_class(hardware, software, plan.settings.threads, plan.world.size),
            clean=False if plan.request.shared else None,
            reasons=["ran without the device's lock (--shared)"] if plan.request.shared else [],
        ),
        "hardware": hardware,
        "software": software,
        "source_sha256": source_sha256(),
        "harness_sha256": harness_sha256(),
        "commit": commit,
        "dirty": dirty,
        "search": plan.search,
        "started_at": datetime.now(UTC),
    }
    names = (field.alias or name for name, field in Run.model_fields.items() if name != "schema_")
    return Run.model_validate(dict.fromkeys(names) | known)


# -----------------------------------------------------------------------------
# the command


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits until the device has nothing left to do."""
    match device.type:
        case "cuda":
            return lambda: torch.cuda.synchronize(device)
        case "mps":
            return torch.mps.synchronize
    return lambda: None


def timed_attempt(plan: AttemptPlan, build: Build, clock: Clock) -> Run:
    """Take the device, leave a start mark, perform the attempt, file the run, show how it went.

    Raises:
        WrongRequest: the results folder cannot be written to.
        OSError: it could at the start, and cannot any more.
        KeyboardInterrupt: while waiting for the device.
    """
    journal = Journal(plan.request.results)
    with contextlib.ExitStack() as stack:
        lookout = NoiseMonitor(plan.device, distributed.join(plan.world, plan.device))
        with clock.off():
            stack.enter_context(device_turn(plan))
            before = lookout.observe(QUIET_SECONDS)
            distributed.barrier()  # the others have theirs
        stack.enter_context(empty_compile_caches(plan))
        clock.synchronize = synchronizer(plan.device)
        lost, mark = lost_run(plan), None
        if plan.request.journal:
            with reject_unwritable(plan.request.results):
                journal.recover()
                mark = stack.enter_context(journal.attempt(lost))
        attempt = Attempt(plan, lost, clock, lookout, before)
        try:
            attempt.perform(build)
            outcome, message = ("missed" if attempt.certificate.errors else "solved"), None
        except (Exception, KeyboardInterrupt) as problem:
            ignore_interrupts()  # torchrun stops a process that has just failed because another one died
            outcome, message = classify_exception(problem)
            if plan.world.size > 1:  # the device waits for processes that are gone
                clock.synchronize = lambda: None
        finally:
            ignore_interrupts()  # what is left takes a moment, and must be filed
            clock.stop()
            attempt.display.close()
        if outcome in ("solved", "missed"):
            try:
                attempt.look_back()
            except Exception:  # what is not known by now stays null
                traceback.print_exc()
        run = attempt.file(outcome, message)
        if plan.batch is not None:
            mark.write(run)  # the command that started this batch files it, with what it knows
            return run
        if mark is not None:
            mark.file(run)
    standing = "not journalled"
    if plan.request.journal:
        from bench.report import leaderboard  # after the clock: rendering is nobody's seconds

        standing = leaderboard.update(plan.request.results, run)
    show_summary(run, attempt.sentences, standing)
    return run
