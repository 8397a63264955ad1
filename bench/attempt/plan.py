"""The plan of an attempt: its command line, with everything resolved that depends on the machine."""

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bench.attempt.initial_weights import InitialWeights, check_fits, find_initial_weights, with_ids
from bench.attempt.interface import Build, Start, Trainer
from bench.attempt.memory import check_memory, estimate_memory_bytes
from bench.attempt.request import Request, Settings, check_settings_only, read_command_line
from bench.config import TRACK_SETTINGS, flat_settings
from bench.distributed import World, read_world
from bench.errors import UnavailableHere, UsageError
from bench.judge.verdict import start_values, started_track
from bench.machine.compilers import compiler_problem, torch_compile_problem
from bench.machine.cpu import default_threads, usable_cores
from bench.machine.device_lock import check_device_lock
from bench.machine.devices import pick_device
from bench.machine.memory import free_device_memory_bytes
from bench.machine.policy import NO_KERNEL, Choice, CompileProblem, pick_precision_and_kernel
from bench.processes import BATCH_VARIABLE
from bench.provenance import config_hash, first_seed, source_sha256
from bench.storage.schema import Batch
from bench.storage.weights_file import read_file, with_vocabulary
from data import Track, controlled, get_track

COMPILED: set[str] = set()  # precisions in which this process has compiled a C kernel


@dataclasses.dataclass(frozen=True)
class AttemptPlan:
    """One attempt, or a batch of them, that this machine can run."""

    request: Request
    settings: Settings
    config: str  # the resolved name
    overrides: dict[str, Any]  # settings that the command line changed
    track: Track
    device: torch.device
    dtype: torch.dtype  # of the matrix products
    choice: Choice  # of precision and kernel, with the reasons
    seed: int
    batch: Batch | None  # to which this attempt belongs
    search: dict[str, Any] | None  # that found the config, with its cost
    world: World  # rank and number of the processes that train together
    estimated_memory_bytes: int | None  # the peak of all processes; None for trainers of older records
    memory_warning: str | None  # if the memory may not be enough
    initial_weights: InitialWeights | None  # with the setting `init_from`

    @property
    def settings_dict(self) -> dict[str, Any]:
        return flat_settings(self.settings)

    @property
    def config_hash(self) -> str:
        return config_hash(self.settings_dict)

    @property
    def remark(self) -> str:
        """The device, the threads, the precision and the kernel, and why; the summary says why there is no C kernel."""
        choice = self.choice if self.no_kernel is None else dataclasses.replace(self.choice, kernel_reason=NO_KERNEL)
        processes = f"{self.world.size} processes, " if self.world.size > 1 else ""
        return f"{self.device.type}, {processes}{self.settings.threads} threads, {choice}"

    @property
    def no_kernel(self) -> str | None:
        """Why an attempt on a CPU does without the C kernel, although the config leaves the choice to the machine."""
        reason = self.choice.kernel_reason
        has_none = self.device.type == "cpu" and reason.startswith(NO_KERNEL)
        return reason.removeprefix(f"{NO_KERNEL}: ") if has_none else None

    def trainer(self, build: Build) -> Trainer:
        """A trainer for this attempt."""
        return build(self.settings, self.track, self.device, self.dtype)

    def start(self, values: Mapping[str, Any] | None = None) -> Start:
        """What training begins with, from the values of the judge's message; by default for the seed of the attempt.

        Weights of an earlier run get the ids of this one.
        """
        values = start_values(self.track, self.seed) if values is None else values
        track, tensors = started_track(self.track, values), None
        if self.initial_weights is not None:
            metadata, tensors = read_file(self.initial_weights.path)
            tensors = with_ids(
                tensors, with_vocabulary(self.track, metadata["vocabulary"]).vocabulary, track.vocabulary
            )
        return Start(track, values["seed"], tensors)


def make_plan(
    settings_type: type, arguments: Sequence[str], description: str, settings_only: bool = False
) -> AttemptPlan:
    """Read the command line and the config, and resolve what depends on the machine.

    With `settings_only`, the command line may hold a config and settings, but no other option.

    Raises:
        UsageError: the request is wrong; UnavailableHere if another machine could run it.
    """
    world = read_world()
    check_temporary_folder()
    if settings_only:
        check_settings_only(settings_type, arguments)
    try:
        command_line = read_command_line(settings_type, arguments, description, lambda name: pick_device(name).type)
        request, settings = command_line.request, command_line.settings
        if world.size > 1:
            check_distributed(request, settings)
            settings = settings.shared_among(world.size)
        device = world.device(pick_device(settings.device))
        problem_of_kernel = compile_problem(settings, is_only_planned=request.plan or settings_only)
        choice = pick_precision_and_kernel(
            settings.precision, settings.kernel, device.type, settings.kernel_problem, problem_of_kernel
        )
        if choice.precision == "float16" and not getattr(settings, "grad_scaler", True):
            remark = f"{choice.precision_reason}; without grad_scaler small gradients are 0"
            choice = dataclasses.replace(choice, precision_reason=remark)
    except ValueError as problem:
        raise UsageError(str(problem)) from None
    if settings.compile and (reason := torch_compile_problem(device.type)):
        raise UnavailableHere(f"--compile: {reason}; or run with --no-compile")
    if not request.shared:
        check_device_lock(device)  # now, as a batch would file this refusal once for each attempt
    cores = len(usable_cores()) or 1
    if settings.threads > cores:
        raise UsageError(f"--threads {settings.threads}: there are {cores} cores; 0 uses all of them")
    threads = settings.threads or max(1, default_threads() // world.local_size)
    settings = dataclasses.replace(
        settings, device=device.type, precision=choice.precision, kernel=choice.kernel, threads=threads
    )
    initial_weights = resolve_initial_weights(request, settings, settings_only)
    overrides = command_line.overrides
    if initial_weights is not None:
        named = {"init_from": initial_weights.sha256}  # a run's name or a path can mean other weights elsewhere
        settings = dataclasses.replace(settings, **named)
        overrides = {**overrides, **{key: value for key, value in named.items() if key in overrides}}
    memory = estimate_memory_bytes(settings, world.size)
    sharing = 1 if device.type == "cuda" else world.local_size  # processes that share what is free
    memory_here = None if memory is None else memory // world.size * sharing
    memory_warning = check_memory(memory_here, free_device_memory_bytes(device))
    seed = request.seed
    try:
        track_settings = getattr(settings, TRACK_SETTINGS, {})  # trainers of older records have none
        track = get_track(settings.track, **track_settings)
        if found := track.prepare():
            settings = dataclasses.replace(settings, **{TRACK_SETTINGS: track_settings | dict(found)})
        if seed is None:
            seed = first_seed(config_hash(flat_settings(settings)), source_sha256())
        track = controlled(track, settings.control, seed)
    except ValueError as problem:
        raise UsageError(str(problem)) from None
    if initial_weights is not None:
        check_fits(initial_weights, settings, track)
    return AttemptPlan(
        request=request,
        settings=settings,
        config=command_line.config,
        overrides=overrides,
        track=track,
        device=device,
        dtype=getattr(torch, choice.precision),
        choice=choice,
        seed=seed,
        batch=Batch.model_validate_json(os.environ[BATCH_VARIABLE]) if BATCH_VARIABLE in os.environ else None,
        search=command_line.search,
        world=world,
        estimated_memory_bytes=memory,
        memory_warning=memory_warning,
        initial_weights=initial_weights,
    )


def resolve_initial_weights(request: Request, settings: Any, settings_only: bool) -> InitialWeights | None:
    """The weights of the setting `init_from`, if it is used; raises UsageError where there are none, or none can be."""
    reference = getattr(settings, "init_from", "")  # trainers of older records have none
    if not reference:
        return None
    if settings_only:
        raise UsageError("init_from: only a single attempt or a batch can continue a run; leave it out")
    if request.attempts is not None and reference == "latest":
        raise UsageError("init_from: each attempt would continue the one before it; name the run in place of latest")
    return find_initial_weights(reference, request.results)


def check_temporary_folder() -> None:
    """Raises UsageError where there is no folder for temporary files, which every attempt needs."""
    try:
        tempfile.gettempdir()
    except OSError:
        raise UsageError("no folder for temporary files can be written to; set TMPDIR to one that can") from None


def compile_problem(settings: Settings, is_only_planned: bool) -> CompileProblem:
    """A function that compiles the C kernel in a precision, runs it, and returns the problem, None without one.

    It is the kernel of the attempt, so that nothing is compiled twice. To plan many attempts, one kernel in each
    precision is enough.
    """

    def problem_of_kernel(precision: str) -> str | None:
        if is_only_planned and precision in COMPILED:
            return None
        try:
            settings.kernel_compilation(precision).library()
        except RuntimeError as problem:
            return str(problem)
        COMPILED.add(precision)
        return None

    if hasattr(settings, "kernel_compilation"):
        return problem_of_kernel
    return lambda precision: compiler_problem("CC")  # trainers of older records compile in the warm-up


def compiler_seconds(settings: Settings) -> float | None:
    """The seconds of compiling the C kernel of a plan; None if they are not known."""
    if not hasattr(settings, "kernel_compilation"):  # a trainer of an older record
        return None
    return settings.kernel_compilation(settings.precision).seconds


def check_distributed(request: Request, settings: Settings) -> None:
    """Raises UsageError: the request is not possible with several processes."""
    if request.attempts is not None:
        raise UsageError("--attempts: not available with torchrun; start torchrun once for each attempt")
    if request.probe is not None:
        raise UsageError("--probe: not available with torchrun, because it probes a single process")
    if settings.control != "none":
        raise UsageError("--control: not available with torchrun, because it tests a single process")
