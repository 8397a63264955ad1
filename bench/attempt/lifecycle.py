"""The phases of one attempt in order, from the built plan to the filed run."""

import contextlib
import dataclasses
import functools
import gc
import signal
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench import distributed
from bench.attempt import before_torch
from bench.attempt.filing import describe_filing
from bench.attempt.interface import Build, Diverged, Pruned, Start, Timeout, Trainer, TrainingMonitor
from bench.attempt.plan import AttemptPlan, compiler_seconds
from bench.attempt.progress import Display
from bench.attempt.resources import device_turn, empty_compile_caches
from bench.attempt.worker import gather_resource_use
from bench.cli import ignore_interrupts, reject_unwritable
from bench.clock import PHASES, Clock
from bench.entry import described, format_traceback, save_traceback
from bench.errors import describe_os_error, is_out_of_memory
from bench.judge.protocol import Channel, ProtocolError
from bench.judge.verdict import Refused, judge_weights, start_values
from bench.machine.energy import EnergyMeter
from bench.machine.hardware import hardware_record, machine_class, software_record
from bench.machine.memory import peak_device_memory_bytes, peak_memory_bytes
from bench.machine.noise import CounterReading, Noise, NoiseMonitor
from bench.machine.peaks import launches_of, machine_peak
from bench.provenance import ROOT, commit_and_dirty, harness_sha256, source_sha256
from bench.report.summary import show_summary
from bench.stats.learning_curves import reached_steps, reached_with_certificate, thinned_checks
from bench.storage import weights
from bench.storage.journal import Journal
from bench.storage.schema import (
    AUDIT,
    EXPLORATION_COMMANDS,
    Certificate,
    Check,
    Machine,
    Outcome,
    Run,
    Seconds,
    new_id,
)
from bench.streams import print_error
from data import index_sets_sha256

WAITED_SECONDS = 0.1  # longer waits for the device's lock were for another attempt


class Attempt:
    """One attempt in progress. `finished_run` makes a run of the results so far, whatever has gone wrong."""

    def __init__(
        self,
        plan: AttemptPlan,
        lost: Run,
        clock: Clock,
        noise_monitor: NoiseMonitor,
        start: CounterReading,
        judge: Channel | None = None,
    ) -> None:
        """`lost` is the run that is filed if the attempt never ends; the noise is measured from `start` on.

        With the channel to a `judge`, that process says what training begins with, and gives the verdict.
        """
        self.plan, self.lost, self.clock = plan, lost, clock
        self.noise_monitor, self.start = noise_monitor, start
        self.noise_before: Noise | None = None
        self.noise_during_train: Noise | None = None
        self.judge = judge
        label = lost.label if judge is not None else f"{lost.label} seed {plan.seed}"
        self.display = Display(label, max_seconds=plan.settings.max_seconds)
        send_check = None if judge is None else self.send_check
        self.monitor = TrainingMonitor(clock, self.display, plan.settings.max_seconds, send_check)
        if judge is not None and hasattr(signal, "SIGUSR1"):  # by which the judge prunes an attempt
            signal.signal(signal.SIGUSR1, lambda *_: setattr(self.monitor, "is_pruned", True))
        self.start_values: dict[str, Any] = {}  # of the judge's message
        self.trainer: Trainer | None = None
        self.certificate: Certificate | None = None
        self.mistakes: list[str] = []  # sentences
        self.saved_multiple = 0  # of `checkpoint_every`, the last one at which weights were saved
        self.results: dict[str, Any] = {}  # values of the run, by key
        self.traceback: str | None = None  # of the latest failure of the program, for the judge

    def send_check(self, check: Check) -> None:
        if self.judge is not None:
            self.judge.send("check", **check.model_dump(mode="json"))

    def run(self, build: Build) -> Outcome:
        """All phases after `import`; failures are raised."""
        self.display.phase("setup", self.plan.remark)
        trainer = self.trainer = self.plan.trainer(build)
        self.display.phase("warmup")
        self.clock.enter("warmup")
        trainer.warm_up()
        self.train(trainer)
        outcome, self.certificate = self.certify(trainer)
        return outcome

    def train(self, trainer: Trainer) -> None:
        self.display.phase("train")
        self.monitor.count_steps = lambda: trainer.steps
        is_saving = self.judge is not None or (self.is_filed and self.lost.command != AUDIT)
        if self.plan.settings_dict.get("checkpoint_every") and is_saving:
            self.monitor.save_weights = functools.partial(self.save_checkpoint, trainer)
        meter = EnergyMeter(self.plan.device)
        self.noise_before = self.noise_monitor.since(self.start, "before training")
        noise, energy = self.noise_monitor.reading(), meter.reading()
        start = self.receive_start()
        self.clock.enter("train")
        distributed.barrier()
        try:
            try:
                trainer.train(self.monitor, start)
                self.monitor.tick()
            except Timeout:  # a control is certified even so: it shows what that much training leads to
                if self.plan.settings.control == "none":
                    raise
            self.clock.enter("certify")
        finally:  # also after a failure
            self.results["energy_joules"], self.results["energy_method"] = meter.since(energy)
            self.noise_during_train = self.noise_monitor.since(noise, "during train")

    def receive_start(self) -> Start:
        """What training begins with: from the judge in another process, or by the same function from this one."""
        plan = self.plan
        if self.judge is None:
            self.start_values = start_values(plan.track, plan.seed)
        else:
            self.judge.send("ready")
            self.start_values = self.judge.expect("start").values
            self.results["seed"] = self.start_values["seed"]
        return plan.start(self.start_values)

    def save_checkpoint(self, trainer: Trainer, step: int) -> None:
        """Save the weights as weights/RUN-step-STEP.safetensors, or hand them to the judge; both take time.

        Called at each check; saves at the first one at or after each multiple of `checkpoint_every` steps. Checks of
        later rounds need not be at multiples.
        """
        multiple = step // self.plan.settings_dict["checkpoint_every"]
        if multiple > self.saved_multiple:
            from bench.storage.results import checkpoint_path  # imported on use: most runs save no checkpoint

            self.saved_multiple = multiple
            with tempfile.TemporaryDirectory() as temporary:
                results = self.plan.request.results if self.judge is None else Path(temporary)
                path = checkpoint_path(self.lost.run_id, step, results)
                weights.save(path, trainer.model, trainer.track, self.plan.settings_dict)
                if self.judge is not None:
                    self.judge.send("checkpoint", path.read_bytes(), step=step)

    @property
    def is_filed(self) -> bool:
        """Whether the weights are kept; a matrix or a search makes thousands of attempts and keeps none."""
        return self.plan.request.journal and self.lost.command not in EXPLORATION_COMMANDS

    def certify(self, trainer: Trainer) -> tuple[Outcome, Certificate]:
        """Save the weights, and let the judge certify the saved file."""
        plan = self.plan
        self.display.phase("certify")
        with tempfile.TemporaryDirectory() as temporary:
            name = f"weights/{self.lost.run_id}.safetensors"
            is_kept = self.is_filed and self.judge is None
            path = (plan.request.results if is_kept else Path(temporary)) / name
            digest = weights.save(path, trainer.model, trainer.track, plan.settings_dict)
            initial = None if plan.initial_weights is not None else self.monitor.initial_weights_sha256 or "none"
            if self.judge is not None:
                self.judge.send("trained", path.read_bytes(), initial_sha256=initial)
                values = self.judge.expect("certified").values
                self.clock.stop()
                self.mistakes = values["mistakes"]
                return values["outcome"], Certificate.model_validate(values["certificate"])
            if is_kept:
                self.results |= {"weights": name, "weights_sha256": digest}
            torch.set_num_threads(plan.settings.threads)  # kernel.c has left one to torch
            report = self.display.certified
            verdict = judge_weights(path, initial, plan.track, self.start_values, plan.device, report)
        self.clock.stop()
        self.mistakes = verdict.mistakes
        return verdict.outcome, verdict.certificate

    def measure_afterwards(self) -> None:
        """Add resource use, the limits of the machine and the launches of a step: off the clock, after the verdict.

        A judge measures the limits for itself.
        """
        plan, trainer, noise = self.plan, self.trainer, self.noise_during_train
        if trainer is None or noise is None:
            return
        resources, reasons = gather_resource_use(plan, self.results["energy_joules"], noise.reasons)
        self.results |= resources
        self.noise_during_train = dataclasses.replace(noise, reasons=reasons)
        if plan.world.size > 1:
            return  # a single step would wait for the other processes
        if self.judge is None:
            peak = machine_peak(self.lost, plan.request.results, is_kept=plan.request.journal)
            self.results["matmul_flops_per_second"] = peak.matmul_flops_per_second
            self.results["launch_seconds"] = peak.launch_seconds
        step = getattr(trainer, "step", None)  # trainers of older records may have none
        if trainer.model.kernel is not None:
            step = functools.partial(trainer.take_steps, 1)
        if step is not None and not plan.settings.compile:  # the kernels of torch.compile are not torch operations
            self.results["step_launches"] = launches_of(step)

    def keep_traceback(self, problem: BaseException) -> str:
        """Save a traceback, or keep it for the judge; says where it is."""
        text = format_traceback(problem)
        if self.judge is None:
            return save_traceback(text, self.plan.request.results)
        self.traceback = text
        return "the judge saves the traceback"

    def report(self, run: Run) -> None:
        """Send what the attempt knows of its run to the judge, which ends the protocol."""
        assert self.judge is not None
        with contextlib.suppress(ProtocolError):  # the judge has given the attempt up
            self.judge.send("report", traceback=self.traceback, **run.model_dump(mode="json"))

    def finished_run(self, outcome: Outcome, message: str | None) -> Run:
        """The run to file, from the results so far."""
        trainer, seconds = self.trainer, self.clock.seconds
        certificate = self.certificate if outcome in ("solved", "missed") else None
        if message is not None:  # the journal is published, so it has no absolute paths
            message = message.replace(str(self.plan.request.results.resolve()), "results").replace(str(ROOT), ".")
        update: dict[str, Any] = {
            "peak_memory_bytes": peak_memory_bytes(),
            "peak_device_memory_bytes": peak_device_memory_bytes(self.plan.device),
            **self.results,
            "outcome": outcome,
            "message": message,
            "seconds": Seconds.model_validate({**seconds, "total": self.clock.total}),
            "compiler_seconds": compiler_seconds(self.plan.settings) if trainer and trainer.model.kernel else None,
            "clock_resolution_seconds": self.clock.resolution_seconds,
            "display_seconds": None if seconds["train"] is None else self.display.processor_seconds,
            "checks": thinned_checks(self.monitor.checks, self.monitor.reached),
            "reached": reached_with_certificate(self.monitor.reached, certificate, seconds["train"]),
            "reached_steps": reached_steps(self.monitor.checks),
            "initial_weights_sha256": self.monitor.initial_weights_sha256,
            "certificate": certificate,
            "machine": self.machine(),
            "data_sha256": index_sets_sha256(self.plan.track),
        }
        if trainer is not None:
            update |= {
                "steps": trainer.steps,
                "examples": trainer.examples,
                "train_flops": trainer.steps * trainer.step_flops,
                "parameters": sum(weight.numel() for weight in trainer.model.parameters()),
            }
        if self.plan.device.type == "cuda":
            with contextlib.suppress(RuntimeError):  # the GPU has failed
                update["hardware"] = hardware_record(self.plan.device)  # again, for clocks and throttling under load
        return self.lost.model_copy(update=update)

    def machine(self) -> Machine:
        """The machine with the measured noise."""
        machine, before, during = self.lost.machine, self.noise_before, self.noise_during_train
        if before is None:
            return machine
        if during is None:
            return machine.with_reasons(before.reasons)
        update: dict[str, Any] = {"others_before": before.others, "others_train": during.others}
        if machine.clean is None and None not in update.values():
            update["clean"] = True
        return machine.model_copy(update=update).with_reasons([*before.reasons, *during.reasons])


def classify_exception(problem: BaseException, keep_traceback: Callable[[BaseException], str]) -> tuple[Outcome, str]:
    """The outcome of an attempt that ended with an exception, and a message of one line; prints where its trace is."""
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
        case Refused() | ProtocolError():
            return "error", line
    if is_out_of_memory(problem):
        return "error", f"out of memory: {line}"
    print_error(keep_traceback(problem))
    return "error", f"{type(problem).__name__}: {line}"


def lost_run(plan: AttemptPlan, has_provenance: bool = True) -> Run:
    """The run that is filed if the attempt never ends: everything known before it begins.

    Without `has_provenance` the hashes are empty, which saves time.
    """
    hardware, software = hardware_record(plan.device), software_record()
    commit, dirty = commit_and_dirty() if has_provenance else (None, None)
    values: dict[str, Any] = {
        "run_id": new_id(plan.config),
        "batch": plan.batch,
        "judge": "self",
        "altered": False,
        "track": plan.track.name,
        "config": plan.config,
        "settings": plan.settings_dict,
        "estimated_memory_bytes": plan.estimated_memory_bytes,
        "overrides": plan.overrides,
        "init_from": None if plan.initial_weights is None else plan.initial_weights.run,
        "config_hash": plan.config_hash,
        "seed": plan.seed,
        "outcome": "lost",
        "message": "the process ended without filing a result",
        "note": plan.request.note,
        "device": plan.device.type,
        "precision": plan.settings.precision,
        "compiled": plan.settings.compile,
        "threads": plan.settings.threads,
        "processes": plan.world.size,
        "tokenizer_seconds": plan.track.tokenizer_seconds,
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
        "source_sha256": source_sha256() if has_provenance else "",
        "harness_sha256": harness_sha256() if has_provenance else "",
        "commit": commit,
        "dirty": dirty,
        "search": plan.search,
        "started_at": datetime.now(UTC),
    }
    names = (field.alias or name for name, field in Run.model_fields.items() if name != "schema_")
    return Run.model_validate(dict.fromkeys(names) | values)


def timed_attempt(plan: AttemptPlan, build: Build, clock: Clock, judge: Channel | None = None) -> Run:
    """Lock the device, write a start mark, run the attempt, file the run, and show the summary.

    A `judge` does all of that but to run the attempt, whose run is sent to it.

    Raises UsageError or, after the start, OSError if the results folder is not writable.
    """
    journal = Journal(plan.request.results)
    with contextlib.ExitStack() as stack:
        noise_monitor = NoiseMonitor(plan.device, distributed.join(plan.world, plan.device))
        with clock.off():
            if judge is None:  # else the judge holds the device
                stack.enter_context(device_turn(plan))
            distributed.barrier()  # until all processes hold their device
        start = before_torch.counters_at_start
        if start is None or clock.off_seconds > WAITED_SECONDS or plan.world.size > 1:
            start = noise_monitor.reading()
        stack.enter_context(empty_compile_caches(plan))
        if plan.device.type == "cuda":
            clock.synchronize = functools.partial(torch.cuda.synchronize, plan.device)
        elif plan.device.type == "mps":
            clock.synchronize = torch.mps.synchronize
        lost, mark = lost_run(plan, has_provenance=judge is None), None
        if plan.request.journal and judge is None:
            with reject_unwritable(plan.request.results):
                journal.recover()
                mark = stack.enter_context(journal.attempt(lost))
        attempt = Attempt(plan, lost, clock, noise_monitor, start, judge)
        outcome, message = run_to_outcome(attempt, build)
        if outcome in ("solved", "missed"):
            try:
                attempt.measure_afterwards()
            except Exception as problem:  # the values that were not measured stay null
                trace = attempt.keep_traceback(problem)
                print_error(f"the cost of a step was not measured: {described(problem)}; {trace}")
        run = attempt.finished_run(outcome, message)
        if judge is not None:
            attempt.report(run)
            return run
        if mark is not None and plan.batch is not None:
            mark.finish(run)  # the command that started the attempt completes and files it
            return run
        gc.disable()  # there is less garbage from here on than it would cost to look for it
        run = run.model_copy(update={"seconds": run.seconds.model_copy(update={"wall": clock.wall()})})
        try:
            if mark is not None:
                mark.file(run)
        except OSError as problem:  # the verdict is shown all the same
            show_summary(run, attempt.mistakes, f"not filed: {describe_os_error(problem)}", no_kernel=plan.no_kernel)
            raise
        standing = describe_filing(plan, run)
    show_summary(run, attempt.mistakes, standing, no_kernel=plan.no_kernel)
    return run


def run_to_outcome(attempt: Attempt, build: Build) -> tuple[Outcome, str | None]:
    """Run an attempt and stop its clock; the outcome, and a message if it failed. Ignores interrupts from its end."""
    try:
        return attempt.run(build), None
    except (Exception, KeyboardInterrupt) as problem:
        ignore_interrupts()  # torchrun also stops a process that fails because another process has died
        if attempt.plan.world.size > 1:  # synchronising would wait for processes that have ended
            attempt.clock.synchronize = lambda: None
        return classify_exception(problem, attempt.keep_traceback)
    finally:
        ignore_interrupts()  # the run must still be filed
        attempt.clock.stop()
        attempt.display.close()
